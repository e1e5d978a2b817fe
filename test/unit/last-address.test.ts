import { expect, test } from 'vitest';
import { seal } from '../../crdt/records.ts';
import { systemCrypto } from '../../daemon/crypto.ts';
import { lastAddressOf } from '../../daemon/last-address.ts';
import { ClusterKit } from '../cluster-kit.ts';

test('a host finds its own last address among the facts of all members [trellis:R1]', () => {
  const kit = new ClusterKit(systemCrypto);
  const [first, second] = [kit.host(0), kit.host(1)];
  const fact = (host: typeof first, body: unknown) =>
    seal(
      {
        kind: 'fact',
        v: 1,
        clusterId: kit.clusterId,
        owner: host.keys.publicKey,
        topic: 'host',
        incarnation: 1,
        seq: 1,
        at: 0,
        body,
      },
      (bytes) => host.keys.sign(bytes),
    );
  const facts = [
    fact(first, { advertise: '10.0.0.1' }),
    fact(second, { advertise: '10.0.0.2' }),
    new Uint8Array([1, 2, 3]),
  ];
  expect(lastAddressOf(second.node, facts)).toBe('10.0.0.2');
  expect(lastAddressOf(second.node, facts.slice(0, 1))).toBe(null);
  expect(lastAddressOf(second.node, [fact(second, null)])).toBe(null);
});
