/** Stands in the place of `GuardCore` until that is there: answers status, holds nothing. */
import type { CoreStart } from '../core-api.ts';
import { emptyStatus } from './status.ts';
import type { Core } from './turn-loop.ts';

export function makeCore(start: CoreStart): Core {
  return {
    handle: (event) =>
      event.kind === 'command'
        ? [{ kind: 'reply', id: event.id, reply: { isOk: event.command.kind === 'exit' } as never }]
        : [],
    nextDeadlineMs: () => Infinity,
    status: () => emptyStatus(start.env, start.self),
    volatileState: () => ({}),
  };
}
