/**
 * What `trellis join` is given to get in with: the bare code, the JSON that `trellis invite --json` printed, or the whole
 * line that it printed for people. The last two also say where the cluster is and what its certificate looks like.
 */
export interface Ticket {
  readonly code: string;
  readonly peers?: readonly string[];
  readonly caPem?: string;
}

export function parseTicket(text: string): Ticket {
  const trimmed = text.trim();
  return (
    fromJson(trimmed) ?? fromLine(trimmed) ?? { code: trimmed.split('\n', 1)[0]?.trim() ?? '' }
  );
}

function fromJson(text: string): Ticket | null {
  if (!text.startsWith('{')) return null;
  let value: { code?: unknown; peers?: unknown; caPem?: unknown };
  try {
    value = JSON.parse(text) as typeof value;
  } catch {
    // Not JSON after all; then it is taken as a code and refused as one.
    return null;
  }
  if (typeof value.code !== 'string') return null;
  return {
    code: value.code,
    ...(Array.isArray(value.peers) ? { peers: value.peers.map(String) } : {}),
    ...(typeof value.caPem === 'string' ? { caPem: value.caPem } : {}),
  };
}

const begin = '-----BEGIN CERTIFICATE-----';
const end = '-----END CERTIFICATE-----';

/** The one line of `trellis invite`: `(c=CODE; for p in PEERS; do … 'BEGIN' BASE64 … 'END' …)`. */
function fromLine(text: string): Ticket | null {
  const code = /\bc=([0-9a-z-]+);/.exec(text)?.[1];
  const peers = /\bfor p in ([^;]+);/.exec(text)?.[1];
  const body = new RegExp(`'${begin}' ([A-Za-z0-9+/=\\s]+) '${end}'`).exec(text)?.[1];
  if (code === undefined || peers === undefined || body === undefined) return null;
  return {
    code,
    peers: peers
      .trim()
      .split(/\s+/)
      .map((peer) => peer.replaceAll(/['"]/g, '')),
    caPem: [begin, ...body.trim().split(/\s+/), end, ''].join('\n'),
  };
}
