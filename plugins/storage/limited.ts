/** A stream whose other side may vanish without a word: whoever waits for it too long gives it up. */
import type { StorageStream } from './ports.ts';

/** The active host says something at least so often, also while it only prepares. */
export const beatEveryMs = 5_000;
/** Longer than that, with room for a host that is very busy. */
const silenceMsMax = 20_000;

/** `send` and the next message reject after `silenceMs`, and the stream is aborted. */
export function limited(stream: StorageStream, silenceMs = silenceMsMax): StorageStream {
  const within = async <T>(work: Promise<T>): Promise<T> => {
    const { promise: late, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => {
      const why = `the other side was silent for ${silenceMs} ms`;
      reject(new Error(why));
      stream.abort(why);
    }, silenceMs);
    try {
      return await Promise.race([work, late]);
    } finally {
      clearTimeout(timer);
    }
  };
  return {
    send: (message) => within(stream.send(message)),
    messages: {
      [Symbol.asyncIterator]: () => {
        const messages = stream.messages[Symbol.asyncIterator]();
        return { next: () => within(messages.next()) };
      },
    },
    close: () => stream.close(),
    abort: (reason) => stream.abort(reason),
    ended: stream.ended,
  };
}
