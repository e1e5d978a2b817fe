/** `trellis audit`: what was asked of one host, newest first. */
import { z } from 'zod';
import { define, envParam, findHost, isoOf, nodeOf, params, runOn } from './common.ts';
import type { Operation } from './operation.ts';
import type { HostTools } from './tools.ts';

const entriesMax = 10_000;

export function auditOperations(tools: HostTools): readonly Operation[] {
  return [
    define({
      group: 'audit',
      command: 'ls',
      summary: 'who ran what on this host',
      access: 'viewer',
      isMutation: false,
      params: params({
        ...envParam,
        host: z.string().max(64).optional(),
        max: z.int().min(1).max(entriesMax).default(50),
      }),
      run: (context, given): Promise<unknown> => {
        if (given.host !== undefined) {
          const node = nodeOf(context, given);
          const host = findHost(node, given.host);
          const call = { group: 'audit', command: 'ls', params: { max: given.max } };
          if (host.id !== node.self.host) return runOn(context, host, call);
        }
        const rows = tools.auditLines(given.max).map((line) => ({
          at: isoOf(line.atWallMs),
          seq: line.seq,
          operator: line.operator,
          via: line.via,
          group: line.group,
          command: line.command,
          params: line.params,
          result: line.outcome,
        }));
        return Promise.resolve(rows);
      },
    }),
  ];
}
