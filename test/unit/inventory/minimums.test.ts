import { expect, test } from 'vitest';
import { hostMinimums, isOlder, shortfalls } from '../../../crdt/minimums.ts';
import type { InventoryFact } from '../../../crdt/model.ts';

const ample = {
  cpu: { count: 4 },
  memory: { totalBytes: 8 * 2 ** 30 },
  stateDisk: { mount: '/', totalBytes: 100 * 2 ** 30, freeBytes: 50 * 2 ** 30 },
  kernel: { release: '6.1.0-13-amd64' },
  engine: {
    state: 'ok',
    endpoint: 'unix:///run/docker.sock',
    version: '20.10.24+dfsg1',
    apiVersion: '1.41',
  },
} as unknown as InventoryFact;

test('an ample host has no shortfall', () => {
  expect(shortfalls(ample)).toEqual([]);
});

test('every shortfall is listed at once [trellis:H10 H14]', () => {
  const poor = {
    cpu: { count: 0 },
    memory: { totalBytes: 128 << 20 },
    stateDisk: { mount: '/var', totalBytes: 1, freeBytes: 100 << 20 },
    kernel: { release: '3.10.0-1160' },
    engine: { state: 'ok', endpoint: 'x', version: '19.03.1', apiVersion: '1.40' },
  } as unknown as InventoryFact;
  expect(shortfalls(poor).map(({ what }) => what)).toEqual([
    'cpu',
    'memory',
    'disk',
    'kernel',
    'engine',
  ]);
  expect(shortfalls(poor)[1]?.text).toBe('memory: have 128 MiB, need at least 440 MiB');
  expect(shortfalls(poor)[2]?.text).toBe('disk: have 100 MiB free at /var, need at least 1024 MiB');
});

test.each(['absent', 'hung'] as const)('an engine that is %s is a shortfall', (state) => {
  const fact = { ...ample, engine: { ...ample.engine, state, version: null } };
  expect(shortfalls(fact).map(({ what }) => what)).toEqual(['engine']);
});

test('exactly the minimum is enough', () => {
  const edge = {
    ...ample,
    cpu: { ...ample.cpu, count: hostMinimums.cpuCount },
    memory: { ...ample.memory, totalBytes: hostMinimums.memoryBytes },
    kernel: { ...ample.kernel, release: `${hostMinimums.kernel}.0` },
    engine: { ...ample.engine, version: `${hostMinimums.engine}.0` },
  };
  expect(shortfalls(edge)).toEqual([]);
});

test.each([
  ['4.9.1', '4.19', true],
  ['4.19.0-5', '4.19', false],
  ['10.0', '9.9', false],
  ['20.9', '20.10', true],
  ['no version', '1.0', false],
])('%s older than %s: %s', (version, minimum, older) =>
  expect(isOlder(version, minimum)).toBe(older),
);
