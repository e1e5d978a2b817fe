/**
 * Log lines as JSON by pino. Written synchronously: the last line before a crash or `process.exit` is the one that
 * matters, and an asynchronous destination may not be open yet. Values whose key looks like a secret are never
 * written; long ones are cut.
 */
import { pino } from 'pino';
import type { DestinationStream, LevelWithSilent } from 'pino';
import type { Log } from './ports.ts';

const secretKey =
  /pass(word|phrase)|secret|token|seed|private|credential|authorization|cookie|^code$|inviteCode|recovery/i;
const textCharsMax = 2_000;
const itemsMax = 50;
const depthMax = 5;

export interface LoggerOptions {
  /** 'debug' | 'info' | 'warn' | 'error' | 'silent'; default 'info'. */
  readonly level?: LevelWithSilent;
  /** Default: standard error. */
  readonly destination?: DestinationStream;
  /** Put on every line, e.g. { host: 'h1' }. */
  readonly base?: Record<string, unknown>;
}

export function createLog(options: LoggerOptions = {}): Log {
  const logger = pino(
    {
      level: options.level ?? 'info',
      base: options.base ?? null,
      messageKey: 'event',
      formatters: { level: (label) => ({ level: label }) },
      timestamp: pino.stdTimeFunctions.isoTime,
    },
    options.destination ?? pino.destination({ dest: 2, sync: true }),
  );
  const at =
    (level: 'debug' | 'info' | 'warn' | 'error') =>
    (event: string, values?: Record<string, unknown>): void => {
      if (!logger.isLevelEnabled(level)) return;
      logger[level](values === undefined ? {} : (clean(values, 0) as object), event);
    };
  return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
}

/** Drops everything. */
export const silentLog: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

/** The same log with `values` on every line, e.g. { plugin: 'docker' }. */
export function taggedLog(log: Log, tag: Record<string, unknown>): Log {
  return {
    debug: (event, values) => log.debug(event, { ...tag, ...values }),
    info: (event, values) => log.info(event, { ...tag, ...values }),
    warn: (event, values) => log.warn(event, { ...tag, ...values }),
    error: (event, values) => log.error(event, { ...tag, ...values }),
  };
}

function clean(value: unknown, depth: number): unknown {
  if (typeof value === 'string') return cut(value);
  if (typeof value === 'bigint') return value.toString();
  if (typeof value !== 'object' || value === null) return value;
  if (value instanceof Error) return cleanError(value, depth);
  if (value instanceof Uint8Array) return `${value.length} bytes`;
  if (depth >= depthMax) return '(deeper)';
  if (value instanceof Map || value instanceof Set) return clean([...value], depth);
  if (Array.isArray(value)) {
    const items = value.slice(0, itemsMax).map((item) => clean(item, depth + 1));
    return value.length > itemsMax ? [...items, `(${value.length - itemsMax} more)`] : items;
  }
  const out: Record<string, unknown> = {};
  for (const [key, item] of Object.entries(value).slice(0, itemsMax)) {
    out[key] = secretKey.test(key) ? '(hidden)' : clean(item, depth + 1);
  }
  return out;
}

function cleanError(error: Error, depth: number): unknown {
  return {
    name: error.name,
    message: cut(error.message),
    ...('code' in error ? { code: error.code } : {}),
    ...(error.stack === undefined ? {} : { stack: cut(error.stack) }),
    ...(error.cause === undefined || depth >= depthMax
      ? {}
      : { cause: clean(error.cause, depth + 1) }),
  };
}

function cut(text: string): string {
  return text.length <= textCharsMax
    ? text
    : `${text.slice(0, textCharsMax)} (${text.length} characters)`;
}
