import { Scheduler } from '../sim/scheduler.ts';
import { SimHost } from '../sim/sim-host.ts';
import type { Life } from '../sim/sim-host.ts';
import { SimRandom } from '../sim/sim-random.ts';
import { defaultStorage, SimDisk, SimStorage } from '../sim/sim-storage.ts';
import { Trace } from '../sim/trace.ts';
import { describeStorage } from './storage.ts';
import type { StorageHarness } from './storage.ts';

/** Damages what the suite asks for instead of what the seed says. */
class ChosenRandom extends SimRandom {
  chosen = 0;

  override index(): number {
    return this.chosen;
  }
}

describeStorage('simulated disk', makeHarness);

async function makeHarness(): Promise<StorageHarness> {
  const scheduler = new Scheduler();
  const random = new ChosenRandom(1);
  const disk = new SimDisk(random, { ...defaultStorage, tornChance: 1 });
  const host = new SimHost(0, '00'.repeat(32) as never, scheduler);
  const settle = async (): Promise<void> => {
    while (scheduler.step(scheduler.nowMs + 10_000));
  };
  const storageOf = (life: Life): SimStorage =>
    new SimStorage({ disk, host, life, scheduler, trace: new Trace() });
  return {
    open: async () => {
      await settle();
      host.end();
      return storageOf(host.begin());
    },
    settle,
    tearTail: async (log) => {
      random.chosen = 0;
      storageOf(host.life ?? host.begin()).append(log, new Uint8Array(9), () => {});
      host.end();
      disk.crash();
    },
    damageRecord: async (log, index) => {
      random.chosen = index;
      disk.flipByte(`log/${log}`);
    },
    damageFile: async (name) => {
      random.chosen = 0;
      disk.flipByte(`file/${name}`);
    },
    setFull: async (isFull) => {
      disk.isFull = isFull;
    },
    close: async () => {},
  };
}
