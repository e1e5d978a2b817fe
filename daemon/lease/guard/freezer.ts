/** What a gate needs of the kernel. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';

/** cgroups below one gate; a container makes one or two. */
const cgroupsMax = 1_024;

/** One kernel interface. Everything is synchronous, works on one cgroup directory and throws what the kernel says. */
export interface Freezer {
  /** What `freeze` writes, and where, for whoever has to do it in the guard's place. */
  readonly closing: { readonly name: string; readonly value: string };
  /** Asks; `isFrozen` says when it is so. Repeating is harmless. */
  freeze(dir: string): void;
  thaw(dir: string): void;
  /** Everything below `dir` stands still. */
  isFrozen(dir: string): boolean;
  /** Nothing below `dir` stands still because of `dir` itself. */
  isThawed(dir: string): boolean;
  /** SIGKILL to everything inside. v1: takes effect when it is thawed. */
  kill(dir: string): void;
  /** Thaws as far as killed processes need it to go away. */
  letDie(dir: string): void;
  isPopulated(dir: string): boolean;
}

/** cgroups below `dir` and itself, parents first. */
export function cgroupsOf(dir: string): string[] {
  const found = [dir];
  for (let index = 0; index < found.length && found.length < cgroupsMax; index += 1) {
    const parent = found[index] ?? dir;
    for (const entry of readdirSync(parent, { withFileTypes: true })) {
      if (entry.isDirectory()) found.push(join(parent, entry.name));
    }
  }
  return found;
}
