/**
 * What travels between the two ends of a copy: one tag byte, then bytes of rsync or one JSON value.
 *
 *   client: request (JSON)            server: answer (JSON)
 *   client, server: rsync's bytes     server: end (JSON), then both close
 *                                     server, at any time: no bytes at all, to be heard
 */

export interface CopyRequest {
  readonly v: 1;
  readonly id: string;
  /** Whose original is wanted. */
  readonly epoch: number;
  /** Of one moment, whatever the workload does: from a snapshot, for which it is paused. */
  readonly isSnapshot: boolean;
  /** Version of this epoch that is here already; 0: none. */
  readonly have: number;
  /** What the local rsync would run on the other side. */
  readonly args: readonly string[];
}

export type CopyAnswer =
  /** `wallMs`: the time of day of this side. */
  | { readonly isOk: true; readonly wallMs: number }
  | { readonly isOk: false; readonly code: string; readonly why: string };

export interface CopyEnd {
  readonly exit: number;
  /** The state that was copied, if nothing was written meanwhile; null: something was. */
  readonly version: number | null;
  readonly why: string;
}

export type Part =
  | { readonly kind: 'bytes'; readonly bytes: Uint8Array }
  | { readonly kind: 'json'; readonly value: unknown };

/** Those that a client of ours hands on. Rsync itself gives up when nothing moves for so many seconds. */
export const senderOptions: readonly string[] = ['--timeout=20', '--numeric-ids'];
const jsonBytesMax = 16 << 10;

export function bytesPart(bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array(bytes.length + 1);
  out.set(bytes, 1);
  return out;
}

export function jsonPart(value: CopyRequest | CopyAnswer | CopyEnd): Uint8Array {
  const out = bytesPart(new TextEncoder().encode(JSON.stringify(value)));
  out[0] = 1;
  return out;
}

/** Null when it is neither. */
export function readPart(message: Uint8Array): Part | null {
  const bytes = message.subarray(1);
  if (message[0] === 0) return { kind: 'bytes', bytes };
  if (message[0] !== 1 || bytes.length > jsonBytesMax) return null;
  try {
    return { kind: 'json', value: JSON.parse(new TextDecoder().decode(bytes)) as unknown };
  } catch {
    // A peer's bytes: the caller ends the copy with words.
    return null;
  }
}

export function readRequest(value: unknown): CopyRequest | null {
  const raw = value as Partial<CopyRequest> | null;
  const isWhole =
    raw?.v === 1 &&
    typeof raw.id === 'string' &&
    Number.isSafeInteger(raw.epoch) &&
    Number.isSafeInteger(raw.have) &&
    typeof raw.isSnapshot === 'boolean' &&
    Array.isArray(raw.args) &&
    raw.args.length <= 16 &&
    raw.args.every((one) => typeof one === 'string' && one.length <= 256);
  return isWhole ? (raw as CopyRequest) : null;
}

export function readAnswer(value: unknown): CopyAnswer | null {
  const raw = value as Record<string, unknown> | null;
  if (raw?.['isOk'] === true)
    return Number.isFinite(raw['wallMs']) ? { isOk: true, wallMs: Number(raw['wallMs']) } : null;
  if (raw?.['isOk'] !== false) return null;
  return { isOk: false, code: String(raw['code']), why: String(raw['why']) };
}

export function readEnd(value: unknown): CopyEnd | null {
  const raw = value as Partial<CopyEnd> | null;
  const hasVersion = raw?.version === null || Number.isSafeInteger(raw?.version);
  if (!Number.isSafeInteger(raw?.exit) || !hasVersion) return null;
  return { exit: Number(raw?.exit), version: raw?.version ?? null, why: String(raw?.why) };
}

/**
 * The arguments with which the other side's rsync may be run here: only as a sender, only with the option letters and the
 * version word that a client of ours produces. The path is ours, whatever was asked for. Null: refused.
 */
export function senderArgs(args: readonly string[], path: string): readonly string[] | null {
  const at = args.indexOf('--server');
  const [server, sender, letters, ...rest] = at === -1 ? [] : args.slice(at);
  const dot = rest.indexOf('.');
  const isOurs =
    server === '--server' &&
    sender === '--sender' &&
    /^-[a-zA-Z]+e[0-9.]*[a-zA-Z]*$/.test(letters ?? '') &&
    rest.slice(0, dot).every((option) => senderOptions.includes(option)) &&
    rest.length === dot + 2;
  return isOurs ? ['--server', '--sender', letters ?? '', ...senderOptions, '.', `${path}/`] : null;
}
