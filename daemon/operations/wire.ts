/**
 * What the CLI and the API say to each other, beyond plain JSON. Types only, so that the thin client may import it.
 *
 * `POST /api/v1/<group>/<command>` with a JSON body. Without `Accept: application/x-ndjson` the answer is the operation's
 * data as one JSON value, or `{"error": {...}}` with the status of the error table. With it, the answer is one
 * `ServerLine` per line, status 200, and the last line is a `result` or an `error`.
 *
 * Two-way calls (exec) add `Connection: Upgrade` and `Upgrade: trellis-stream`; the parameters are in the header
 * `trellis-params` (base64url of the JSON), because a body and an upgrade do not go together. After `101 Switching Protocols`
 * both sides send one JSON value per line: the client `ClientLine`s, handed to `StreamIo.input` as they are, the server
 * `ServerLine`s. A refusal before the upgrade is an ordinary error answer. A line is at most `wireLineBytesMax` long.
 */
export const wireLineBytesMax = 8 << 20;

export interface WireError {
  readonly code: string;
  readonly message: string;
  readonly details: Readonly<Record<string, unknown>>;
}

export type ServerLine =
  | { readonly type: 'progress'; readonly text: string }
  /** What the operation gave to `StreamIo.send`. */
  | { readonly type: 'data'; readonly data: unknown }
  | { readonly type: 'result'; readonly data: unknown }
  | { readonly type: 'error'; readonly error: WireError };

export type ClientLine =
  /** base64. */
  | { readonly type: 'input'; readonly bytes: string }
  /** Half-close of the command's standard input. */
  | { readonly type: 'end' }
  | { readonly type: 'resize'; readonly columns: number; readonly rows: number };

/** `data` of `service/logs` and of `service/exec`. */
export interface OutputChunk {
  readonly host: string;
  readonly instance: string;
  readonly stream: 'stdout' | 'stderr';
  /** base64. */
  readonly bytes: string;
}
