/** What one check of `doctor` found. */
import type { CheckRow } from './answers.ts';

export type Found = Pick<CheckRow, 'result' | 'detail' | 'todo'>;

export function good(detail: string): Found {
  return { result: 'ok', detail, todo: '' };
}

export function warn(detail: string, todo: string): Found {
  return { result: 'warn', detail, todo };
}

export function bad(detail: string, todo: string): Found {
  return { result: 'fail', detail, todo };
}
