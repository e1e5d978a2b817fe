/** A freezer gate as the guard makes them, by hand: for tests of what is behind it. */
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { eventually } from '../../await.ts';

const root = '/sys/fs/cgroup';
const isV1 = existsSync(join(root, 'freezer'));

export class TestGate {
  readonly name: string;
  readonly #dir: string;

  /** Closed. */
  constructor(name: string) {
    this.name = name;
    this.#dir = isV1 ? join(root, 'freezer', name) : join(root, name);
    mkdirSync(this.#dir, { recursive: true });
    this.#set(true);
  }

  async close(): Promise<void> {
    this.#set(true);
    if (isV1)
      await eventually(
        () => readFileSync(join(this.#dir, 'freezer.state'), 'utf8') === 'FROZEN\n',
        {
          withinMs: 5_000,
        },
      );
  }

  open(): void {
    this.#set(false);
  }

  /** Kills what is inside and leaves it closed and empty. */
  async clear(): Promise<void> {
    this.#kill();
    this.open();
    await eventually(
      () => {
        this.#kill();
        return this.processes().length === 0;
      },
      { withinMs: 10_000, everyMs: 5 },
    );
    await this.close();
  }

  /** Process numbers inside. */
  processes(): number[] {
    return below(this.#dir).flatMap((dir) =>
      readFileSync(join(dir, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number),
    );
  }

  /** Also from the other controllers, where the engine makes a directory of the same name. */
  async dispose(): Promise<void> {
    await this.clear();
    const controllers = readdirSync(root).map((name) => join(root, name));
    for (const dir of [root, ...controllers].map((top) => join(top, this.name)))
      if (existsSync(dir)) for (const one of below(dir)) rmdirSync(one);
  }

  #set(isClosed: boolean): void {
    if (isV1) writeFileSync(join(this.#dir, 'freezer.state'), isClosed ? 'FROZEN' : 'THAWED');
    else writeFileSync(join(this.#dir, 'cgroup.freeze'), isClosed ? '1' : '0');
  }

  #kill(): void {
    for (const pid of this.processes()) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
      }
    }
  }
}

/** Deepest first, the directory itself last. */
function below(dir: string): string[] {
  const subs = readdirSync(dir, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  return [...subs.flatMap(({ name }) => below(join(dir, name))), dir];
}
