/** RFC 6901 pointers: the addresses of leaves. */
import type { LeafValue } from './leaves.ts';

/** Joins segments, escaping '~' and '/' in each. */
export function pointerOf(...segments: readonly string[]): string {
  return segments.map((segment) => `/${escapeSegment(segment)}`).join('');
}

/** Unescaped segments; [] for a text that is no pointer. */
export function segmentsOf(pointer: string): string[] {
  if (!pointer.startsWith('/')) return [];
  const segments = pointer.slice(1).split('/');
  if (!pointer.includes('~')) return segments;
  return segments.map((segment) => segment.replaceAll('~1', '/').replaceAll('~0', '~'));
}

/** Lists are compared item by item. */
export function equalLeaves(a: LeafValue, b: LeafValue): boolean {
  if (a === b) return true;
  return Array.isArray(a) && Array.isArray(b) && JSON.stringify(a) === JSON.stringify(b);
}

function escapeSegment(segment: string): string {
  return segment.includes('~') || segment.includes('/')
    ? segment.replaceAll('~', '~0').replaceAll('/', '~1')
    : segment;
}
