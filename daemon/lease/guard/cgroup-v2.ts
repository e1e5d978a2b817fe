/** cgroup v2: frozen processes die of `cgroup.kill` at once, and `cgroup.events` speaks for everything below. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Freezer } from './freezer.ts';

export class CgroupV2 implements Freezer {
  readonly closing = { name: 'cgroup.freeze', value: '1' };

  freeze(dir: string): void {
    writeFileSync(join(dir, 'cgroup.freeze'), '1');
  }

  thaw(dir: string): void {
    writeFileSync(join(dir, 'cgroup.freeze'), '0');
  }

  isFrozen(dir: string): boolean {
    return eventOf(dir, 'frozen') === '1';
  }

  isThawed(dir: string): boolean {
    return eventOf(dir, 'frozen') === '0';
  }

  kill(dir: string): void {
    writeFileSync(join(dir, 'cgroup.kill'), '1');
  }

  letDie(): void {
    // Killed processes go although they are frozen.
  }

  isPopulated(dir: string): boolean {
    return eventOf(dir, 'populated') === '1';
  }
}

function eventOf(dir: string, name: string): string | null {
  const text = readFileSync(join(dir, 'cgroup.events'), 'latin1');
  return new RegExp(`^${name} (\\d)$`, 'm').exec(text)?.[1] ?? null;
}
