/**
 * What was acknowledged stays: daemons killed at random moments under edits, state directories damaged in every way that a
 * disk knows, a full disk. Issue 2, Show 7.
 */
import {
  copyFileSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type {
  DoctorAnswer,
  EditAnswer,
  EventRow,
  HistoryRow,
} from '../../daemon/operations/answers.ts';
import { eventually, measureFor } from '../await.ts';
import { TestCluster } from '../testbed/cluster.ts';
import type { CliResult } from '../testbed/cluster.ts';

const stateDir = '/var/lib/trellis';
const timings: Record<string, number | string> = {};

interface Edit {
  readonly key: string;
  readonly hash: string;
}

function stateFile(cluster: TestCluster, host: number, path: string): string {
  return join(cluster.bed.host(host).rootPath, stateDir, path);
}

/** Puts metadata on h1: every edit has a key of its own, so that none hides another. */
async function edit(cluster: TestCluster, from: number, key: string): Promise<Edit> {
  const args = ['host', 'set', 'h1', `${key}=${key}-value`];
  const answer = await cluster.json<EditAnswer>(from, args);
  expect(answer.hash).toMatch(/^[0-9a-f]{64}$/);
  return { key, hash: String(answer.hash) };
}

async function missing(cluster: TestCluster, from: number, edits: readonly Edit[]) {
  const history = await cluster.json<HistoryRow[]>(from, ['history', '--max', '10000']);
  const hashes = new Set(history.map((row) => row.hash));
  const host = await cluster.json<{ meta: Record<string, string> }>(from, ['host', 'show', 'h1']);
  return edits
    .filter(({ key, hash }) => !hashes.has(hash) || host.meta[key] !== `${key}-value`)
    .map(({ key }) => key);
}

/** By hash and by content, on each of these hosts. */
async function expectAll(
  cluster: TestCluster,
  hosts: readonly number[],
  edits: readonly Edit[],
): Promise<void> {
  for (const index of hosts) {
    await eventually(
      async () => {
        expect(await missing(cluster, index, edits)).toEqual([]);
        return true;
      },
      { withinMs: 15_000, everyMs: 200, what: `h${index + 1} has all ${edits.length} edits` },
    );
  }
}

async function damagesTold(cluster: TestCluster, host: number): Promise<string[]> {
  const events = await cluster.json<EventRow[]>(host, ['events', '--max', '1000']);
  return events
    .filter((event) => event.kind === 'state.damaged' && event.host === `h${host + 1}`)
    .map((event) => event.text);
}

async function doctorsState(cluster: TestCluster, host: number) {
  const { data } = await cluster.trellis(host, ['doctor', '--json']);
  return (data as DoctorAnswer).checks.find((check) => check.name === 'state');
}

function flipInMiddle(path: string): void {
  const bytes = readFileSync(path);
  const at = Math.floor(bytes.length / 2);
  bytes[at] = (bytes[at] ?? 0) ^ 0x10;
  writeFileSync(path, bytes);
}

/** The same byte in both copies of a log: nothing on this disk can mend it. */
function flipInBoth(file: (name: string) => string): void {
  flipInMiddle(file('logs/envelopes.log'));
  copyFileSync(file('logs/envelopes.log'), file('logs/envelopes-copy.log'));
}

function tearTail(path: string): void {
  truncateSync(path, statSync(path).size - 7);
}

describe('three hosts', { timeout: 120_000 }, () => {
  let cluster: TestCluster;
  const acknowledged: Edit[] = [];

  beforeAll(async () => {
    cluster = await TestCluster.create({ hosts: 3, engines: false, roles: [['web'], [], []] });
    await cluster.login(1);
    await cluster.login(2);
  });
  afterAll(async () => {
    await cluster?.destroy();
    console.log('durability:', timings);
  });

  it('kill -9 at random moments under edits: everything acknowledged is on all hosts [trellis:E5]', async () => {
    const host = cluster.bed.host(1);
    const script = `n=0; while [ ! -e /run/enough ]; do n=$((n+1));
      out=$(trellis host set h1 $1$n=$1$n-value --json 2>/dev/null) && echo "$1$n $out" | tr -d '\\n' >> /run/acked-$1 && echo >> /run/acked-$1; done`;
    const streams = await Promise.all(
      ['a', 'b'].map((name) => host.spawn(['sh', '-c', script, 'sh', name])),
    );
    const acked = () =>
      ['a', 'b'].flatMap((name) =>
        host.exists(`/run/acked-${name}`)
          ? host.readFile(`/run/acked-${name}`).split('\n').filter(Boolean)
          : [],
      );
    const moments: number[] = [];
    for (let kills = 0; kills < 5; kills++) {
      const before = acked().length;
      await eventually(() => acked().length > before + 1, { withinMs: 30_000 });
      const afterMs = Math.floor(Math.random() * 600);
      moments.push(afterMs);
      await measureFor(afterMs);
      await cluster.signalDaemon(1, 'KILL');
      await cluster.startDaemon(1);
    }
    host.writeFile('/run/enough', '');
    await Promise.all(streams.map((stream) => stream.exited));
    for (const line of acked()) {
      const at = line.indexOf(' ');
      const answer = JSON.parse(line.slice(at)) as EditAnswer;
      acknowledged.push({ key: line.slice(0, at), hash: String(answer.hash) });
    }
    timings['edits acknowledged under five kills'] = acknowledged.length;
    timings['killed after, ms'] = moments.join(' ');
    expect(acknowledged.length).toBeGreaterThan(10);
    await expectAll(cluster, [0, 1, 2], acknowledged);
  });

  /** Stops the daemon of h3, damages its state, starts it: everything must be there again. */
  async function survives(
    how: 'TERM' | 'KILL',
    damage: (path: (name: string) => string) => void,
    told: RegExp,
  ): Promise<void> {
    acknowledged.push(await edit(cluster, 2, `last${acknowledged.length}`));
    await expectAll(cluster, [0], acknowledged.slice(-1));
    await cluster.signalDaemon(2, how);
    damage((name) => stateFile(cluster, 2, name));
    await cluster.startDaemon(2);
    expect(await damagesTold(cluster, 2)).toContainEqual(expect.stringMatching(told));
    await cluster.waitReady(3);
    await expectAll(cluster, [2], acknowledged);
    acknowledged.push(await edit(cluster, 2, `after${acknowledged.length}`));
    await expectAll(cluster, [0, 1, 2], acknowledged.slice(-1));
  }

  it('a torn tail of both copies of a log is fetched again', async () => {
    await survives(
      'KILL',
      (path) => {
        tearTail(path('logs/envelopes.log'));
        tearTail(path('logs/envelopes-copy.log'));
      },
      /^envelopes: cut off/,
    );
  });

  it('a flipped byte in both copies of a log is fetched from a peer, and said', async () => {
    await survives('KILL', flipInBoth, /^envelopes: .*edits wait for lost ones/);
    expect(await doctorsState(cluster, 2)).toMatchObject({
      result: 'warn',
      todo: expect.stringContaining('other hosts'),
    });
  });

  const snapshots = (path: (name: string) => string) =>
    readdirSync(path('files'))
      .filter((name) => name.startsWith('document-'))
      .map((name) => path(`files/${name}`));

  it('a missing and a damaged snapshot are built again from the log', async () => {
    await survives(
      'TERM',
      (path) => {
        expect(snapshots(path).length).toBeGreaterThan(0);
        for (const file of snapshots(path)) rmSync(file);
      },
      /^document-env-prod: it was written before and is gone/,
    );
    await survives(
      'TERM',
      (path) => {
        for (const file of snapshots(path)) flipInMiddle(file);
      },
      /^document-env-prod: the checksum/,
    );
  });

  it('a missing roster comes back from its copy, and from a peer when both are gone', async () => {
    await survives('KILL', (path) => rmSync(path('logs/roster.log')), /^roster: .*from its copy/);
    await survives(
      'KILL',
      (path) => {
        for (const name of ['logs', 'files']) rmSync(path(name), { recursive: true });
      },
      /^roster: its \d+ records were fetched again/,
    );
    expect(await doctorsState(cluster, 2)).toMatchObject({ result: 'warn' });
  });

  it('a full disk refuses an edit, keeps nothing of it anywhere, and works again with room', async () => {
    const host = cluster.bed.host(1);
    await cluster.signalDaemon(1, 'TERM');
    await host.mustExec(`
      mv ${stateDir} ${stateDir}.disk && mkdir -m 700 ${stateDir}
      mount -t tmpfs -o size=32m,mode=700 tmpfs ${stateDir} && cp -a ${stateDir}.disk/. ${stateDir}/`);
    await cluster.startDaemon(1);
    await cluster.waitReady(3);
    await expectAll(cluster, [1], acknowledged);
    await host.exec(
      `dd if=/dev/zero of=${stateDir}/filler bs=64k; dd if=/dev/zero of=${stateDir}/filler2 bs=1`,
    );
    // The last page of the log has room for a few.
    let refused: CliResult | null = null;
    for (let n = 0; n < 20 && refused === null; n++) {
      const args = ['host', 'set', 'h1', `full${n}=full${n}-value`, '--json'];
      const result = await cluster.trellis(1, args);
      if (result.code !== 0) refused = result;
      else acknowledged.push({ key: `full${n}`, hash: (result.data as { hash: string }).hash });
    }
    expect(refused).toMatchObject({ code: 1, data: { error: { code: 'DISK_FULL' } } });
    const kept = acknowledged.filter(({ key }) => key.startsWith('full')).length;
    // Whatever the others learn of h2 after this, they learn in order: were the refused edit under way, it would show.
    acknowledged.push(await edit(cluster, 0, 'elsewhere'));
    await expectAll(cluster, [0, 1, 2], acknowledged);
    await host.mustExec(`rm ${stateDir}/filler ${stateDir}/filler2`);
    acknowledged.push(
      await eventually(() => edit(cluster, 1, 'room'), { withinMs: 15_000, everyMs: 250 }),
    );
    await cluster.signalDaemon(1, 'KILL');
    await cluster.startDaemon(1);
    await expectAll(cluster, [0, 1, 2], acknowledged);
    for (const index of [0, 1, 2]) {
      const { stdout } = await cluster.trellis(index, ['host', 'show', 'h1', '--json']);
      expect(stdout).not.toContain(`full${kept}-value`);
      const history = await cluster.json<HistoryRow[]>(index, ['history', '--max', '10000']);
      expect(history.filter((row) => row.message.includes('full'))).toHaveLength(kept);
    }
  });
});

describe('a cluster of one', { timeout: 120_000 }, () => {
  let cluster: TestCluster;
  const edits: Edit[] = [];
  const file = (name: string): string => stateFile(cluster, 0, name);

  beforeAll(async () => {
    cluster = await TestCluster.create({ hosts: 1, engines: false });
    for (let n = 0; n < 6; n++) edits.push(await edit(cluster, 0, `one${n}`));
  });
  afterAll(() => cluster?.destroy());

  it('loses nothing to a flipped byte in any one file, or to its loss', async () => {
    for (const damage of [
      () => flipInMiddle(file('logs/envelopes.log')),
      () => rmSync(file('logs/envelopes.log')),
      () => rmSync(file('logs/envelopes-copy.log')),
      () => flipInMiddle(file('logs/roster.log')),
      () => flipInMiddle(file('cluster.json')),
      () => flipInMiddle(file('issuing.key')),
      () => flipInMiddle(file('host.key')),
      () => rmSync(file('host.id')),
    ]) {
      await cluster.signalDaemon(0, 'KILL');
      damage();
      await cluster.startDaemon(0);
      await expectAll(cluster, [0], edits);
      edits.push(await edit(cluster, 0, `more${edits.length}`));
      expect(await doctorsState(cluster, 0)).toMatchObject({ result: 'warn' });
    }
  });

  it('names what is lost when both copies are damaged, keeps what came before, and goes on', async () => {
    await cluster.signalDaemon(0, 'KILL');
    flipInBoth(file);
    await cluster.startDaemon(0);
    const lost = await missing(cluster, 0, edits);
    timings['edits lost with both copies damaged in the middle'] =
      `${lost.length} of ${edits.length}`;
    expect(lost.length).toBeLessThan(edits.length);
    const told = (await damagesTold(cluster, 0)).join();
    expect(told).toMatch(/edits wait for lost ones before them \(.*h1/);
    expect(await doctorsState(cluster, 0)).toMatchObject({
      result: 'warn',
      todo: expect.stringContaining('no other host has a copy'),
    });
    const next = await edit(cluster, 0, 'next');
    await expectAll(cluster, [0], [next]);
  });
});
