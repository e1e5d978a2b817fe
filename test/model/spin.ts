/** One search: Spin makes a verifier of a model, the compiler a program of it, and its report is read. */
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import type { ModelRun } from './runs.ts';

export interface ModelResult {
  readonly run: ModelRun;
  readonly states: number;
  readonly transitions: number;
  /** Longest path from the start, in steps of the verifier. */
  readonly depth: number;
  readonly memoryMb: number;
  /** Of the search alone, without the compiler. */
  readonly seconds: number;
  /** Which assertion broke; null: none. */
  readonly violation: string | null;
  /** Every state was visited; only said without a violation. Whole states are stored, neither bits nor hashes of them. */
  readonly isComplete: boolean;
  readonly isAsExpected: boolean;
}

const memoryMbMax = 6_000;
/** Steps of one path; every model here stays far below, and a search that does not is called incomplete. */
const depthMax = 1_000_000;
const outputBytesMax = 1 << 20;

/** Runs in a directory of its own, which goes afterwards. Throws when a tool fails or the search outlasts `limitMs`. */
export async function searchModel(run: ModelRun, limitMs: number): Promise<ModelResult> {
  const dir = await mkdtemp(path.join(os.tmpdir(), 'trellis-model-'));
  const deadline = performance.now() + limitMs;
  const tool = (command: string, args: readonly string[]) =>
    output(command, args, dir, Math.max(1, deadline - performance.now()));
  try {
    const source = path.join(import.meta.dirname, `${run.model}.pml`);
    await tool('spin', [...run.defines.map((define) => `-D${define}`), '-a', source]);
    await tool('gcc', ['-w', ...compilerOptions(run), '-o', 'pan', 'pan.c']);
    // Without -E a state in which nothing can happen any more would count as a deadlock: here it is the end of a run.
    const report = await tool('nice', [
      '-n',
      '10',
      './pan',
      '-E',
      '-n',
      `-m${depthMax}`,
      tableOption(run),
    ]);
    return readReport(run, report);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

function compilerOptions(run: ModelRun): string[] {
  // A mutant of the quick share is found in less time than the optimiser takes.
  const level = run.isQuick && run.expects !== 'safe' ? '-O0' : '-O2';
  const options = [level, '-DSAFETY', '-DNOREDUCE', `-DMEMLIM=${memoryMbMax}`];
  return options;
}

/** Size of the hash table, as a power of two. */
function tableOption(run: ModelRun): string {
  return run.isQuick ? '-w22' : '-w26';
}

function readReport(run: ModelRun, report: string): ModelResult {
  const number = (pattern: RegExp) => {
    const found = pattern.exec(report)?.[1];
    if (found === undefined) throw new Error(`the verifier's report lacks ${pattern}:\n${report}`);
    return Number(found);
  };
  const broken = /assertion violated (.*) \(at depth/.exec(report)?.[1] ?? null;
  const errors = number(/errors: (\d+)/);
  // Out of memory, too deep, or ended early: pan says each in words.
  const isCut = /not completed|too small|out of memory|aborting|interrupted/i.test(report);
  const isComplete = errors === 0 && !isCut;
  const expectsViolation = run.expects !== 'safe';
  return {
    run,
    states: number(/^\s*([\d.e+]+) states, stored/m),
    transitions: number(/^\s*([\d.e+]+) transitions/m),
    depth: number(/depth reached (\d+)/),
    memoryMb: Math.round(number(/([\d.]+)\s+total actual memory usage/)),
    seconds: number(/elapsed time ([\d.e-]+) seconds/),
    violation: errors === 0 ? null : nameOf(broken),
    isComplete,
    isAsExpected: expectsViolation ? errors > 0 && broken !== null : errors === 0 && !isCut,
  };
}

/** The assertions of lease.pml, as Spin prints them. */
function nameOf(assertion: string | null): string {
  if (assertion === null) return 'error of another kind';
  if (assertion.includes('&&')) return 'two holders';
  if (assertion.includes('>newest')) return 'epoch does not rise';
  if (assertion.includes('newest<')) return 'reached';
  if (/auth\[[01]\]>0/.test(assertion)) return 'an epoch names two activations';
  return assertion;
}

function output(
  command: string,
  args: readonly string[],
  cwd: string,
  limitMs: number,
): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
    let text = '';
    const keep = (chunk: Buffer) => {
      if (text.length < outputBytesMax) text += chunk.toString();
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      child.kill('SIGKILL');
    }, limitMs);
    child.on('error', (error) => {
      clearTimeout(timer);
      reject(new Error(`${command} could not be started; install spin and gcc`, { cause: error }));
    });
    child.on('close', (status) => {
      clearTimeout(timer);
      if (isLate) reject(new Error(`${command} took longer than ${limitMs} ms:\n${text}`));
      else if (status !== 0) reject(new Error(`${command} ended with ${status}:\n${text}`));
      else resolve(text);
    });
  });
}
