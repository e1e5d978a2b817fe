/**
 * What members say to each other about who is alive, as plain CBOR-able values with one-letter keys (an idle cluster
 * sends little else). The caller wraps them in its own frame; the keys 't' and 'v' are left to it.
 *
 * Parsing is loose: unknown keys and unknown rumour kinds of a newer version are passed over.
 */
import { hex, unhex, type NodeId } from '../../crdt/ids.ts';
import type { Liveness } from '../../crdt/model.ts';

/** One claim about one member. `from` is who accuses, on 'suspect' and 'dead'. */
export interface Rumour {
  readonly node: NodeId;
  readonly status: Liveness;
  readonly incarnation: number;
  readonly from: NodeId | null;
}

export type Message =
  /** "Answer with `q`." Carries the sender's incarnation. */
  | { readonly k: 'ping'; readonly q: number; readonly i: number; readonly r: readonly Rumour[] }
  /** `n`: on behalf of that member, whom the receiver had asked us to probe; then `i` is its incarnation. */
  | {
      readonly k: 'ack';
      readonly q: number;
      readonly i: number;
      readonly n: NodeId | null;
      readonly r: readonly Rumour[];
    }
  /** "Probe `n` for me." */
  | { readonly k: 'ask'; readonly q: number; readonly n: NodeId; readonly r: readonly Rumour[] }
  /** "I am here, but the member you asked about does not answer me." */
  | { readonly k: 'nack'; readonly q: number; readonly r: readonly Rumour[] }
  | { readonly k: 'gossip'; readonly r: readonly Rumour[] }
  /** What the sender believes about (a sample of) everybody; sent on connect and now and then. */
  | { readonly k: 'sync'; readonly i: number; readonly r: readonly Rumour[] };

/** CBOR-able form of a message. */
export type SwimBody = Readonly<Record<string, unknown>>;

/** More rumours than this in one message: the message is refused. */
export const rumoursPerMessageMax = 64;
/** Higher incarnations are refused: nobody gets there honestly, and the next one must stay an exact integer. */
export const incarnationMax = 2 ** 48;

const statusCodes = ['alive', 'suspect', 'dead', 'left'] as const satisfies readonly Liveness[];

export function toBody(message: Message): SwimBody {
  const body: Record<string, unknown> = { ...message };
  if (message.r.length === 0) delete body['r'];
  else body['r'] = message.r.map(toWire);
  if ('n' in message) {
    if (message.n === null) delete body['n'];
    else body['n'] = unhex(message.n);
  }
  return body;
}

/** Peer bytes are values, never throws: null when it is not a message of ours. */
export function parseBody(body: unknown): Message | null {
  if (!isRecord(body)) return null;
  const r = parseRumours(body['r']);
  const q = parseCount(body['q']);
  const i = parseCount(body['i']);
  const n = parseNode(body['n']);
  if (r === null) return null;
  switch (body['k']) {
    case 'ping':
      return q === null || i === null ? null : { k: 'ping', q, i, r };
    case 'ack':
      return q === null || i === null || (body['n'] !== undefined && n === null)
        ? null
        : { k: 'ack', q, i, n, r };
    case 'ask':
      return q === null || n === null ? null : { k: 'ask', q, n, r };
    case 'nack':
      return q === null ? null : { k: 'nack', q, r };
    case 'gossip':
      return { k: 'gossip', r };
    case 'sync':
      return i === null ? null : { k: 'sync', i, r };
    default:
      return null;
  }
}

function toWire(rumour: Rumour): readonly unknown[] {
  const claim = [unhex(rumour.node), statusCodes.indexOf(rumour.status), rumour.incarnation];
  return rumour.from === null ? claim : [...claim, unhex(rumour.from)];
}

function parseRumours(value: unknown): Rumour[] | null {
  if (value === undefined) return [];
  if (!Array.isArray(value) || value.length > rumoursPerMessageMax) return null;
  const out: Rumour[] = [];
  for (const claim of value as unknown[]) {
    if (!Array.isArray(claim)) return null;
    const [nodeBytes, code, count, fromBytes] = claim as unknown[];
    const node = parseNode(nodeBytes);
    const incarnation = parseCount(count);
    if (node === null || incarnation === null) return null;
    const status = statusCodes[code as number];
    if (status !== undefined) out.push({ node, status, incarnation, from: parseNode(fromBytes) });
  }
  return out;
}

function parseNode(value: unknown): NodeId | null {
  return value instanceof Uint8Array && value.length === 32 ? (hex(value) as NodeId) : null;
}

function parseCount(value: unknown): number | null {
  return typeof value === 'number' &&
    Number.isInteger(value) &&
    value >= 0 &&
    value <= incarnationMax
    ? value
    : null;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
