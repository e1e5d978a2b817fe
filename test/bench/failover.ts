/** One power-cut of the host that runs a service, until an answer comes from its replacement. The same for us and for peers. */
import type { LocalHost } from '../../bootstrap/local-cluster/local-host.ts';
import { eventually } from '../await.ts';
import { requestLoop } from '../testbed/request-loop.ts';

const withinMs = 240_000;

export interface PowerCut {
  readonly victim: LocalHost;
  /** Who asks. */
  readonly observer: LocalHost;
  /** Every place at which the replacement may answer. */
  readonly urls: readonly string[];
  /** Between two requests; default 50. */
  readonly everyMs?: number;
}

/** Milliseconds from the cut to the first good answer to a request that was sent after it. */
export async function powerCutUntilAnswer(cut: PowerCut): Promise<number> {
  const { victim, observer, urls, everyMs = 50 } = cut;
  const loops = await Promise.all(
    urls.map((url) =>
      requestLoop(observer, { url, everyMs, timeoutMs: 500, durationMaxMs: withinMs }),
    ),
  );
  try {
    await eventually(() => loops.some((loop) => loop.peek().ok > 0), {
      withinMs: 30_000,
      everyMs: 50,
      what: 'an answer before the cut',
    });
    const cutAtMs = Date.now();
    await victim.powerCut();
    const deadAtMs = Date.now();
    const answeredAtMs = await eventually(
      () => {
        const good = loops
          .flatMap((loop) => loop.peek().samples)
          .filter((sample) => sample.isOk && sample.atMs > deadAtMs)
          .map((sample) => sample.atMs + sample.tookMs);
        return good.length === 0 ? null : Math.min(...good);
      },
      { withinMs, everyMs: 200, what: 'an answer of the replacement' },
    );
    return answeredAtMs - cutAtMs;
  } finally {
    for (const loop of loops) await loop.stop();
  }
}
