/** What the engine's answers mean in codes of the error table. */
import { PluginError } from '../api.ts';

/** dockerode's errors carry `statusCode` and `json.message`; socket errors carry `code`. */
interface EngineError extends Error {
  readonly statusCode?: number;
  readonly json?: { readonly message?: string };
  readonly code?: string;
}

export function statusOf(error: unknown): number | undefined {
  return (error as EngineError | null)?.statusCode;
}

export function isMissing(error: unknown): boolean {
  return (
    statusOf(error) === 404 || (error instanceof PluginError && error.details['status'] === 404)
  );
}

/** The engine answered, and refused. */
export function refusal(action: string, error: unknown): PluginError {
  const reason = reasonOf(error);
  return new PluginError(
    'ENGINE_REFUSED',
    { action, reason, status: statusOf(error) },
    `engine refused to ${action}: ${reason}`,
    error,
  );
}

export function unreachable(endpoint: string, reason: string, cause?: unknown): PluginError {
  return new PluginError(
    'ENGINE_UNREACHABLE',
    { endpoint, reason },
    `engine at ${endpoint} does not answer: ${reason}`,
    cause,
  );
}

export function imageUnavailable(image: string, reason: string, cause?: unknown): PluginError {
  return new PluginError(
    'IMAGE_UNAVAILABLE',
    { image, reason },
    `image ${image} is not to be had: ${reason}`,
    cause,
  );
}

/** One line for people, without the HTTP noise that dockerode adds. */
export function reasonOf(error: unknown): string {
  const engineError = error as EngineError | null;
  const text =
    engineError?.json?.message ?? (error instanceof Error ? error.message : String(error));
  return text.trim().replaceAll(/\s+/g, ' ').slice(0, reasonCharsMax);
}

const reasonCharsMax = 400;
