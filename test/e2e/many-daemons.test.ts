/** Twenty daemons on one machine, without engines: all see an edit, and what they cost is printed. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventually, measureFor } from '../await.ts';
import { startDaemons, type LightDaemon } from '../testbed/many-daemons.ts';
import { Testbed } from '../testbed/testbed.ts';

const count = 20;
let bed: Testbed;
let daemons: LightDaemon[];

beforeAll(async () => {
  bed = await Testbed.create({ hosts: 1, engines: false });
  const start = performance.now();
  daemons = await startDaemons(bed.host(0), { count });
  console.log(`${count} daemons: ${Math.round(performance.now() - start)} ms`);
}, 600_000);

afterAll(() => bed?.destroy());

describe('twenty daemons on one machine', { timeout: 300_000 }, () => {
  it('know each other', async () => {
    await eventually(
      async () => {
        const last = daemons.at(-1) as LightDaemon;
        const rows = await last.json<{ state: string }[]>(['host', 'ls']);
        return rows.filter(({ state }) => state === 'ready').length === count;
      },
      { withinMs: 120_000, everyMs: 500 },
    );
  });

  it('all see an edit', async () => {
    const [first] = daemons as [LightDaemon];
    const start = performance.now();
    await first.json(['role', 'create', 'web']);
    for (const daemon of daemons) {
      await eventually(
        async () =>
          (await daemon.json<{ name: string }[]>(['role', 'ls'])).some(
            ({ name }) => name === 'web',
          ),
        { withinMs: 60_000, everyMs: 200, what: `${daemon.name} sees the role` },
      );
    }
    console.log(
      `all ${count} were asked and had seen the edit after ${Math.round(performance.now() - start)} ms`,
    );
  });

  it('cost little when nothing happens', async () => {
    const measureMs = 10_000;
    const loopback = async () =>
      Number(await bed.host(0).mustExec("awk '/lo:/ {print $10}' /proc/net/dev"));
    const before = await Promise.all(daemons.map((daemon) => daemon.use()));
    const bytesBefore = await loopback();
    // A measurement, not a wait for something to happen.
    await measureFor(measureMs);
    const bytes = (await loopback()) - bytesBefore;
    const after = await Promise.all(daemons.map((daemon) => daemon.use()));
    const mean = (values: number[]) =>
      values.reduce((sum, value) => sum + value, 0) / values.length;
    const cpu = after.map((use, i) => ((use.cpuMs - (before[i]?.cpuMs ?? 0)) / measureMs) * 100);
    console.log(
      `per daemon: ${Math.round(mean(after.map((use) => use.pssBytes)) / 2 ** 20)} MB, ` +
        `${mean(cpu).toFixed(1)} % of a core, ${Math.round((bytes * 1000) / measureMs / count)} bytes per second sent`,
    );
    expect(bytes).toBeGreaterThan(0);
  });
});
