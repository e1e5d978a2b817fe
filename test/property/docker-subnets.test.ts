import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  addressesMax,
  allocate,
  candidateSubnets,
  checkAllocation,
  formatAddress,
  formatSubnet,
  overlaps,
  parseAddress,
  parseRoutes,
  parseSubnet,
  reclaim,
} from '../../plugins/docker/subnets.ts';

const subnet = '10.213.68.0/22';
const names = fc.uniqueArray(
  fc.integer({ min: 0, max: 900 }).map((n) => `s-${n}`),
  { maxLength: 60 },
);

test('addresses are unique, inside the block and kept', () => {
  fc.assert(
    fc.property(fc.array(names, { maxLength: 6 }), (rounds) => {
      let allocation = { subnet, addresses: {} as Readonly<Record<string, string>> };
      for (const wanted of rounds) {
        const next = allocate(allocation, wanted);
        if (next === null) throw new Error('it fits');
        for (const instance of wanted) {
          expect(next.addresses[instance]).toBeDefined();
          if (allocation.addresses[instance] !== undefined)
            expect(next.addresses[instance]).toBe(allocation.addresses[instance]);
        }
        expect(checkAllocation(JSON.parse(JSON.stringify(next)))).toEqual(next);
        expect(allocate(next, wanted)).toBe(next);
        allocation = next;
      }
    }),
  );
});

test('a full table lets idle entries go, and refuses more than fits', () => {
  const full = allocate(
    { subnet, addresses: {} },
    Array.from({ length: addressesMax }, (_, i) => `old-${i}`),
  );
  expect(Object.keys(full?.addresses ?? {})).toHaveLength(addressesMax);
  const next = allocate(full ?? { subnet, addresses: {} }, ['new-0', 'old-5']);
  expect(next?.addresses['old-5']).toBe(full?.addresses['old-5']);
  expect(Object.keys(next?.addresses ?? {})).toHaveLength(addressesMax);
  expect(
    allocate(
      { subnet, addresses: {} },
      Array.from({ length: addressesMax + 1 }, (_, i) => `x-${i}`),
    ),
  ).toBeNull();
});

test('addresses of containers are taken over after the file was lost', () => {
  const before = allocate({ subnet, addresses: {} }, ['b', 'a', 'c']);
  const claims = new Map(Object.entries(before?.addresses ?? {}));
  const after = reclaim({ subnet, addresses: {} }, claims);
  expect(after.addresses).toEqual(before?.addresses);
  const bad = new Map([
    ['d', '10.213.68.1'],
    ['e', '192.168.0.5'],
    ['f', 'nonsense'],
    ['g', before?.addresses['a'] ?? ''],
  ]);
  expect(reclaim(after, bad)).toBe(after);
});

test('text and numbers agree, and overlap is what sharing an address means', () => {
  const arbSubnet = fc
    .tuple(fc.integer({ min: 0, max: 0xffff_ffff }), fc.integer({ min: 8, max: 32 }))
    .map(([base, length]) => `${formatAddress(base)}/${length}`);
  fc.assert(
    fc.property(arbSubnet, arbSubnet, (left, right) => {
      const a = parseSubnet(left);
      const b = parseSubnet(right);
      if (a === null || b === null) throw new Error('both are subnets');
      expect(parseSubnet(formatSubnet(a))).toEqual(a);
      const end = (s: typeof a): number => s.base + 2 ** (32 - s.length);
      expect(overlaps(a, b)).toBe(a.base < end(b) && b.base < end(a));
    }),
  );
  for (const bad of ['', '1.2.3/8', '1.2.3.256/8', '1.2.3.4/33', '1.2.3.4'])
    expect(parseSubnet(bad)).toBeNull();
  expect(parseAddress('1.2.3.4')).toBe(0x01020304);
});

test('candidates are distinct private blocks, and routes are read', () => {
  const candidates = candidateSubnets('7f'.repeat(16));
  expect(new Set(candidates.map(formatSubnet)).size).toBe(candidates.length);
  for (const { base } of candidates)
    expect(formatAddress(base)).toMatch(/^(10\.213|172\.16|192\.168)\./);
  const table =
    'Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\neth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\neth0\t0044D50A\t00000000\t0001\t0\t0\t0\t00FCFFFF\t0\t0\t0\n';
  expect(parseRoutes(table).map(formatSubnet)).toEqual(['10.213.68.0/22']);
});
