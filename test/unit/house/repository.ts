import { globSync } from 'node:fs';
import path from 'node:path';

export const root = path.resolve(import.meta.dirname, '../../..');

/** Paths from the root of what belongs to the project, sorted. */
export function filesOf(pattern: string): string[] {
  const outside = (name: string): boolean => ['node_modules', 'dist', '.git'].includes(name);
  return globSync(pattern, { cwd: root, exclude: outside })
    .map((file) => file.split(path.sep).join('/'))
    .sort();
}
