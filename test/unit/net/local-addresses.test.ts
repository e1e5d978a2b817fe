import { expect, test } from 'vitest';
import {
  advertisedAddresses,
  localAddresses,
  watchLocalAddresses,
} from '../../../daemon/net/local-addresses.ts';
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

test('loopback and link-local addresses are no addresses for peers; an explicit one stands alone', () => {
  for (const { address } of localAddresses())
    expect(address).not.toMatch(/^(127\.|::1$|169\.254\.|fe80:)/);
  expect(advertisedAddresses(7440, '10.0.0.5')).toEqual(['/ip4/10.0.0.5/tcp/7440']);
  expect(advertisedAddresses(7440, 'fd00::5')).toEqual(['/ip6/fd00::5/tcp/7440']);
});
