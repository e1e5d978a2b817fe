/** Rows that come from the simulator. */
import { runChild } from './child.ts';
import { measureCalm, type BenchContext, type Measured, type RowFamily } from './context.ts';
import { figureOf, isWithin } from './row.ts';
import type { SimulatedEdits } from './simulation-main.ts';

export const simulationFamily: RowFamily = {
  ids: ['edit-visible-100'],
  run: async (context) => {
    context.report('edit-visible-100', await measureCalm(() => editVisible100(context)));
  },
};

const limitMs = 1_000;

async function editVisible100(context: BenchContext): Promise<Measured> {
  const edits = context.pick(200, 40);
  const secondsMax = context.pick(120, 30);
  const found = await runChild<SimulatedEdits>(
    'simulation-main.ts',
    [edits, secondsMax].map(String),
    {
      timeoutMs: (secondsMax + 200) * 1_000,
    },
  );
  const ours = figureOf(found.samplesMs);
  const virtual = figureOf(found.virtualMs);
  const cpu = figureOf(found.busiestCpuMs);
  const note = `links of 5 to 10 ms, syncs of 0.5 to 6 ms with stalls of 140 ms, real signatures; virtual part ${virtual.median} (max ${virtual.max}), CPU of the busiest node ${cpu.median} (max ${cpu.max}) ms`;
  return { ours, ok: isWithin(ours, limitMs, 'p99'), note };
}
