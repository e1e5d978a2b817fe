/** Rows of real daemons on hosts without engines: how fast an edit spreads, and what silence costs on the wire. */
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { setTimeout as pause } from 'node:timers/promises';
import { measureFor } from '../await.ts';
import { measureCalm, type BenchContext, type Measured, type RowFamily } from './context.ts';
import { BundleCluster, call } from './daemons.ts';
import { figureOf, isWithin } from './row.ts';

export const lightFamily: RowFamily = {
  ids: ['edit-visible-5', 'bytes-idle'],
  run: async (context) => {
    context.say('five daemons without engines');
    const cluster = await BundleCluster.make(context, {
      hosts: 5,
      engines: false,
      ownBundles: false,
    });
    try {
      if (context.wants('edit-visible-5')) {
        for (let index = 1; index < 5; index++) await cluster.login(index);
        context.report('edit-visible-5', await measureCalm(() => editVisible5(context, cluster)));
      }
      if (!context.wants('bytes-idle')) return;
      context.say('five more');
      while (cluster.bed.hosts.length < 10) await cluster.grow();
      await cluster.waitReady(10);
      context.report('bytes-idle', await measureCalm(() => bytesIdle(context, cluster)));
    } finally {
      await cluster.destroy();
    }
  },
};

const edits = 510;
const warmUpEdits = 20;
const spreadWithinMs = 20_000;
/** Between two looks at one host: the error of a sample, and little enough work for the daemons. */
const lookEveryMs = 2;

interface HostAnswer {
  readonly meta: Readonly<Record<string, string>>;
}

/** An edit through the API of one host in turn, until the API of every other shows it. */
async function editVisible5(context: BenchContext, cluster: BundleCluster): Promise<Measured> {
  const sockets = cluster.bed.hosts.map((host) => cluster.socket(host.index));
  const samples: number[] = [];
  const acknowledged: number[] = [];
  for (let edit = 0; edit < edits + warmUpEdits; edit++) {
    const from = edit % sockets.length;
    const value = `v${edit}`;
    const start = performance.now();
    await call(sockets[from] as string, 'host/set', { host: 'h1', pairs: [`bench=${value}`] });
    const acknowledgedMs = performance.now() - start;
    // Nothing is told to others before it is on disk and answered: looking earlier would only keep the processors busy.
    const others = sockets.filter((_, index) => index !== from);
    const seen = Promise.all(others.map((socket) => untilSeen(socket, value, start)));
    const visibleMs = Math.max(...(await seen));
    if (edit < warmUpEdits) continue;
    acknowledged.push(acknowledgedMs);
    samples.push(visibleMs);
  }
  const disk = await diskSyncs(await context.dir());
  const ours = figureOf(samples);
  const acks = figureOf(acknowledged);
  const note = `answered after ${acks.median} ms (p99 ${acks.p99}); fdatasync of 4 kB on this disk: ${disk.median} ms, p99 ${disk.p99}; seen by looking every ${lookEveryMs} ms`;
  return { ours, ok: isWithin(ours, 100, 'p99'), note };
}

async function untilSeen(socket: string, value: string, startMs: number): Promise<number> {
  for (;;) {
    const host = await call<HostAnswer>(socket, 'host/show', { host: 'h1' });
    const atMs = performance.now() - startMs;
    if (host.meta['bench'] === value) return atMs;
    if (atMs > spreadWithinMs) throw new Error(`an edit was not seen within ${spreadWithinMs} ms`);
    await pause(lookEveryMs);
  }
}

/** What the disk alone needs for what an acknowledged edit waits for. */
async function diskSyncs(dir: string): Promise<ReturnType<typeof figureOf>> {
  const file = await open(join(dir, 'syncs'), 'w');
  const block = Buffer.alloc(4096);
  const samples: number[] = [];
  try {
    for (let i = 0; i < 500; i++) {
      const start = performance.now();
      await file.write(block);
      await file.datasync();
      samples.push(performance.now() - start);
    }
  } finally {
    await file.close();
  }
  return figureOf(samples);
}

/** Bytes that left each host's interface, with all headers. */
async function bytesIdle(context: BenchContext, cluster: BundleCluster): Promise<Measured> {
  const settleMs = context.pick(20_000, 8_000);
  const windowMs = context.pick(60_000, 20_000);
  const read = () =>
    Promise.all(
      cluster.bed.hosts.map(async (host) => {
        const text = await host.mustExec('cat /sys/class/net/eth0/statistics/tx_bytes');
        return { bytes: Number(text), atMs: performance.now() };
      }),
    );
  await measureFor(settleMs);
  const before = await read();
  await measureFor(windowMs);
  const after = await read();
  const perSecond = after.map(({ bytes, atMs }, index) => {
    const first = before[index] as (typeof before)[number];
    return ((bytes - first.bytes) * 1_000) / (atMs - first.atMs);
  });
  const ours = figureOf(perSecond);
  const note = `over ${windowMs / 1_000} s, sent, with the headers of Ethernet, IP and TCP; as much is received`;
  return { ours, ok: isWithin(ours, 2_000), note };
}
