/** Rows of three hosts with real engines. First ours, then Docker Swarm on the same engines with the same image. */
import { spawnSync } from 'node:child_process';
import { performance } from 'node:perf_hooks';
import { eventually, measureFor } from '../await.ts';
import {
  measureCalm,
  noted,
  watchLoad,
  type BenchContext,
  type Measured,
  type RowFamily,
} from './context.ts';
import { BundleCluster, call, untilReady, useOf, type ProcessUse } from './daemons.ts';
import { hostRunning, image, spreadImage, untilRunning } from './engine-api.ts';
import { ExclusiveService, failoverExclusive, switchover } from './exclusive.ts';
import { powerCutUntilAnswer } from './failover.ts';
import { hasKeepalived, keepalivedFailovers, keepalivedName } from './keepalived.ts';
import { figureOf, isWithin, type Figure } from './row.ts';
import { Swarm } from './swarm.ts';

const hostCount = 3;
const indexes = [0, 1, 2];

export const engineFamily: RowFamily = {
  ids: [
    'rss-idle',
    'rss-idle-guard',
    'cpu-idle',
    'status',
    'ready',
    'failover-exclusive',
    'switchover',
    'apply-30',
    'failover-shared',
  ],
  run: async (context) => {
    context.say('three hosts with engines');
    const cluster = await BundleCluster.make(context, {
      hosts: hostCount,
      engines: true,
      ownBundles: true,
      roles: ['web'],
      hasSharedDisk: true,
    });
    try {
      await spreadImage(cluster.bed.hosts);
      await cluster.json(0, ['image', 'push', image]);
      await idleAndStart(context, cluster);
      await againstPeers(context, cluster);
    } finally {
      await cluster.destroy();
    }
  },
};

// ---- A cluster at rest ------------------------------------------------------------------------------------------

const idleService = `  idle: { role: web, image: "${image}", count: { perHost: { min: 1, max: 1 } } }`;

async function applyServices(cluster: BundleCluster, lines: readonly string[]): Promise<void> {
  const services = lines.length === 0 ? 'services: {}' : `services:\n${lines.join('\n')}`;
  await cluster.mustApply(0, `apiVersion: trellis/v1\nroles: { web: {} }\n${services}\n`, [
    '--prune',
    '--yes',
  ]);
}

async function idleAndStart(context: BenchContext, cluster: BundleCluster): Promise<void> {
  const isIdleWanted = ['rss-idle', 'rss-idle-guard', 'cpu-idle'].some((id) => context.wants(id));
  if (!isIdleWanted && !context.wants('status') && !context.wants('ready')) return;
  await applyServices(cluster, [idleService]);
  await untilRunning(cluster.bed.hosts, '-idle-', hostCount, 60_000);
  if (isIdleWanted) await idle(context, cluster);
  if (context.wants('status'))
    context.report('status', await measureCalm(async () => status(context, cluster)));
  if (context.wants('ready'))
    context.report('ready', await measureCalm(() => ready(context, cluster)));
}

/** A container on each host; nobody asks anything. Both rows from one window. */
async function idle(context: BenchContext, cluster: BundleCluster): Promise<void> {
  const settleMs = context.pick(30_000, 10_000);
  const windowMs = context.pick(60_000, 20_000);
  const uses = (): Promise<ProcessUse[]> =>
    Promise.all(indexes.map((index) => useOf(cluster.bed.host(index), cluster.daemon(index).pid)));
  const guards = await Promise.all(indexes.map((index) => cluster.guardPid(index)));
  const guardUses = (): Promise<ProcessUse[]> =>
    Promise.all(indexes.map((index) => useOf(cluster.bed.host(index), guards[index] ?? 0)));
  await measureFor(settleMs);
  const { result, load } = await watchLoad(async () => {
    const before = { daemons: await uses(), guards: await guardUses() };
    const startMs = performance.now();
    await measureFor(windowMs);
    const after = { daemons: await uses(), guards: await guardUses() };
    return { before, after, tookMs: performance.now() - startMs };
  });
  const { before, after, tookMs } = result;
  const sharesOf = (who: 'daemons' | 'guards'): Figure =>
    figureOf(
      after[who].map((use, i) => (100 * (use.cpuMs - (before[who][i]?.cpuMs ?? 0))) / tookMs),
    );
  const memory = (id: string, of: readonly ProcessUse[], limit: number): void => {
    if (!context.wants(id)) return;
    const ours = figureOf(of.map((use) => use.pssMegabytes));
    const anonymous = figureOf(of.map((use) => use.anonymousMegabytes));
    const note = `each host has a bundle of its own, as a machine of its own has; ${anonymous.median} MB of it anonymous; one container per host; ${load.words}`;
    context.report(id, { ours, ok: isWithin(ours, limit), note });
  };
  memory('rss-idle', after.daemons, 130);
  memory('rss-idle-guard', after.guards, 45);
  if (context.wants('cpu-idle')) {
    const ours = sharesOf('daemons');
    const note = `over ${windowMs / 1_000} s, with the programs it runs; its guard takes ${sharesOf('guards').median} more; one container per host; ${load.words}`;
    context.report('cpu-idle', { ours, ok: isWithin(ours, 1), note });
  }
}

/** From the start of the program to its end, run on this machine against the socket of a host. */
function status(context: BenchContext, cluster: BundleCluster): Measured {
  const command = `${cluster.bed.host(0).rootPath}/opt/trellis/bin/trellis`;
  const env = { PATH: process.env['PATH'] ?? '', TRELLIS_SOCKET: cluster.socket(0) };
  const samples: number[] = [];
  for (let round = 0; round < context.pick(100, 30) + 3; round++) {
    const start = performance.now();
    const { status: code, stderr } = spawnSync(command, ['status'], { env, encoding: 'utf8' });
    const tookMs = performance.now() - start;
    if (code !== 0 && code !== 1) throw new Error(`trellis status: ${code} ${stderr}`);
    if (round >= 3) samples.push(tookMs);
  }
  const ours = figureOf(samples);
  return { ours, ok: isWithin(ours, 150), note: 'release bundle, warm compile cache' };
}

async function ready(context: BenchContext, cluster: BundleCluster): Promise<Measured> {
  const samples: number[] = [];
  const index = 2;
  for (let round = 0; round < context.pick(20, 8) + 1; round++) {
    await cluster.stopDaemon(index);
    const start = performance.now();
    const [daemon] = await Promise.all([
      cluster.launch(index),
      untilReady(cluster.socket(index))
        .then(() => performance.now() - start)
        .then((ms) => round > 0 && samples.push(ms)),
    ]);
    if (daemon.pid === 0) throw new Error('the daemon has no process id');
  }
  await cluster.waitReady(hostCount);
  const ours = figureOf(samples);
  const note =
    'release bundle, warm compile cache; until /healthz says that the member is up, its HTTPS API and its plugins too';
  return { ours, ok: isWithin(ours, 1_000), note };
}

// ---- Against peers on the same engines --------------------------------------------------------------------------

const serviceCount = 30;
const swarmName = 'docker swarm';

async function againstPeers(context: BenchContext, cluster: BundleCluster): Promise<void> {
  if (context.wants('apply-30'))
    context.report('apply-30', await measureCalm(() => apply(context, cluster)));
  const exclusive = await exclusiveRows(context, cluster);
  const isShared = context.wants('failover-shared');
  if (exclusive === null && !isShared) return;
  const cuts = Math.min(context.cuts ?? Infinity, context.pick(4, 1));
  const shared = isShared ? await watchLoad(() => ourFailovers(context, cluster, cuts)) : null;
  await leaveAll(cluster);
  context.say('the same with Docker Swarm');
  // One replica: it knows no other kind of "only one", so that its figures stand beside both rows.
  const theirs = await watchLoad(async () => {
    const swarm = await Swarm.form(cluster.bed.hosts);
    const seconds = await swarmFailovers(context, cluster, swarm, cuts);
    await swarm.dissolve();
    return seconds;
  });
  const load = `docker swarm at ${theirs.load.words}`;
  if (shared !== null) {
    const figures = { ours: figureOf(shared.result), theirs: figureOf(theirs.result) };
    const note = `ours at ${shared.load.words}, ${load}`;
    context.report('failover-shared', noted(judgeFailover(figures), note));
  }
  if (exclusive === null) return;
  const swarm = figureOf(theirs.result.map((seconds) => seconds * 1_000));
  const { peers, words } = await addressPeers(context, cluster);
  const note = `docker swarm as in failover-shared, with one replica; ${words}; ${load}`;
  const measured = { ...exclusive, peers: { [swarmName]: swarm, ...peers } };
  context.report('failover-exclusive', noted(measured, note));
}

/** Both on one service; what is left is `failover-exclusive` without its peers. */
async function exclusiveRows(
  context: BenchContext,
  cluster: BundleCluster,
): Promise<Measured | null> {
  if (!context.wants('failover-exclusive') && !context.wants('switchover')) return null;
  const exclusive = await ExclusiveService.start(cluster, 'web');
  if (context.wants('switchover'))
    context.report('switchover', await measureCalm(() => switchover(context, exclusive)));
  const measured = context.wants('failover-exclusive')
    ? await measureCalm(() => failoverExclusive(context, exclusive))
    : null;
  await exclusive.remove();
  await untilRunning(cluster.bed.hosts, '-writer-', 0, 120_000);
  return measured;
}

async function addressPeers(
  context: BenchContext,
  cluster: BundleCluster,
): Promise<{ peers: Record<string, Figure>; words: string }> {
  const { hosts } = cluster.bed;
  if (!(await hasKeepalived(cluster.bed.host(0))))
    return { peers: {}, words: 'keepalived is not installed' };
  context.say('keepalived');
  try {
    const ms = await keepalivedFailovers(hosts, Math.min(context.cuts ?? Infinity, 3));
    const words =
      'keepalived only moves an address between servers that all run already, without a quorum: in a partition two have it';
    return { peers: { [keepalivedName]: figureOf(ms) }, words };
  } catch (error) {
    // A peer that does not run takes nothing from what was measured of ours.
    return { peers: {}, words: `keepalived could not be measured: ${String(error).slice(0, 200)}` };
  }
}

/** In turn, so that both find the machine as busy; each is idle meanwhile. */
async function apply(context: BenchContext, cluster: BundleCluster): Promise<Measured> {
  const ours: number[] = [];
  const theirs: number[] = [];
  const cpuSeconds: number[] = [];
  const { hosts } = cluster.bed;
  const swarm = await Swarm.form(hosts);
  for (let round = 0; round < context.pick(4, 2); round++) {
    const before = await cpuOfDaemons(cluster);
    ours.push(await ourApply(cluster, `r${round}b`));
    cpuSeconds.push((await cpuOfDaemons(cluster)) - before);
    theirs.push((await swarm.apply(`s${round}b`, serviceCount)) / 1_000);
    context.say(`apply ${ours.at(-1)?.toFixed(1)} s, swarm ${theirs.at(-1)?.toFixed(1)} s`);
    await swarm.removeAll();
  }
  await swarm.dissolve();
  const measured = judgeApply({ ours: figureOf(ours), theirs: figureOf(theirs) });
  return noted(
    measured,
    `our three daemons used ${figureOf(cpuSeconds).median} s of CPU in a round`,
  );
}

async function cpuOfDaemons(cluster: BundleCluster): Promise<number> {
  const uses = await Promise.all(
    indexes.map((index) => useOf(cluster.bed.host(index), cluster.daemon(index).pid)),
  );
  return uses.reduce((sum, use) => sum + use.cpuMs, 0) / 1_000;
}

function judgeApply({ ours, theirs }: { ours: Figure; theirs: Figure }): Measured {
  const ok = ours.median !== null && theirs.median !== null && ours.median < theirs.median;
  const note =
    'same image on all engines beforehand; ours by one `trellis apply`, theirs by 30 calls of the API of a manager, without overlay networks (so without names for services)';
  return { ours, peers: { [swarmName]: theirs }, ok, note };
}

function judgeFailover({ ours, theirs }: { ours: Figure; theirs: Figure }): Measured {
  const note =
    'asked every 50 ms; ours under the name and number of the service, theirs at the published port of both hosts that are left; three managers';
  return { ours, peers: { [swarmName]: theirs }, ok: isWithin(ours, 10), note };
}

/** Seconds; nothing of it is left when it resolves. */
async function ourApply(cluster: BundleCluster, prefix: string): Promise<number> {
  const lines = Array.from(
    { length: serviceCount },
    (_, n) =>
      `  ${prefix}${n}: { role: web, image: "${image}", count: { perRole: { min: 1, max: 1 } } }`,
  );
  const start = performance.now();
  await applyServices(cluster, [idleService, ...lines]);
  await untilRunning(cluster.bed.hosts, `-${prefix}`, serviceCount, 300_000);
  const seconds = (performance.now() - start) / 1_000;
  await applyServices(cluster, [idleService]);
  await untilRunning(cluster.bed.hosts, `-${prefix}`, 0, 120_000);
  return seconds;
}

interface ServiceAnswer {
  readonly address: string;
  readonly ports: readonly { readonly number: number }[];
}

/** A service of its own for each round: one slot moves at most three times an hour. */
async function ourFailovers(
  context: BenchContext,
  cluster: BundleCluster,
  rounds: number,
): Promise<number[]> {
  const seconds: number[] = [];
  const { bed } = cluster;
  for (let round = 0; round < rounds; round++) {
    const name = `fail${round}`;
    await applyServices(cluster, [
      `  ${name}: { role: web, image: "${image}", count: { perRole: { min: 1, max: 1 } }, ports: [ { name: http, container: 80 } ] }`,
    ]);
    await untilRunning(bed.hosts, `-${name}-`, 1, 60_000);
    const shown = await call<ServiceAnswer>(cluster.socket(0), 'service/show', { service: name });
    const victim = await hostRunning(bed.hosts, `-${name}-`);
    const observer = indexes.find((index) => index !== victim) ?? 0;
    const tookMs = await powerCutUntilAnswer({
      victim: bed.host(victim),
      observer: bed.host(observer),
      urls: [`http://${shown.address}:${shown.ports[0]?.number}/hostname`],
    });
    seconds.push(tookMs / 1_000);
    context.say(`failover ${(tookMs / 1_000).toFixed(1)} s`);
    await bed.host(victim).boot();
    await bed.host(victim).startEngine();
    await cluster.startDaemon(victim);
    await cluster.waitReady(hostCount);
    // Edits need a session, and a boot ends it.
    if (victim === 0) await cluster.login(0);
  }
  await applyServices(cluster, []);
  await untilRunning(bed.hosts, 'trellis-', 0, 120_000);
  return seconds;
}

/** Nothing of ours is left to disturb the peer. */
async function leaveAll(cluster: BundleCluster): Promise<void> {
  for (const index of indexes.toReversed()) {
    await cluster.json(index, ['leave', '--yes', '--force']);
    await cluster.stopDaemon(index);
  }
}

const swarmPort = 8_080;

async function swarmFailovers(
  context: BenchContext,
  cluster: BundleCluster,
  swarm: Swarm,
  rounds: number,
): Promise<number[]> {
  const seconds: number[] = [];
  const { bed } = cluster;
  for (let round = 0; round < rounds; round++) {
    const name = `fail${round}`;
    await eventually(() => swarm.createService(name, { port: swarmPort }).then(() => true), {
      withinMs: 60_000,
      everyMs: 1_000,
    });
    await untilRunning(bed.hosts, name, 1, 120_000);
    const victim = await hostRunning(bed.hosts, name);
    const left = indexes.filter((index) => index !== victim);
    const tookMs = await powerCutUntilAnswer({
      victim: bed.host(victim),
      observer: bed.host(left[0] as number),
      urls: indexes.map((index) => `http://${bed.host(index).ip}:${swarmPort}/hostname`),
    });
    seconds.push(tookMs / 1_000);
    context.say(`swarm failover ${(tookMs / 1_000).toFixed(1)} s`);
    await bed.host(victim).boot();
    await bed.host(victim).startEngine();
    await swarm.untilReady();
    await swarm.removeAll();
  }
  return seconds;
}
