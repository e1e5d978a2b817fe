/** `trellis history [PATH]`: who changed what, newest first. */
import { z } from 'zod';
import { pointerOf } from '../../crdt/pointer.ts';
import type { NodeApi } from '../node-api.ts';
import type { HistoryRow } from './answers.ts';
import { define, envParam, findHost, isoOf, nodeOf, params } from './common.ts';
import type { Operation } from './operation.ts';

const entriesMax = 10_000;

export const historyOperations: readonly Operation[] = [
  define({
    group: 'history',
    command: 'ls',
    summary: 'who changed what, newest first',
    access: 'viewer',
    isMutation: false,
    params: params({
      ...envParam,
      path: z.string().max(500).optional(),
      max: z.int().min(1).max(entriesMax).default(50),
    }),
    run: (context, given): Promise<HistoryRow[]> => {
      const node = nodeOf(context, given);
      const prefix = given.path === undefined ? {} : { pointerPrefix: prefixOf(node, given.path) };
      const entries = node.history({ max: given.max, ...prefix });
      const rows = entries.map((entry) => ({
        hash: entry.hash,
        doc: entry.doc,
        operator: entry.operator,
        session: entry.session,
        at: isoOf(entry.atWallMs),
        message: entry.message,
      }));
      return Promise.resolve(rows);
    },
  }),
];

/** 'services/site/image', 'storage/data/path' and 'site/image' are fields of that object, 'hosts/h1' the settings of that host. */
export function prefixOf(node: NodeApi, path: string): string {
  const [kind = '', name = '', ...rest] = path.replace(/^\//, '').split('/');
  if ((kind === 'hosts' || kind === 'host') && name !== '') {
    return pointerOf('hosts', findHost(node, name).id, ...rest);
  }
  if (/^(services?|roles?|storage)$/.test(kind) && name !== '') return pointerOf(name, ...rest);
  return path.startsWith('/') ? path : `/${path}`;
}
