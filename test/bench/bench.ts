/**
 * `npm run bench [-- --only ID,… --json FILE --quick --cuts N --lease-cuts N]`: every budget of the project, measured, with peers in the same run.
 *
 * Prints a table and what disturbed it; with --json writes `{ machine, commit, rows }` (see row.ts). Never a test: it
 * fails only when it could not measure. Exit code 1 when a row that was asked for could not be measured.
 */
import { cpus, release, totalmem } from 'node:os';
import { writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { runCommand } from '../../bootstrap/local-cluster/run-command.ts';
import { budgets } from './budgets.ts';
import { BenchContext, loadAverage, type RowFamily } from './context.ts';
import { documentFamily } from './document.ts';
import { engineFamily } from './engines.ts';
import { leaseFamily } from './leases.ts';
import { lightFamily } from './light.ts';
import { nothing, type Figure, type Row } from './row.ts';
import { simulationFamily } from './simulation.ts';
import { tableOf } from './table.ts';

const families: readonly RowFamily[] = [
  simulationFamily,
  documentFamily,
  leaseFamily,
  lightFamily,
  engineFamily,
];

const usage = 'npm run bench [-- --only ID,… --json FILE --quick --cuts N --lease-cuts N]';

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      only: { type: 'string', multiple: true },
      json: { type: 'string' },
      quick: { type: 'boolean' },
      cuts: { type: 'string' },
      'lease-cuts': { type: 'string' },
      help: { type: 'boolean' },
    },
  });
  const known = budgets.map((budget) => budget.id);
  const asked = values.only?.flatMap((list) => list.split(',').map((id) => id.trim())) ?? known;
  const unknown = asked.filter((id) => !known.includes(id));
  if (values.help === true || unknown.length > 0) {
    if (unknown.length > 0) process.stderr.write(`no row ${unknown.join(', ')}\n`);
    process.stdout.write(`${usage}\nrows: ${known.join(' ')}\n`);
    return unknown.length > 0 ? 2 : 0;
  }
  if (process.getuid?.() !== 0) {
    process.stderr.write('the benchmarks make hosts with namespaces and engines and need root\n');
    return 1;
  }
  const context = new BenchContext({
    isQuick: values.quick === true,
    wanted: new Set(asked),
    cuts: countOf(values.cuts),
    leaseCuts: countOf(values['lease-cuts']),
  });
  const report = await measure(context);
  process.stdout.write(tableOf(report));
  if (values.json !== undefined)
    await writeFile(values.json, `${JSON.stringify(report, null, 2)}\n`);
  const failed = report.rows.filter((row) => row.ours.n === 0 && !isMissing(row.id));
  return failed.length > 0 ? 1 : 0;
}

export interface Report {
  readonly machine: string;
  readonly commit: string;
  readonly at: string;
  readonly isQuick: boolean;
  /** Over one minute, before and after the run. */
  readonly loadAverages: readonly [number, number];
  readonly tookS: number;
  readonly rows: readonly Row[];
}

function countOf(text: string | undefined): number | null {
  if (text === undefined) return null;
  const count = Number(text);
  if (Number.isSafeInteger(count) && count > 0 && count <= cutsMax) return count;
  throw new Error(`a number of cuts is a whole number from 1 to ${cutsMax}, not '${text}'`);
}

const cutsMax = 10_000;

async function measure(context: BenchContext): Promise<Report> {
  const at = new Date();
  const before = await loadAverage();
  // Now, since others may commit while it is measured.
  const measured = await commit();
  try {
    for (const family of families) {
      if (!family.ids.some((id) => context.wants(id))) continue;
      try {
        await family.run(context);
      } catch (error) {
        noteFailure(context, family, error);
      }
    }
  } finally {
    await context.end();
  }
  const rows = budgets
    .filter(({ id }) => context.wants(id))
    .map(({ id, missing, ...budget }) => {
      const row = context.rows.get(id);
      const note = `not yet measurable: ${missing ?? 'nothing measures it'}`;
      return row ?? { id, ...budget, ours: nothing, peers: {}, ok: false, note };
    });
  return {
    machine: await machine(),
    commit: measured,
    at: at.toISOString(),
    isQuick: context.isQuick,
    loadAverages: [before, await loadAverage()],
    tookS: Math.round((Date.now() - at.getTime()) / 1000),
    rows,
  };
}

/** One family that fails leaves the others their figures. */
function noteFailure(context: BenchContext, family: RowFamily, error: unknown): void {
  const reason = error instanceof Error ? error.message : String(error);
  const note = `could not be measured: ${reason.slice(0, 600)}`;
  context.say(note);
  const left = family.ids.filter((id) => context.wants(id) && !context.rows.has(id));
  const ours: Figure = nothing;
  for (const id of left) context.report(id, { ours, ok: false, note });
}

function isMissing(id: string): boolean {
  return budgets.find((budget) => budget.id === id)?.missing !== undefined;
}

async function machine(): Promise<string> {
  const model = cpus()[0]?.model.trim() ?? 'unknown processor';
  const gibibytes = Math.round(totalmem() / 2 ** 30);
  const engine = await runCommand('dockerd', ['--version']);
  const docker = /\d+\.\d+\.\d+/.exec(engine.stdout)?.[0] ?? 'absent';
  return `${cpus().length} × ${model}, ${gibibytes} GiB, Linux ${release()}, Node ${process.versions.node}, dockerd ${docker}`;
}

async function commit(): Promise<string> {
  const head = await runCommand('git', ['rev-parse', '--short=12', 'HEAD']);
  return head.code === 0 ? head.stdout.trim() : 'unknown';
}

// What runs in hosts does not hold this process, which waits for nothing else at times.
const hold = setInterval(() => {}, 60_000);
process.exitCode = await main();
clearInterval(hold);
// Sockets of ended hosts may linger; everything that was started is gone.
process.exit();
