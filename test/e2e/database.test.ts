/**
 * A real database on four hosts: its storage is active on one of them and copied to the others, the server runs where the
 * storage is active, and a client that inserts rows all the time finds it by its name. What the client was told to be
 * committed is compared with what is there.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { ServiceDetails } from '../../daemon/operations/answers.ts';
import type {
  LeaseDetails,
  MoveAnswer,
  StorageCopyRow,
  StorageRow,
} from '../../daemon/operations/lease-answers.ts';
import { eventually } from '../await.ts';
import { TestCluster } from '../testbed/cluster.ts';
import {
  databaseImage,
  gapOf,
  insertLoop,
  rowsIn,
  tenuresOn,
  type Insert,
  type InsertLoop,
  type Tenure,
} from '../testbed/database.ts';

const desired = `
apiVersion: trellis/v1
roles: { db: {} }
storage:
  dbdata: { role: db, driver: sync, exclusive: true, path: /srv/db }
services:
  database:
    role: db
    image: demo/database:1
    exclusive: true
    follows: dbdata
    count: { perRole: { min: 1, max: 1 } }
    ports: [ { name: sql, container: 5432 } ]
    stopGrace: 10s
`;

const indexes = [0, 1, 2, 3] as const;
const report: Record<string, unknown> = {};
let cluster: TestCluster;
let server: { name: string; port: number };
let loop: InsertLoop | null = null;
/** By host and epoch. Read after each step: a host that may not have the service any more removes its container, and what that said. */
const known = new Map<string, Tenure>();
/** Where rows are inserted from. */
let client = 0;
/** Rows up to this number may be gone: their host lost its power. */
let forgetBefore = 0;
/** What the active host does between two looks at its files, on a busy machine. */
const lookMsMax = 3_000;
const partitionMs = 6_000;
/** Longer than a takeover takes. */
const staleMs = 6_000;
const noRsync = '#!/bin/sh\n[ "$1" = --version ] || exit 1\n';

beforeAll(async () => {
  cluster = await TestCluster.create({ hosts: 4, roles: indexes.map(() => ['db']) });
  await databaseImage(cluster.bed.host(0), 'demo/database:1');
}, 240_000);

afterAll(async () => {
  console.log('database:', JSON.stringify(report, null, 1));
  await loop?.stop();
  await cluster?.destroy();
});

afterEach(async () => {
  const hosts = cluster.bed.hosts.filter(({ isOn }) => isOn);
  for (const found of await tenuresOn(hosts)) {
    const key = `${found.host}@${found.epoch}`;
    const { firstMs, lastMs } = known.get(key) ?? found;
    known.set(key, {
      ...found,
      firstMs: Math.min(firstMs, found.firstMs),
      lastMs: Math.max(lastMs, found.lastMs),
    });
  }
});

const nameOf = (index: number): string => cluster.bed.host(index).name;
const isOn = (index: number): boolean => cluster.bed.host(index).isOn;
const live = (): number[] => indexes.filter(isOn);

async function storage(from: number): Promise<StorageRow> {
  const [row] = await cluster.json<StorageRow[]>(from, ['storage', 'ls']);
  if (row === undefined) throw new Error('no storage');
  return row;
}

const copyOf = (row: StorageRow, index: number): StorageCopyRow | undefined =>
  row.hosts.find(({ host }) => host === nameOf(index));

async function holder(withinMs = 30_000): Promise<{ index: number; epoch: number }> {
  return eventually(
    async () => {
      const [one, ...others] = await cluster.holders('storage dbdata');
      expect(others).toEqual([]);
      return one ?? null;
    },
    { withinMs, everyMs: 50, what: 'somebody holds it' },
  );
}

/** Hosts on which its container runs. */
async function running(): Promise<number[]> {
  const found = await Promise.all(
    live().map(async (index) => {
      const { stdout } = await cluster.bed
        .host(index)
        .docker(['ps', '-q', '--filter', 'label=trellis.service=database']);
      return stdout.trim() === '' ? [] : [index];
    }),
  );
  return found.flat();
}

async function waitInSync(withinMs = 60_000): Promise<StorageRow> {
  return eventually(
    async () => {
      const from = live()[0] ?? 0;
      const row = await storage(from);
      const active = row.active;
      const late = live().filter((index) => {
        const copy = copyOf(row, index);
        const wanted = nameOf(index) === active ? 'active' : 'replica';
        return copy?.state !== wanted || !copy.isInSync || copy.epoch !== row.epoch;
      });
      if (active === null || late.length > 0)
        throw new Error(`${active}: ${JSON.stringify(row.hosts)}`);
      return row;
    },
    { withinMs, everyMs: 250, what: 'all copies are in sync' },
  );
}

/** Numbers that were committed for the client and are not there. */
async function lostOf(inserts: readonly Insert[], from: number): Promise<readonly Insert[]> {
  const there = await eventually(() => rowsIn(cluster.bed.host(from), server), {
    withinMs: 30_000,
    everyMs: 200,
    what: 'the database answers psql',
  });
  return inserts.filter(({ number, isOk }) => isOk && !there.has(number));
}

const isRemembered = ({ number }: Insert): boolean => number > forgetBefore;

async function waitRunningOn(index: number): Promise<void> {
  await eventually(async () => (await running()).join() === String(index), {
    withinMs: 60_000,
    everyMs: 200,
    what: `it runs on ${nameOf(index)}, and nowhere else`,
  });
}

/** What lies there that nobody else has. */
async function asideOn(index: number): Promise<string> {
  const host = cluster.bed.host(index);
  return (await host.mustExec('cd /srv/.db.trellis && ls -d aside-* 2>/dev/null || true')).trim();
}

async function restore(index: number): Promise<void> {
  const host = cluster.bed.host(index);
  await host.boot();
  await host.startEngine();
  await cluster.startDaemon(index);
  await cluster.login(index);
  await cluster.waitReady(4);
}

/** The client commits again. */
async function waitCommitted(sinceMs: number, withinMs = 40_000): Promise<void> {
  await eventually(() => loop!.inserts().findLast(({ isOk }) => isOk)!.atMs > sinceMs, {
    withinMs,
    everyMs: 20,
    what: 'a row is committed',
  });
}

describe('a database on storage that follows its lease', { timeout: 240_000 }, () => {
  it('runs on exactly one of four hosts, and the others have copies [trellis:P8] [trellis:P35]', async () => {
    const beganMs = performance.now();
    await cluster.mustApply(0, desired, []);
    const { index } = await holder(60_000);
    await waitRunningOn(index);
    const details = await cluster.json<ServiceDetails>(0, ['service', 'show', 'database']);
    server = { name: details.address, port: details.ports[0]?.number ?? 0 };
    await eventually(() => rowsIn(cluster.bed.host(0), server), {
      withinMs: 60_000,
      everyMs: 250,
      what: 'it answers under its name',
    });
    const row = await waitInSync();
    report['first copies after, ms'] = Math.round(performance.now() - beganMs);
    report['bytes'] = copyOf(row, index)?.bytes;
    expect(row).toMatchObject({ driver: 'sync', active: nameOf(index), lease: 'storage dbdata' });
    for (const other of indexes.filter((one) => one !== index))
      expect(copyOf(row, other)).toMatchObject({ state: 'replica', isInSync: true, reason: null });
    // A passive host shows nothing under the path, so that nothing can be started on it by mistake.
    const passive = cluster.bed.host((index + 1) % 4);
    expect(await passive.mustExec('ls -A /srv/db')).toBe('');
  });

  it('copies keep up while rows are inserted all the time, and their lag is shown [trellis:P35]', async () => {
    const { index } = await holder();
    client = (index + 3) % 4;
    await cluster.login(client);
    loop = await insertLoop(cluster.bed.host(client), server);
    const beganMs = Date.now();
    await waitCommitted(beganMs);
    // Each copy is replaced by newer ones, of single moments, again and again.
    const first = await storage(client);
    const lags: number[] = [];
    await eventually(
      async () => {
        const row = await storage(client);
        const others = row.hosts.filter(({ host }) => host !== row.active);
        lags.push(...others.map(({ lagMs }) => lagMs ?? Number.NaN));
        const isNewer = (copy: StorageCopyRow): boolean =>
          copy.isInSync &&
          copy.version > (first.hosts.find(({ host }) => host === copy.host)?.version ?? 0) + 3;
        if (!others.every(isNewer)) throw new Error(JSON.stringify(others));
        return true;
      },
      { withinMs: 90_000, everyMs: 250, what: 'all copies move on' },
    );
    const { gapMs, failed } = gapOf(loop.inserts(), beganMs);
    report['while copying'] = {
      seconds: Math.round((Date.now() - beganMs) / 1_000),
      lagMsMax: Math.max(...lags),
      committed: loop.inserts().filter(({ isOk }) => isOk).length,
      longestGapMs: gapMs,
      failed,
    };
    expect(failed).toBe(0);
  });

  it('a switch loses no committed row, and the client goes on by itself [trellis:P36]', async () => {
    await cluster.waitVoters(3);
    await waitInSync();
    const before = await holder();
    const to = indexes.find((index) => index !== before.index && index !== client) ?? 0;
    const atMs = Date.now();
    const order = ['lease', 'switch', 'database', '--to', nameOf(to), '--yes'];
    const answer = await cluster.json<MoveAnswer>(client, order);
    await waitCommitted(atMs + answer.tookMs);
    expect(await holder()).toMatchObject({ index: to, epoch: before.epoch + 1 });
    report['switch'] = { tookMs: answer.tookMs, ...gapOf(loop!.inserts(), atMs) };
    await waitRunningOn(to);
    expect(await lostOf(loop!.inserts(), client)).toEqual([]);
    await waitInSync();
    // What was active is the first copy: nothing of it had to be set aside.
    expect(await asideOn(before.index)).toBe('');
  });

  it('after a power cut a copy that is in sync takes over; what is lost is no more than the lag that was shown [trellis:P37]', async () => {
    await waitInSync();
    const before = await holder();
    const shown = await storage(client);
    const shownAtMs = Date.now();
    await cluster.bed.host(before.index).powerCut();
    const cutMs = Date.now();
    await waitCommitted(cutMs);
    const after = await holder();
    expect(after.index).not.toBe(before.index);
    const inserts = loop!.inserts();
    const lost = await lostOf(inserts, client);
    const lagMs = copyOf(shown, after.index)?.lagMs ?? Number.NaN;
    const lastMs = inserts.findLast(({ isOk, atMs }) => isOk && atMs < cutMs)?.atMs ?? cutMs;
    const lostMs = lost[0] === undefined ? 0 : lastMs - lost[0].atMs;
    report['power cut'] = {
      ...gapOf(inserts, cutMs),
      lostRows: lost.length,
      lostMs,
      shownLagMs: lagMs,
      shownBeforeMs: cutMs - shownAtMs,
    };
    // Rows are lost from one moment on, and that is no older than what was shown, plus the time since.
    const isTail = ({ number }: Insert): boolean => number >= (lost[0]?.number ?? Infinity);
    expect(lost).toEqual(inserts.filter((one) => one.isOk && one.atMs <= lastMs && isTail(one)));
    expect(lostMs).toBeLessThanOrEqual(lagMs + (cutMs - shownAtMs) + lookMsMax);
    await restore(before.index);
    await waitInSync(90_000);
    expect(await holder()).toMatchObject(after);
    expect(await asideOn(before.index)).toContain(`aside-${before.epoch}`);
    forgetBefore = inserts.at(-1)?.number ?? 0;
  });

  it('in a partition of two and two there are never two', async () => {
    await waitInSync();
    const before = await holder();
    await cluster.bed.switch.partition([
      [0, 1],
      [2, 3],
    ]);
    const endMs = performance.now() + partitionMs;
    await eventually(
      async () => {
        const held = await cluster.holders('storage dbdata');
        expect(held.length).toBeLessThanOrEqual(1);
        return performance.now() > endMs && held.length === 1;
      },
      { withinMs: partitionMs + 40_000, everyMs: 100, what: 'one side goes on' },
    );
    await cluster.bed.switch.healAll();
    await cluster.waitReady(4);
    await waitCommitted(Date.now());
    const after = await holder();
    report['partition'] = { moved: after.epoch - before.epoch };
    if (after.epoch === before.epoch) {
      const lost = await lostOf(loop!.inserts().filter(isRemembered), client);
      expect(lost).toEqual([]);
    } else forgetBefore = loop!.inserts().at(-1)?.number ?? 0;
    await waitInSync(90_000);
  });

  it('a stale copy is not promoted, unless an operator says so twice [trellis:P37]', async () => {
    await waitInSync();
    const before = await holder();
    const others = indexes.filter((index) => index !== before.index);
    const stale = others.find((index) => index !== client) ?? 0;
    const rest = others.filter((index) => index !== stale);
    // It cannot copy any more, and nobody else may take over.
    cluster.bed.host(stale).writeFile('/usr/local/bin/rsync', noRsync, 0o755);
    for (const index of rest) await cluster.json(client, ['host', 'drain', nameOf(index), '--yes']);
    await eventually(async () => copyOf(await storage(client), stale)?.isInSync === false, {
      withinMs: 60_000,
      everyMs: 250,
      what: 'the copy counts as stale',
    });
    const order = ['lease', 'switch', 'database', '--to', nameOf(stale), '--yes', '--json'];
    const refused = await cluster.trellis(client, order);
    expect(refused.code).not.toBe(0);
    expect(refused.stdout + refused.stderr).toContain('STALE_COPY');

    const cutMs = Date.now();
    await cluster.bed.host(before.index).powerCut();
    const details = await eventually(
      async () => {
        const found = await cluster.json<LeaseDetails>(client, ['lease', 'show', 'database']);
        return found.holder === null && found;
      },
      { withinMs: 30_000, everyMs: 200, what: 'it has no holder' },
    );
    const row = details.candidates.find(({ host }) => host === nameOf(stale));
    expect(row).toMatchObject({ mayTake: false, reasons: [{ code: 'not-in-sync' }] });
    report['stale'] = row?.reasons[0]?.text;
    const waitedMs = performance.now() + staleMs;
    await eventually(
      async () => {
        expect(await cluster.holders('storage dbdata')).toEqual([]);
        return performance.now() > waitedMs;
      },
      { withinMs: staleMs + 20_000, everyMs: 250 },
    );

    const force = ['lease', 'force-active', 'database', '--host', nameOf(stale), '--yes'];
    const once = await cluster.trellis(client, [...force, '--json']);
    expect(once.stdout + once.stderr).toContain('CONFIRMATION_NEEDED');
    const answer = await cluster.json<MoveAnswer>(client, [...force, '--confirm', 'database']);
    expect(answer.to).toBe(nameOf(stale));
    // Not because it came to think better of its copy.
    const after = await cluster.json<LeaseDetails>(stale, ['lease', 'show', 'database']);
    expect(after.history.at(-1)).toMatchObject({ what: 'forced', host: nameOf(stale) });
    await waitCommitted(cutMs);
    const lost = await lostOf(loop!.inserts().filter(isRemembered), client);
    report['forced'] = { tookMs: answer.tookMs, lostRows: lost.length };
    expect(lost.length).toBeGreaterThan(0);
    expect((await holder()).index).toBe(stale);

    cluster.bed
      .host(stale)
      .writeFile('/usr/local/bin/rsync', '#!/bin/sh\nexec /usr/bin/rsync "$@"\n', 0o755);
    for (const index of rest) await cluster.json(client, ['host', 'undrain', nameOf(index)]);
    await restore(before.index);
    await waitInSync(90_000);
    expect(await asideOn(before.index)).toContain(`aside-${before.epoch}`);
  });

  it('at no time were there two [trellis:P8] [trellis:P36]', () => {
    const tenures = [...known.values()].toSorted((a, b) => a.firstMs - b.firstMs);
    report['tenures'] = tenures.map(({ host, epoch }) => `${host}@${epoch}`).join(' ');
    expect(tenures.length).toBeGreaterThanOrEqual(4);
    for (const [index, next] of tenures.slice(1).entries()) {
      const one = tenures[index]!;
      expect(next.epoch, `${next.host} after ${one.host}`).toBeGreaterThan(one.epoch);
      expect(next.firstMs, `${next.host}@${next.epoch}`).toBeGreaterThan(one.lastMs);
    }
  });
});
