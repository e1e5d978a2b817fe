/** What needs a person and was seen by nobody is told again every hour, by one host for all. */
import type { Job } from './jobs.ts';
import type { NodeApi } from './node-api.ts';
import { alertRows } from './operations/alert.ts';

const everyMs = 3_600_000;
const namedMax = 5;

export function alertReminder(node: NodeApi, wallMs: () => number): Job {
  return {
    id: 'alert-reminder',
    everyMs,
    run: () => {
      const standing = alertRows(node).filter(
        ({ acknowledged, since }) =>
          acknowledged === null && wallMs() - Date.parse(since) >= everyMs,
      );
      if (standing.length > 0) {
        const named = standing.slice(0, namedMax).map(({ id }) => id);
        const more = standing.length > namedMax ? ', …' : '';
        node.emit({
          kind: 'alert.reminder',
          severity: 'warn',
          text: `nobody has acknowledged for an hour: ${named.join(', ')}${more}; see \`trellis alert ls\``,
          details: { count: standing.length },
        });
      }
      return Promise.resolve();
    },
  };
}
