import { expect, test } from 'vitest';
import { localAddresses, watchLocalAddresses } from '../../../daemon/net/local-addresses.ts';
import type { LocalAddress } from '../../../daemon/net/local-addresses.ts';
import { eventually } from '../../await.ts';

test('[stackato:S8] a changed address is told once', async () => {
  let addresses: LocalAddress[] = [{ interface: 'eth0', address: '10.0.0.1', family: 'ip4' }];
  const told: (readonly LocalAddress[])[] = [];
  const stop = watchLocalAddresses((now) => told.push(now), { everyMs: 5, read: () => addresses });
  addresses = [{ interface: 'eth0', address: '10.0.0.9', family: 'ip4' }];
  await eventually(() => told.length === 1, { withinMs: 5_000 });
  expect(told[0]?.[0]?.address).toBe('10.0.0.9');
  stop();
});

test('loopback and link-local addresses are no addresses for peers', () => {
  for (const { address } of localAddresses())
    expect(address).not.toMatch(/^(127\.|::1$|169\.254\.|fe80:)/);
});
