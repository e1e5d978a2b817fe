/**
 * Runs the hunt for every mutant (`mutants.ts`): a copy of the sources with one rule broken has to be caught by a law. Prints
 * the table; answers whether all were caught. The copy lies in a directory of its own, the hunt runs in a child process.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { mutants, type Mutant } from './mutants.ts';

const root = fileURLToPath(new URL('../../..', import.meta.url));
/** A hunt that takes longer has failed. */
const huntMsMax = 120_000;

export interface Hunted {
  readonly name: string;
  readonly isCaught: boolean;
  readonly law: string;
  readonly how: string;
  readonly steps: number;
  readonly ms: number;
  readonly detail: string;
}

/** True when every mutant was caught. `only`: names to run. */
export function runMutants(only: readonly string[] | null, print: (line: string) => void): boolean {
  const directory = mkdtempSync(join(tmpdir(), 'trellis-mutants-'));
  let missed = 0;
  try {
    copySources(directory);
    print(row(['mutant', 'breaks', 'law', 'found by', 'steps', 'ms']));
    for (const mutant of mutants) {
      if (only !== null && !only.includes(mutant.name)) continue;
      const hunted = hunt(directory, mutant);
      if (!hunted.isCaught) missed++;
      print(
        row([
          mutant.name,
          mutant.breaks,
          hunted.isCaught ? hunted.law : 'NOT CAUGHT',
          hunted.how,
          String(hunted.steps),
          String(Math.round(hunted.ms)),
        ]),
      );
      if (!hunted.isCaught) print(`   ${hunted.detail}`);
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
  return missed === 0;
}

function copySources(directory: string): void {
  for (const part of ['daemon', 'crdt', 'plugins/api.ts', 'test/sim', 'package.json'])
    cpSync(join(root, part), join(directory, part), { recursive: true });
  symlinkSync(join(root, 'node_modules'), join(directory, 'node_modules'));
}

/** Throws when a text to find is not there exactly once: the mutant has to be brought up to date. File -> its new text. */
export function applyMutant(mutant: Mutant, read: (file: string) => string): Map<string, string> {
  const texts = new Map<string, string>();
  for (const { file = mutant.file, find, replace } of mutant.edits) {
    const parts = (texts.get(file) ?? read(file)).split(find);
    if (parts.length !== 2)
      throw new Error(`mutant ${mutant.name}: found ${parts.length - 1} times in ${file}: ${find}`);
    texts.set(file, parts.join(replace));
  }
  return texts;
}

function hunt(directory: string, mutant: Mutant): Hunted {
  const read = (file: string): string => readFileSync(join(directory, file), 'utf8');
  const edited = applyMutant(mutant, read);
  const originals = new Map([...edited.keys()].map((file) => [file, read(file)]));
  const startedMs = performance.now();
  for (const [file, text] of edited) writeFileSync(join(directory, file), text);
  try {
    const child = spawnSync(
      process.execPath,
      [join(directory, 'test/sim/lease/hunt.ts'), mutant.name],
      { encoding: 'utf8', timeout: huntMsMax, maxBuffer: 16 << 20 },
    );
    const ms = performance.now() - startedMs;
    const line = child.stdout.trim().split('\n').at(-1) ?? '';
    if (child.status !== 0 || !line.startsWith('{')) {
      const detail = child.stderr.slice(-600) || 'the hunt took too long';
      return { name: mutant.name, isCaught: false, law: '', how: '', steps: 0, ms, detail };
    }
    return { ...(JSON.parse(line) as Hunted), ms };
  } finally {
    for (const [file, text] of originals) writeFileSync(join(directory, file), text);
  }
}

function row(columns: readonly string[]): string {
  const widths = [26, 44, 10, 24, 9, 6];
  return columns.map((text, index) => text.padEnd(widths[index] ?? 0)).join(' ');
}
