/**
 * Closes gates when the guard cannot: a shell of 1 MB in a session of its own that reads, from a file on tmpfs, until when
 * which gate may stay open, and freezes it at that time unless the file says otherwise by then. The guard moves the times on
 * with every renewal and takes a gate out of the file when it closes it itself, so that the shell acts only when the guard was
 * killed and is not back in time, or hangs. It sleeps until the earliest time, half a second at most.
 *
 * Each guard has one of its own, told apart by a generation in the first line; the one of a guard before ends when it reads
 * another. Nothing here thaws or kills: a guard that comes back decides about what it finds frozen.
 */
import { spawn } from 'node:child_process';
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { reasonOf } from '../../errors.ts';
import type { Log } from '../../ports.ts';
import type { CgroupTree } from './gates.ts';

export interface DeadmanEntry {
  /** Directory of its cgroup, in the root that the deadman was made for. */
  readonly gate: string;
  /** On CLOCK_BOOTTIME, milliseconds. */
  readonly deadlineMs: number;
}

/**
 * A gate past its time is closed again every 50 ms for three seconds, then every 500: a guard that stood still just before it
 * opened it may open it late and be killed.
 *
 * Times are hundredths of a second, as /proc/uptime has them; built-ins only, besides the sleep. It is started before the file
 * is its generation's, and waits for that two seconds: until then the one before is on duty.
 */
const script = `
file=$1 mine=$2 name=$3 value=$4 idle=0 seen=0 early=0
while :; do
  read -r up rest </proc/uptime
  now=\${up%.*}\${up#*.} pause=50 armed=0 generation=
  [ ! -e "$file" ] || {
    read -r generation
    if [ "$generation" = "$mine" ]; then
      while read -r deadline gate; do
        armed=1 left=$((deadline - now))
        if [ "$left" -le 0 ]; then
          echo "$value" >"./$gate/$name"
          if [ "$left" -gt -300 ]; then left=5; else left=50; fi
        fi
        [ "$left" -ge "$pause" ] || pause=$left
      done
    fi
  } <"$file"
  if [ "$generation" = "$mine" ]; then
    seen=1
  else
    early=$((early + 1)) pause=5
    [ "$seen" = 0 ] && [ "$early" -lt 40 ] || exit 0
  fi
  if [ "$armed" = 1 ]; then idle=0; else idle=$((idle + 1)); fi
  [ "$idle" -lt 40 ] || exit 0
  if [ "$pause" -lt 10 ]; then pause=0$pause; fi
  sleep "0.$pause"
done`;

const restartMs = 100;

export class Deadman {
  readonly #path: string;
  readonly #generation: string;
  readonly #tree: CgroupTree | null;
  readonly #log: Log;
  #text = '';
  #isRunning = false;
  #isClosed = false;
  starts = 0;

  constructor(options: {
    /** A file on tmpfs of this guard alone. */
    readonly path: string;
    /** One word, new for every process. */
    readonly generation: string;
    /** Null: nothing can be closed here, and nothing is opened. */
    readonly tree: CgroupTree | null;
    readonly log: Log;
  }) {
    this.#path = options.path;
    this.#generation = options.generation;
    this.#tree = options.tree;
    this.#log = options.log;
  }

  /** Replaces all entries. Throws what the file system says: then nothing may be opened. */
  arm(entries: readonly DeadmanEntry[]): void {
    const lines = entries.map(({ gate, deadlineMs }) => `${Math.floor(deadlineMs / 10)} ${gate}\n`);
    const text = lines.join('');
    if (text === this.#text && this.starts > 0) return;
    writeFileSync(`${this.#path}.tmp`, `${this.#generation}\n${text}`);
    // First: with the file the shell of the guard before ends, and this guard may be killed between the two.
    if (entries.length > 0) this.#start();
    renameSync(`${this.#path}.tmp`, this.#path);
    this.#text = text;
  }

  /** The guard ends in order and has closed what it had open: the shell ends by itself. */
  close(): void {
    this.arm([]);
    this.#isClosed = true;
  }

  #start(): void {
    if (this.#isRunning || this.#isClosed || this.#tree === null) return;
    this.#isRunning = true;
    this.starts += 1;
    const { root, freezer } = this.#tree;
    const { name, value } = freezer.closing;
    const args = ['-c', script, 'trellis-deadman', this.#path, this.#generation, name, value];
    const child = spawn('/bin/sh', args, { detached: true, stdio: 'ignore', cwd: root });
    child.unref();
    child.on('error', (error) => this.#log.error('guard.deadman', { error: error.message }));
    child.on('exit', () => {
      this.#isRunning = false;
      // It ends by itself when nothing is armed for a while; killed, it is needed again.
      if (this.#text !== '' && this.#isOurs()) setTimeout(() => this.#start(), restartMs).unref();
    });
  }

  /** No other guard has armed its own since. */
  #isOurs(): boolean {
    try {
      return readFileSync(this.#path, 'utf8').startsWith(`${this.#generation}\n`);
    } catch (error) {
      this.#log.error('guard.deadman', { error: reasonOf(error) });
      return false;
    }
  }
}
