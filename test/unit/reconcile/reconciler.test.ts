import { describe, expect, test } from 'vitest';
import type { DesiredView, ItemFailure, ReconcileOutcome } from '../../../plugins/api.ts';
import { makeConfig } from '../../../daemon/config.ts';
import { Reconciler } from '../../../daemon/reconcile/reconciler.ts';
import { ManualClock, settled } from './manual-clock.ts';

const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const nothing: ReconcileOutcome = { changes: [], failures: [] };
const failure = (isTransient: boolean): ItemFailure => ({
  item: 'x',
  code: 'INTERNAL',
  message: '',
  isTransient,
});

class Fake {
  readonly name: string;
  runs = 0;
  atOnce = 0;
  mostAtOnce = 0;
  signal: AbortSignal | null = null;
  outcome: () => Promise<ReconcileOutcome> = () => Promise.resolve(nothing);

  constructor(name: string) {
    this.name = name;
  }

  readonly running = {
    reconcile: async (_: DesiredView, signal: AbortSignal): Promise<ReconcileOutcome> => {
      this.runs++;
      this.signal = signal;
      this.mostAtOnce = Math.max(this.mostAtOnce, ++this.atOnce);
      try {
        return await this.outcome();
      } finally {
        this.atOnce--;
      }
    },
    stop: () => Promise.resolve(),
    purge: () => Promise.resolve(),
  };
}

function world(...plugins: Fake[]) {
  const clock = new ManualClock();
  const state = { planKey: 'p1' as string | null, view: {} as DesiredView | null };
  const outcomes: string[] = [];
  const reconciler = new Reconciler(plugins, {
    clock,
    random: { next: () => 0.5, bytes: (count) => new Uint8Array(count) },
    log: silent,
    config: makeConfig({
      reconcileIntervalMs: 30_000,
      reconcileBackoffMsMin: 1_000,
      reconcileBackoffMsMax: 8_000,
    }),
    view: () => state.view,
    planKey: () => state.planKey,
    onOutcome: (plugin) => outcomes.push(plugin),
  });
  return { clock, state, outcomes, reconciler };
}

/** A promise and the way to end it. */
function open<T>(): { promise: Promise<T>; resolve: (value: T) => void } {
  let resolve!: (value: T) => void;
  const promise = new Promise<T>((end) => (resolve = end));
  return { promise, resolve };
}

describe('reconciler', () => {
  test('requests during a run are one run after it, never one beside it', async () => {
    const plugin = new Fake('a');
    const { reconciler } = world(plugin);
    const first = open<ReconcileOutcome>();
    plugin.outcome = () => first.promise;
    reconciler.request();
    for (let count = 0; count < 10; count++) reconciler.request();
    expect(plugin.runs).toBe(1);
    plugin.outcome = () => Promise.resolve(nothing);
    first.resolve(nothing);
    await settled();
    expect(plugin.runs).toBe(2);
    expect(plugin.mostAtOnce).toBe(1);
  });

  test('passing failures are tried again ever more rarely up to a limit, and soon again after a success', async () => {
    const plugin = new Fake('a');
    const { reconciler, clock } = world(plugin);
    plugin.outcome = () => Promise.resolve({ changes: [], failures: [failure(true)] });
    reconciler.request();
    const delays: number[] = [];
    for (let count = 0; count < 6; count++) {
      await settled();
      const [delay] = clock.pending();
      delays.push(delay ?? 0);
      await clock.advance(delay ?? 0);
    }
    expect(delays).toEqual([1_000, 2_000, 4_000, 8_000, 8_000, 8_000]);
    expect(reconciler.isBusy()).toBe(true);
    plugin.outcome = () => Promise.resolve(nothing);
    await clock.advance(8_000);
    expect(reconciler.isBusy()).toBe(false);
    expect(clock.pending()).toEqual([30_000]);
  });

  test('failures that will not pass wait for a change or the slow interval', async () => {
    const plugin = new Fake('a');
    const { reconciler, clock } = world(plugin);
    plugin.outcome = () => Promise.resolve({ changes: [], failures: [failure(false)] });
    reconciler.request();
    await settled();
    expect(clock.pending()).toEqual([30_000]);
    expect(reconciler.isBusy()).toBe(false);
    expect(reconciler.failures()).toMatchObject([{ plugin: 'a', item: 'x' }]);
    reconciler.request('a');
    await settled();
    expect(plugin.runs).toBe(2);
  });

  test('one that throws is a passing failure; one that hangs holds up no other and is aborted in the end', async () => {
    const [hung, thrower, good] = [new Fake('hung'), new Fake('thrower'), new Fake('good')];
    const { reconciler, clock, outcomes } = world(hung, thrower, good);
    const never = open<ReconcileOutcome>();
    hung.outcome = () => never.promise;
    thrower.outcome = () => Promise.reject(new Error('broken'));
    reconciler.request();
    await settled();
    expect(outcomes.toSorted()).toEqual(['good', 'thrower']);
    expect(reconciler.failures()).toMatchObject([{ plugin: 'thrower', code: 'PLUGIN_FAILED' }]);
    expect(reconciler.hasRun()).toBe(false);
    await clock.advance(14 * 60_000);
    expect(hung.signal?.aborted).toBe(false);
    await clock.advance(60_000);
    expect(hung.signal?.aborted).toBe(true);
    expect(good.runs).toBeGreaterThan(20);
  });

  test('a plan is settled once every plugin has been through it, for the plan that was current as its run began', async () => {
    const [one, two] = [new Fake('one'), new Fake('two')];
    const { reconciler, state } = world(one, two);
    expect(reconciler.settledPlan()).toBeNull();
    const slow = open<ReconcileOutcome>();
    two.outcome = () => slow.promise;
    reconciler.request();
    await settled();
    expect(reconciler.settledPlan()).toBeNull();
    state.planKey = 'p2';
    two.outcome = () => Promise.resolve(nothing);
    slow.resolve(nothing);
    await settled();
    expect(reconciler.settledPlan()).toBe('p1');
    reconciler.request();
    await settled();
    expect(reconciler.settledPlan()).toBe('p2');
  });

  test('work under way in the background is busy; without a view nothing is touched', async () => {
    const plugin = new Fake('a');
    const { reconciler, state } = world(plugin);
    plugin.outcome = () => Promise.resolve({ ...nothing, pending: ['image'] });
    reconciler.request();
    await settled();
    expect(reconciler.isBusy()).toBe(true);
    state.view = null;
    reconciler.request();
    await settled();
    expect(plugin.runs).toBe(1);
    expect(reconciler.hasRun()).toBe(true);
  });

  test('stop aborts what is under way and waits for it, though not for ever', async () => {
    const [kind, rude] = [new Fake('kind'), new Fake('rude')];
    const { reconciler, clock } = world(kind, rude);
    kind.outcome = () =>
      new Promise((resolve) => kind.signal?.addEventListener('abort', () => resolve(nothing)));
    rude.outcome = () => open<ReconcileOutcome>().promise;
    reconciler.request();
    let isStopped = false;
    const stopped = reconciler.stop().then(() => (isStopped = true));
    await clock.advance(4_000);
    expect(kind.atOnce).toBe(0);
    expect(isStopped).toBe(false);
    await clock.advance(2_000);
    await stopped;
    reconciler.request();
    await clock.advance(100_000);
    expect([kind.runs, rude.runs]).toEqual([1, 1]);
  });
});
