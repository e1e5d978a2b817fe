/**
 * What a workload sees of its lease, in the directory that its container has under /run/trellis/lease. Files are replaced by
 * rename, so a reader never meets half of one.
 *
 * - `epoch`: the fencing token of the activation, as text. It changes with an activation only.
 * - `lease.json`: `{epoch, deadlineBoottimeNs}`; the deadline is a decimal text on CLOCK_BOOTTIME, '0' without authority.
 */
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isAbsent } from '../../store/durable.ts';

// Containers may run as any user; the directories above are closed to everybody else's processes on the host.
const dirMode = 0o755;
const fileMode = 0o644;

export class LeaseDirs {
  readonly #root: string;
  readonly #epochs = new Map<string, string>();

  constructor(root: string) {
    this.#root = root;
    mkdirSync(root, { recursive: true, mode: dirMode });
  }

  dirOf(gate: string): string {
    return join(this.#root, gate);
  }

  /** An engine would make a missing directory by itself, owned as it likes: ours is there before the container is. */
  ensure(gate: string): void {
    if (this.#epochs.has(gate)) return;
    mkdirSync(this.dirOf(gate), { recursive: true, mode: dirMode });
    if (this.#epochOf(gate) === null) this.write(gate, 0, null);
  }

  /** `deadlineMs` on the authority clock; null: no authority, and the epoch stays what it was. */
  write(gate: string, epoch: number, deadlineMs: number | null): void {
    const text = `${epoch}\n`;
    const before = this.#epochOf(gate);
    if (before === null || (deadlineMs !== null && before !== text)) {
      this.#replace(gate, 'epoch', text);
      this.#epochs.set(gate, text);
    }
    const deadlineBoottimeNs = deadlineMs === null ? '0' : nanoseconds(deadlineMs);
    this.#replace(gate, 'lease.json', `${JSON.stringify({ epoch, deadlineBoottimeNs })}\n`);
  }

  remove(gate: string): void {
    this.#epochs.delete(gate);
    rmSync(this.dirOf(gate), { recursive: true, force: true });
  }

  #epochOf(gate: string): string | null {
    const known = this.#epochs.get(gate);
    if (known !== undefined) return known;
    try {
      const text = readFileSync(join(this.dirOf(gate), 'epoch'), 'utf8');
      this.#epochs.set(gate, text);
      return text;
    } catch (error) {
      if (isAbsent(error)) return null;
      throw error;
    }
  }

  #replace(gate: string, name: string, text: string): void {
    const path = join(this.dirOf(gate), name);
    const draft = join(this.dirOf(gate), `.${name}`);
    writeFileSync(draft, text, { mode: fileMode });
    renameSync(draft, path);
  }
}

/** Whole nanoseconds as text: doubles lose some after a hundred days of uptime. */
function nanoseconds(ms: number): string {
  return `${BigInt(Math.floor(ms * 1_000)) * 1_000n}`;
}
