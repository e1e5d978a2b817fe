/** `trellis alert …`: what needs a person, by the word of all hosts, and that somebody has seen it. */
import { z } from 'zod';
import { compareText } from '../../crdt/codec.ts';
import type { LeafPut } from '../../crdt/leaves.ts';
import { pointerOf } from '../../crdt/pointer.ts';
import { alertsOfAll } from '../alert-watch.ts';
import { ClusterError } from '../errors.ts';
import type { NodeApi } from '../node-api.ts';
import type { EditAnswer } from './answers.ts';
import {
  define,
  editDocument,
  envDoc,
  envParam,
  isoOf,
  nodeOf,
  params,
  sessionOf,
} from './common.ts';
import { groupBy } from './service-rows.ts';
import type { AlertRow } from './lease-answers.ts';
import type { Operation, OperationContext } from './operation.ts';

const idCharsMax = 200;

export const alertOperations: readonly Operation[] = [
  define({
    group: 'alert',
    command: 'ls',
    summary: 'what needs a person',
    access: 'viewer',
    isMutation: false,
    params: params(envParam),
    run: (context, given): Promise<AlertRow[]> =>
      Promise.resolve(alertRows(nodeOf(context, given))),
  }),
  define({
    group: 'alert',
    command: 'ack',
    summary: 'say that an alert has been seen',
    access: 'operator',
    isMutation: true,
    params: params({
      ...envParam,
      id: z.string().min(1).max(idCharsMax).optional(),
      all: z.boolean().default(false),
    }),
    run: acknowledge,
  }),
];

/** Of all hosts, one row for each alert, oldest first. An alert that comes back is a new one, whoever saw the last. */
export function alertRows(node: NodeApi): AlertRow[] {
  const groups = groupBy([...alertsOfAll(node)], ({ alert }) => alert.id);
  const reader = node.reader(envDoc(node));
  return [...groups]
    .map(([id, reports]) => rowOf(id, reports, reader))
    .toSorted((a, b) => compareText(a.since, b.since) || compareText(a.id, b.id));
}

type Report = ReturnType<typeof alertsOfAll>[number];

function rowOf(
  id: string,
  reports: readonly Report[],
  reader: ReturnType<NodeApi['reader']>,
): AlertRow {
  const [first] = reports.toSorted((a, b) => a.alert.sinceWallMs - b.alert.sinceWallMs);
  if (first === undefined) throw new Error('a group has a member');
  const { kind, severity, subject, text, todo, sinceWallMs } = first.alert;
  const leaf = reader.leaf('settings', pointerOf('acks', id));
  const [atWallMs, operator] = Array.isArray(leaf) ? (leaf as readonly unknown[]) : [];
  const isSeen = typeof atWallMs === 'number' && atWallMs >= sinceWallMs;
  return {
    id,
    kind,
    severity,
    subject,
    text,
    todo,
    since: isoOf(sinceWallMs),
    reportedBy: reports.map(({ host }) => host.name).toSorted(compareText),
    acknowledged: isSeen
      ? { at: isoOf(atWallMs), operator: typeof operator === 'string' ? operator : null }
      : null,
  };
}

/** An operator's edit, so that everybody sees who has seen it. */
async function acknowledge(
  context: OperationContext,
  given: { env?: string | undefined; id?: string | undefined; all: boolean },
): Promise<EditAnswer & { acknowledged: string[] }> {
  const node = nodeOf(context, given);
  const session = sessionOf(context, 'alert ack');
  const rows = alertRows(node).filter((row) => row.acknowledged === null);
  if (given.id === undefined && !given.all)
    throw new ClusterError('USAGE', {
      reason: 'name an alert, or use --all',
      command: 'alert ack',
    });
  const chosen = given.id === undefined ? rows : chosenRows(node, given.id);
  const at = Math.round(context.clock.wallMs());
  const puts = chosen
    .filter((row) => row.acknowledged === null)
    .map((row): LeafPut => ({
      object: 'settings',
      pointer: pointerOf('acks', row.id),
      // Clocks of hosts differ: never earlier than what it acknowledges.
      value: [Math.max(at, Date.parse(row.since)), session.operator],
    }));
  const acknowledged = chosen.map(({ id }) => id);
  if (puts.length === 0) return { hash: null, changed: 0, acknowledged };
  const message = `acknowledge ${acknowledged.join(', ')}`.slice(0, idCharsMax);
  return { ...(await editDocument(context, { message, puts })), acknowledged };
}

/** By id, by its kind when there is one of it, or by the beginning of an id. */
function chosenRows(node: NodeApi, id: string): AlertRow[] {
  const rows = alertRows(node);
  const exact = rows.filter((row) => row.id === id);
  const found = exact.length > 0 ? exact : rows.filter((row) => row.id.startsWith(id));
  if (found.length === 1) return found;
  if (found.length === 0)
    throw new ClusterError('NOT_FOUND', { kind: 'alert', name: id, list: 'trellis alert ls' });
  const choices = found.map((row) => row.id);
  throw new ClusterError('AMBIGUOUS', { name: id, kind: 'alert', choices });
}
