/** What operators read about the past: conflicts still open, and who changed what. */
import { compareText } from '../../crdt/codec.ts';
import type { LeafRef } from '../../crdt/document.ts';
import type { Hash, HostId, SessionId } from '../../crdt/ids.ts';
import type { ConflictEntry, DocName, HistoryEntry } from '../node-api.ts';
import type { Replica } from './replica.ts';

/** Envelopes looked at for one question. */
const scannedMax = 20_000;

export function listConflicts(
  replica: Replica,
  hostName: (host: HostId) => string,
): readonly ConflictEntry[] {
  return replica.documents.names().flatMap((doc) =>
    replica.documents.openConflicts(doc).flatMap(({ ref, ops }) => {
      const entry = toConflict(replica, doc, ref, ops, hostName);
      return entry === null ? [] : [entry];
    }),
  );
}

/** Null when all sides wrote the same value: nobody needs to choose. */
function toConflict(
  replica: Replica,
  doc: DocName,
  ref: LeafRef,
  ops: readonly string[],
  hostName: (host: HostId) => string,
): ConflictEntry | null {
  const { documents } = replica;
  const inForce = JSON.stringify(documents.document(doc).leaf(ref.container, ref.pointer));
  const values = ops.flatMap((id) => {
    const found = documents.op(doc, id);
    if (found === null) return [];
    const { entry, op } = found;
    const operator = operatorOf(replica, entry.session);
    return [
      {
        value: op.value,
        operator,
        session: entry.session,
        hash: entry.hash,
        atWallMs: entry.atWallMs,
      },
    ];
  });
  if (new Set(values.map((value) => JSON.stringify(value.value))).size < 2) return null;
  values.sort(
    (a, b) =>
      Number(JSON.stringify(b.value) === inForce) - Number(JSON.stringify(a.value) === inForce) ||
      compareText(a.hash, b.hash),
  );
  const subject = subjectOf(replica, doc, ref, hostName);
  return {
    id: documents.conflictId(doc, ref),
    doc,
    object: ref.container,
    subject,
    pointer: ref.pointer,
    values,
  };
}

/** The newest of each document by order of acceptance on this host, shown by their authors' clocks, newest first. */
export function listHistory(
  replica: Replica,
  options: { readonly doc?: DocName; readonly pointerPrefix?: string; readonly max: number },
): readonly HistoryEntry[] {
  const docs = options.doc === undefined ? replica.documents.names() : [options.doc];
  const out: HistoryEntry[] = [];
  for (const doc of docs) {
    const entries = replica.documents.entries(doc).slice(-scannedMax).toReversed();
    const full = out.length + options.max;
    for (const entry of entries) {
      if (out.length >= full) break;
      if (
        options.pointerPrefix !== undefined &&
        !touches(replica, entry.changeHash, doc, options.pointerPrefix)
      )
        continue;
      const { hash, session, atWallMs, message } = entry;
      out.push({ hash, doc, operator: operatorOf(replica, session), session, atWallMs, message });
    }
  }
  return out
    .toSorted((a, b) => b.atWallMs - a.atWallMs || compareText(a.hash, b.hash))
    .slice(0, options.max);
}

function touches(replica: Replica, change: Hash, doc: DocName, prefix: string): boolean {
  const entry = replica.documents.entry(doc, change);
  const ops = entry === null ? [] : (replica.documents.change(entry)?.ops ?? []);
  return ops.some((op) => {
    const ref = replica.documents.leafOf(doc, op);
    if (ref === null) return false;
    const name = replica.documents.document(doc).leaf(ref.container, '/name');
    const path = typeof name === 'string' ? `/${name}${ref.pointer}` : ref.pointer;
    return (
      ref.pointer.startsWith(prefix) || path.startsWith(prefix) || path.startsWith(`/${prefix}`)
    );
  });
}

export function operatorOf(replica: Replica, session: SessionId): string {
  const entry = replica.roster.session(session);
  if (entry === null) return 'unknown';
  return replica.roster.operatorByKey(entry.operatorKey)?.name ?? 'unknown';
}

function subjectOf(
  replica: Replica,
  doc: DocName,
  ref: LeafRef,
  hostName: (host: HostId) => string,
): string {
  if (ref.container === 'names') return `name ${ref.pointer.slice(1)}`;
  if (ref.container === 'settings') {
    const host = /^\/hosts\/([0-9a-f]{32})\//.exec(ref.pointer)?.[1];
    return host === undefined
      ? `setting ${ref.pointer.slice(1)}`
      : `host ${hostName(host as HostId)}`;
  }
  const document = replica.documents.document(doc);
  const kind = document.leaf(ref.container, '/kind');
  const name = document.leaf(ref.container, '/name');
  return `${typeof kind === 'string' ? kind : 'object'} ${typeof name === 'string' ? name : ref.container}`;
}
