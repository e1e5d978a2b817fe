/** Errors on the wire: code, words and details travel; the cause stays in the log of the host where it happened. */
import { asClusterError, ClusterError, errorTable } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import type { WireError } from './wire.ts';

export function toWireError(error: unknown): WireError {
  const { code, message, details } = asClusterError(error);
  return { code, message, details };
}

/** Codes that a newer host knows and we do not become INTERNAL, with that host's words. */
export function fromWireError(error: Partial<WireError> | undefined): ClusterError {
  const code = String(error?.code);
  const isKnown = Object.hasOwn(errorTable, code);
  const made = new ClusterError(isKnown ? (code as ErrorCode) : 'INTERNAL', {
    ...(isKnown ? {} : { reason: code }),
    ...error?.details,
  });
  if (typeof error?.message === 'string') made.message = error.message.slice(0, 10_000);
  return made;
}
