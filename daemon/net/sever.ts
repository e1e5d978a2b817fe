import type { Connection } from '@libp2p/interface';
import { reasonOf } from '../errors.ts';

const severed = new WeakSet<Connection>();

/**
 * Ends a connection at once, with everything on it. Idempotent. The library's `abort` tells the streams first, and a
 * second abort from their close handlers would make it throw before it has closed the socket.
 */
export function sever(connection: Connection, reason: unknown): void {
  if (severed.has(connection)) return;
  severed.add(connection);
  try {
    connection.abort(reason instanceof Error ? reason : new Error(reasonOf(reason)));
  } catch (error) {
    // It was closing already: its last words had no way out. Anything else is a bug.
    if (connection.status === 'open') throw error;
  }
}
