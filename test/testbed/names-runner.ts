/**
 * Runs the names plugin once inside a host and ends: whatever works afterwards works without a daemon. Reads
 * { action: 'reconcile' | 'purge', view, config?, times? } from standard input, prints the outcomes as JSON.
 */
import { mkdirSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { namesPlugin } from '../../plugins/names/names.ts';
import type { DesiredView, PluginContext, ReconcileOutcome } from '../../plugins/api.ts';

export interface NamesCall {
  readonly action: 'reconcile' | 'purge';
  readonly view: DesiredView;
  readonly config?: { readonly iptables?: string; readonly hostsFile?: string | null };
  /** Reconciles in a row in one process; default 1. */
  readonly times?: number;
}

export const namesStateDir = '/var/lib/trellis/plugins/names';

if (import.meta.main) {
  const call = JSON.parse(await text(process.stdin)) as NamesCall;
  mkdirSync(namesStateDir, { recursive: true });
  const log = {
    debug: () => undefined,
    info: console.error,
    warn: console.error,
    error: console.error,
  };
  const { clusterId, hostId, env } = call.view;
  const context: PluginContext = {
    self: { clusterId, hostId, env },
    clock: { monotonicMs: () => performance.now(), wallMs: () => Date.now() },
    log,
    stateDir: namesStateDir,
    requestReconcile: () => undefined,
    publish: () => undefined,
    blobs: {} as PluginContext['blobs'],
  };
  const running = await namesPlugin.start(context, namesPlugin.parseConfig(call.config ?? {}));
  const outcomes: (ReconcileOutcome & { tookMs: number })[] = [];
  const signal = AbortSignal.timeout(30_000);
  if (call.action === 'purge') await running.purge(signal);
  for (let i = 0; call.action === 'reconcile' && i < (call.times ?? 1); i++) {
    const start = performance.now();
    outcomes.push({
      ...(await running.reconcile(call.view, signal)),
      tookMs: Math.round(performance.now() - start),
    });
  }
  await running.stop();
  console.log(JSON.stringify({ outcomes, report: running.describe() }));
}
