import { expect, test } from 'vitest';
import type { HeldGate } from '../../../daemon/lease-link.ts';
import { LeaseWorkload, type StorageControl } from '../../../daemon/lease-workload.ts';
import type { Clock } from '../../../daemon/ports.ts';

const quiet = (): void => undefined;
const log = { debug: quiet, info: quiet, warn: quiet, error: quiet } as never;
const lease = 'storage/prod/abcdefabcdefabcd';

function rig(storage: Partial<StorageControl>) {
  const gates = new Map<string, HeldGate>([[lease, { epoch: 3, mayStart: true }]]);
  const told: unknown[] = [];
  const workload = new LeaseWorkload({
    clock: { monotonicMs: () => 0 } as Clock,
    log,
    guard: {
      command: (command) => {
        told.push(command);
        return Promise.resolve({ isOk: true as const });
      },
    },
    gates: () => gates,
    onGates: quiet,
    requestReconcile: quiet,
  });
  workload.attach(null, {
    activate: () => Promise.resolve(),
    settle: () => Promise.resolve(),
    ...storage,
  });
  return { workload, gates, told };
}

const turns = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test('storage that no service follows is held as well, once its content is in place [trellis:P35]', async () => {
  const { promise, resolve } = Promise.withResolvers<void>();
  const { workload } = rig({ activate: () => promise });
  expect(workload.startable().size).toBe(0);
  resolve();
  await turns();
  expect([...workload.startable()]).toEqual([[lease, 3]]);
});

test('content that cannot be put in place gives the lease up', async () => {
  const { workload, told } = rig({ activate: () => Promise.reject(new Error('no room')) });
  await turns();
  expect(workload.startable().size).toBe(0);
  expect(told).toEqual([{ kind: 'start-failed', name: lease, epoch: 3, why: 'no room' }]);
});
