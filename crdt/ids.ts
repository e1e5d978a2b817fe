/** Branded identifiers: zero cost at run time, and a host id can no longer be passed where a node id is meant. */
type Brand<T, B extends string> = T & { readonly __brand: B };

/** A daemon on the wire: its host's Ed25519 public key, 64 lower-case hex digits. */
export type NodeId = Brand<string, 'NodeId'>;
/** A host in the configuration: 32 lower-case hex digits from a file of their own. Survives a change of key. */
export type HostId = Brand<string, 'HostId'>;
/** First 32 hex digits of sha-256 of the authority's public key. */
export type ClusterId = Brand<string, 'ClusterId'>;
/** Hash of a session's public key, 32 hex digits: also the Automerge actor. */
export type SessionId = Brand<string, 'SessionId'>;
/** A configuration object: 16 hex digits, made once, never used again. */
export type ObjectId = Brand<string, 'ObjectId'>;
/** sha-256 of the signed bytes, 64 hex digits. Names envelopes, records, blobs and plans. */
export type Hash = Brand<string, 'Hash'>;

export function hex(bytes: Uint8Array): string {
  let out = '';
  for (const byte of bytes) out += (byte < 16 ? '0' : '') + byte.toString(16);
  return out;
}

/** Returns null unless `text` is an even number of hex digits. */
export function unhex(text: string): Uint8Array | null {
  if (text.length % 2 !== 0 || !/^[0-9a-f]*$/.test(text)) return null;
  const out = new Uint8Array(text.length / 2);
  for (let i = 0; i < out.length; i++) out[i] = Number.parseInt(text.slice(2 * i, 2 * i + 2), 16);
  return out;
}
