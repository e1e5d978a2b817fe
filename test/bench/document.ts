/** Rows of a large configuration: 10,000 services on one real daemon of the release bundle. */
import { performance } from 'node:perf_hooks';
import { measureFor } from '../await.ts';
import { runChild } from './child.ts';
import { measureCalm, type BenchContext, type Measured, type RowFamily } from './context.ts';
import { BundleCluster, call, untilReady, useOf } from './daemons.ts';
import type { LoadedDocument } from './document-main.ts';
import { figureOf, isWithin } from './row.ts';

export const documentFamily: RowFamily = {
  ids: ['config-load-10000', 'config-edit-10000'],
  run: async (context) => {
    context.say('a document of 10,000 services');
    const cluster = await BundleCluster.make(context, {
      hosts: 1,
      engines: false,
      ownBundles: true,
    });
    try {
      await fill(cluster);
      const memory = await memoryAfterRestart(cluster);
      if (context.wants('config-edit-10000'))
        context.report(
          'config-edit-10000',
          withMemory(await measureCalm(() => editIt(context, cluster)), memory),
        );
      if (context.wants('config-load-10000'))
        context.report(
          'config-load-10000',
          withMemory(await measureCalm(() => loadIt(context, cluster)), memory),
        );
    } finally {
      await cluster.destroy();
    }
  },
};

const services = 10_000;
/** One edit is at most 1 MiB. */
const files = 2;
const memoryLimitMegabytes = 200;

function fileText(file: number): string {
  const each = services / files;
  const lines = Array.from({ length: each }, (_, index) => {
    const n = file * each + index;
    // Seven leaves, with kind, name and source.
    return `  s${n}: { role: web, image: "demo/app:${n % 50}", count: { perRole: { min: 1, max: 2 } } }`;
  });
  return `apiVersion: trellis/v1\nservices:\n${lines.join('\n')}\n`;
}

async function fill(cluster: BundleCluster): Promise<void> {
  for (let file = 0; file < files; file++) {
    const result = await call<{ changed: number }>(cluster.socket(0), 'desired/apply', {
      text: fileText(file),
      fileName: `part${file}.yaml`,
      source: `part${file}`,
      noPlan: true,
      noPush: true,
    });
    if (result.changed === 0) throw new Error('the services were not written');
  }
}

interface Memory {
  readonly pssMegabytes: number;
  readonly words: string;
}

/** A clean stop writes the snapshot that the next start loads. */
async function memoryAfterRestart(cluster: BundleCluster): Promise<Memory> {
  await cluster.stopDaemon(0);
  const start = performance.now();
  const daemon = await cluster.startDaemon(0);
  await untilReady(cluster.socket(0));
  const readyMs = Math.round(performance.now() - start);
  await measureFor(5_000);
  const use = await useOf(cluster.bed.host(0), daemon.pid);
  const megabytes = Math.round(use.pssMegabytes);
  return {
    pssMegabytes: use.pssMegabytes,
    words: `the daemon has ${megabytes} MB (PSS) with it, and is ready ${readyMs} ms after a restart`,
  };
}

let tries = 0;

/** Through the API: parsed, validated, authorised, signed, applied, on disk, answered. */
async function editIt(context: BenchContext, cluster: BundleCluster): Promise<Measured> {
  const samples: number[] = [];
  // Every edit of this run changes something, also when all is measured again.
  tries++;
  const count = context.pick(500, 100);
  for (let edit = 0; edit < count + 10; edit++) {
    const start = performance.now();
    const { changed } = await call<{ changed: number }>(cluster.socket(0), 'service/scale', {
      service: `s${(edit * 37) % services}`,
      count: `1-${2 + tries}`,
      noPlan: true,
    });
    if (changed === 0) throw new Error('an edit changed nothing');
    if (edit >= 10) samples.push(performance.now() - start);
  }
  const ours = figureOf(samples);
  const use = await useOf(cluster.bed.host(0), cluster.daemon(0).pid);
  const megabytes = Math.round(use.pssMegabytes);
  const note = `by \`service scale\` over the socket, without a plan; the daemon has ${megabytes} MB (PSS) after ${count} edits`;
  return { ours, ok: isWithin(ours, 25) && megabytes < memoryLimitMegabytes, note };
}

/** Each in a fresh process, as a start is. */
async function loadIt(context: BenchContext, cluster: BundleCluster): Promise<Measured> {
  const { clusterId } = await cluster.json<{ clusterId: string }>(0, ['info']);
  await cluster.stopDaemon(0);
  const samples: number[] = [];
  const cpu: number[] = [];
  const stateDir = `${cluster.bed.host(0).rootPath}/var/lib/trellis`;
  try {
    for (let round = 0; round < context.pick(12, 4); round++) {
      const loaded = await runChild<LoadedDocument>('document-main.ts', [stateDir, clusterId], {
        flags: ['--max-semi-space-size=1'],
        timeoutMs: 60_000,
      });
      if (loaded.services !== services) throw new Error(`${loaded.services} services were loaded`);
      samples.push(loaded.loadMs);
      cpu.push(loaded.cpuMs);
    }
  } finally {
    await cluster.startDaemon(0);
  }
  const ours = figureOf(samples);
  const note = `each in a fresh process; ${figureOf(cpu).median} ms of CPU time in it, with that of V8's helpers`;
  return { ours, ok: isWithin(ours, 600), note };
}

function withMemory(measured: Measured, memory: Memory): Measured {
  const words = measured.note === undefined ? memory.words : `${memory.words}; ${measured.note}`;
  return {
    ...measured,
    ok: measured.ok && memory.pssMegabytes < memoryLimitMegabytes,
    note: words,
  };
}
