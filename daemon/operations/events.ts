/** `trellis events [-f]`: what happened on all hosts, oldest first. */
import { z } from 'zod';
import type { EventEntry, NodeApi } from '../node-api.ts';
import type { EventRow } from './answers.ts';
import { define, envParam, hostNames, isoOf, nodeOf, params } from './common.ts';
import { ioOf } from './logs.ts';
import type { Operation, OperationContext } from './operation.ts';

const eventsMax = 10_000;
const eventsDefault = 50;

export const eventsOperations: readonly Operation[] = [
  define({
    group: 'events',
    command: 'ls',
    summary: 'what happened, oldest first',
    access: 'viewer',
    isMutation: false,
    isStream: true,
    params: params({
      ...envParam,
      follow: z.boolean().default(false),
      max: z.int().min(0).max(eventsMax).default(eventsDefault),
    }),
    run: listEvents,
  }),
];

export function eventRows(node: NodeApi): EventRow[] {
  const names = hostNames(node);
  return node
    .events()
    .toSorted((a, b) => a.atWallMs - b.atWallMs || a.seq - b.seq)
    .map((event) => eventRow(event, names.get(event.host) ?? event.host));
}

function eventRow(event: EventEntry, host: string): EventRow {
  const { atWallMs, seq, kind, severity, text, details } = event;
  const row = { at: isoOf(atWallMs), host, seq, kind, severity, text };
  return details === undefined ? row : { ...row, details };
}

async function listEvents(
  context: OperationContext,
  given: { env?: string | undefined; follow: boolean; max: number },
): Promise<unknown> {
  const node = nodeOf(context, given);
  const { io, result } = ioOf(context);
  const rows = eventRows(node);
  const sent = new Map<string, number>();
  for (const row of rows) sent.set(row.host, Math.max(sent.get(row.host) ?? 0, row.seq));
  for (const row of given.max === 0 ? [] : rows.slice(-given.max)) await io.send(row);
  if (given.follow) await follow(context, node, { sent, send: (row) => io.send(row) });
  const { messages } = result();
  return messages ?? null;
}

/** Until the caller goes away. One sender, so that order holds and a slow reader slows only itself. */
function follow(
  context: OperationContext,
  node: NodeApi,
  stream: { sent: Map<string, number>; send: (row: EventRow) => Promise<void> },
): Promise<void> {
  return new Promise((resolve, reject) => {
    let isSending = false;
    const unsubscribe = node.onChange(() => void sendNew());
    context.signal.addEventListener('abort', () => {
      unsubscribe();
      resolve();
    });
    async function sendNew(): Promise<void> {
      if (isSending) return;
      isSending = true;
      try {
        for (let row = nextNew(); row !== undefined; row = nextNew()) {
          stream.sent.set(row.host, row.seq);
          await stream.send(row);
        }
      } catch (error) {
        unsubscribe();
        reject(error as Error);
      } finally {
        isSending = false;
      }
    }
    function nextNew(): EventRow | undefined {
      return eventRows(node).find((row) => row.seq > (stream.sent.get(row.host) ?? -1));
    }
    void sendNew();
  });
}
