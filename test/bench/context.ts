/** What every row family gets: the options of the run, the release bundle, and the load of the machine. */
import { chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { buildBundle } from '../../bootstrap/build.ts';
import { mustRun } from '../../bootstrap/local-cluster/run-command.ts';
import { budgetOf } from './budgets.ts';
import type { Figure, Row } from './row.ts';

export interface Measured {
  readonly ours: Figure;
  readonly ok: boolean;
  readonly peers?: Readonly<Record<string, Figure>>;
  readonly note?: string;
}

export interface RowFamily {
  readonly ids: readonly string[];
  /** Measures those of its rows that are wanted and gives each to `context.report`. */
  run(context: BenchContext): Promise<void>;
}

export class BenchContext {
  readonly isQuick: boolean;
  /** Power-cuts of the holder of an exclusive service, and of guards alone; null: as many as the run has by itself. */
  readonly cuts: number | null;
  readonly leaseCuts: number | null;
  readonly rows = new Map<string, Row>();
  readonly #wanted: ReadonlySet<string>;
  #dir: string | null = null;
  #archive: Promise<string> | null = null;
  #shared: Promise<string> | null = null;

  constructor(options: {
    readonly isQuick: boolean;
    readonly wanted: ReadonlySet<string>;
    readonly cuts: number | null;
    readonly leaseCuts: number | null;
  }) {
    this.isQuick = options.isQuick;
    this.cuts = options.cuts;
    this.leaseCuts = options.leaseCuts;
    this.#wanted = options.wanted;
  }

  wants(id: string): boolean {
    return this.#wanted.has(id);
  }

  /** The first number in a full run, the second in a quick one. */
  pick<T>(full: T, quick: T): T {
    return this.isQuick ? quick : full;
  }

  report(id: string, measured: Measured): void {
    const { what, unit, budget } = budgetOf(id);
    const { ours, ok, peers = {}, note } = measured;
    this.rows.set(id, {
      id,
      what,
      unit,
      ours,
      peers,
      budget,
      ok,
      ...(note === undefined ? {} : { note }),
    });
    this.say(`${id}: ${ours.median ?? '-'} ${unit}${ok ? '' : ' (over budget)'}`);
  }

  say(text: string): void {
    process.stderr.write(`bench: ${text}\n`);
  }

  /** Scratch of this run on a real disk. */
  async dir(): Promise<string> {
    // Not below /tmp: simulated hosts have their own, and it may be memory.
    if (this.#dir === null) await removeAbandoned();
    this.#dir ??= await mkdtemp(`${scratchPrefix}${process.pid}-`);
    return this.#dir;
  }

  /** The release bundle's archive, built once. */
  bundle(): Promise<string> {
    this.#archive ??= (async () => {
      this.say('building the release bundle');
      return (await buildBundle(join(await this.dir(), 'dist'))).file;
    })();
    return this.#archive;
  }

  /** The command of one unpacked bundle that all hosts see. */
  sharedBundle(): Promise<string> {
    this.#shared ??= (async () => {
      const parent = await this.dir();
      await mustRun('tar', ['-C', parent, '-xzf', await this.bundle()], { timeoutMs: 120_000 });
      // Hosts without a copy of their own write their compile caches here, each into its own layer.
      await chmod(parent, 0o755);
      return join(parent, 'trellis/bin/trellis');
    })();
    return this.#shared;
  }

  async end(): Promise<void> {
    if (this.#dir !== null) await rm(this.#dir, { recursive: true, force: true });
  }
}

const scratchPrefix = '/var/tmp/trellis-bench-';

/** Scratch of runs that were killed. */
async function removeAbandoned(): Promise<void> {
  for (const name of await readdir('/var/tmp')) {
    const pid = /^trellis-bench-(\d+)-/.exec(name)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`))
      await rm(join('/var/tmp', name), { recursive: true, force: true });
  }
}

export interface Watch {
  /** What to write into the note. */
  readonly words: string;
  /** Others used more of the machine than it has. */
  readonly isDisturbed: boolean;
}

/** Load averages over the last minute when a measurement begins and ends: other work on the machine shows in them. */
export async function watchLoad<T>(measure: () => Promise<T>): Promise<{ result: T; load: Watch }> {
  const before = await loadAverage();
  const result = await measure();
  const after = await loadAverage();
  const isDisturbed = Math.max(before, after) > 2 * cpus().length;
  return { result, load: { words: `load average ${before} to ${after}`, isDisturbed } };
}

export async function loadAverage(): Promise<number> {
  return Number((await readFile('/proc/loadavg', 'utf8')).split(' ')[0]);
}

/**
 * Measures again (once) when a budget was missed while others kept the machine busy; the second try counts, and the note
 * says what the first one gave.
 */
export async function measureCalm(measure: () => Promise<Measured>): Promise<Measured> {
  const first = await watchLoad(measure);
  if (first.result.ok || !first.load.isDisturbed) return noted(first.result, first.load.words);
  const second = await watchLoad(measure);
  const was = `repeated, since a first try gave ${first.result.ours.median} (p99 ${first.result.ours.p99 ?? '-'}) at ${first.load.words}`;
  return noted(second.result, `${second.load.words}; ${was}`);
}

export function noted(measured: Measured, more: string): Measured {
  return { ...measured, note: measured.note === undefined ? more : `${measured.note}; ${more}` };
}
