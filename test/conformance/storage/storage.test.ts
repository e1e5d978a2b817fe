import { randomBytes } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { senderArgs } from '../../../plugins/storage/wire.ts';
import { eventually } from '../../await.ts';
import { storageId, StorageRig, type RigHost } from './two-hosts.ts';

let rig: StorageRig;
let a: RigHost;
let b: RigHost;

beforeEach(async () => {
  rig = new StorageRig();
  a = await rig.add('aaaa');
  b = await rig.add('bbbb');
});

afterEach(async () => {
  await rig.dispose();
});

/** Until `check` no longer throws. */
const until = (check: () => void, withinMs: number): Promise<unknown> =>
  eventually(
    () => {
      check();
      return true;
    },
    { withinMs },
  );
const put = (host: RigHost, name: string, text: string): void =>
  writeFileSync(join(host.path, name), text);
const get = (host: RigHost, name: string): string => readFileSync(join(host.path, name), 'utf8');
const inSync = async (host: RigHost): Promise<void> => {
  await until(() => {
    const [mine, theirs] = [host.row(), [a, b].find((one) => one !== host)?.row()];
    expect(mine).toMatchObject({ state: 'replica', isInSync: true, epoch: theirs?.epoch });
    expect(mine?.version).toBe(theirs?.version);
  }, 15_000);
};

describe('a storage that is copied', () => {
  test('what is written on the active host is on the other, with modes and links [trellis:P35]', async () => {
    await rig.hold(a, 1);
    put(a, 'one', 'first');
    mkdirSync(join(a.path, 'deep'), { mode: 0o711 });
    put(a, 'deep/two', 'second');
    await inSync(b);
    expect(b.row()).toMatchObject({ lagMs: 0, reason: null });
    // Not under its path: a passive host's workload would see it.
    expect(readdirSync(b.path)).toEqual([]);
    await b.running?.activate(storageId, 2);
    expect(get(b, 'deep/two')).toBe('second');
    expect(statSync(join(b.path, 'deep')).mode & 0o777).toBe(0o711);
  });

  test('a deletion is copied too', async () => {
    await rig.hold(a, 1);
    put(a, 'gone', 'x');
    put(a, 'kept', 'y');
    await inSync(b);
    const { unlinkSync } = await import('node:fs');
    unlinkSync(join(a.path, 'gone'));
    await until(() => expect(a.row()?.version).toBeGreaterThan(b.row()?.version ?? 0), 5_000);
    await inSync(b);
    await b.running?.activate(storageId, 2);
    expect(readdirSync(b.path)).toEqual(['kept']);
  });

  test('a switchover loses no write, and what was active is the first copy [trellis:P36]', async () => {
    await rig.hold(a, 1);
    put(a, 'row', '1');
    await inSync(b);
    put(a, 'row', '2, just before the stop');
    expect(await b.running?.settle(storageId)).toEqual({ isFit: true, why: '' });
    await rig.hold(b, 2);
    expect(get(b, 'row')).toBe('2, just before the stop');
    await until(() => expect(b.row()).toMatchObject({ state: 'active', epoch: 2 }), 5_000);
    await rig.hold(b, 2);
    await inSync(a);
    const work = join(dirname(a.path), '.db.trellis');
    expect(readdirSync(work).filter((name) => name.startsWith('aside'))).toEqual([]);
  });

  test('after a crash what nobody else has is set aside, not lost', async () => {
    await rig.hold(a, 1);
    put(a, 'row', 'copied');
    await inSync(b);
    rig.cut.add(a.id);
    put(a, 'row', 'written too late');
    await rig.hold(b, 2);
    expect(get(b, 'row')).toBe('copied');
    put(b, 'row', 'the new truth');
    rig.cut.delete(a.id);
    await until(() => expect(b.row()?.version).toBeGreaterThan(0), 5_000);
    await rig.hold(b, 2);
    await inSync(a);
    const aside = join(dirname(a.path), '.db.trellis', 'aside-1', 'row');
    expect(readFileSync(aside, 'utf8')).toBe('written too late');
    await a.running?.activate(storageId, 3);
    expect(get(a, 'row')).toBe('the new truth');
  });

  test('a copy of an older epoch is stale, also after a restart alone [trellis:P37]', async () => {
    await rig.hold(a, 1);
    put(a, 'row', '1');
    await inSync(b);
    const c = await rig.add('cccc');
    await rig.hold(a, 1);
    await until(() => expect(c.row()?.isInSync).toBe(true), 15_000);
    rig.cut.add(c.id);
    await rig.hold(b, 2);
    put(b, 'row', '2');
    await inSync(a);
    rig.cut.delete(c.id);
    // It has heard of epoch 2 and has no copy of it: its facts alone say no.
    await until(() => expect(c.running?.fitness(storageId)).toMatchObject({ isFit: false }), 2_000);
    expect(c.running?.fitness(storageId).why).toMatch(/epoch 1, the newest is 2/);
  });

  test('a host without a complete copy is not fit', async () => {
    await rig.hold(a, 1);
    put(a, 'row', '1');
    await inSync(b);
    const c = await rig.add('cccc');
    rig.cut.add(a.id);
    await c.desire({ epoch: null, active: a.id, activeEpoch: 1 });
    expect(c.running?.fitness(storageId)).toEqual({
      isFit: false,
      why: 'it has no complete copy',
    });
  });

  describe('that never rests', () => {
    let count = 0;
    let isRunning = true;
    let writer: Promise<void>;

    /** The second file is never ahead of the first, nor more than one behind. */
    const write = async (): Promise<void> => {
      for (; isRunning; count++) {
        for (const name of ['first', 'second']) {
          // Within one moment of nothing else.
          while (a.isPaused && isRunning) await new Promise((done) => setImmediate(done));
          put(a, name, String(count).padStart(9));
          await new Promise((done) => setImmediate(done));
        }
      }
    };

    beforeEach(async () => {
      isRunning = true;
      await rig.hold(a, 1);
      put(a, 'large', 'x'.repeat(1 << 20));
      writer = write();
    });

    afterEach(async () => {
      isRunning = false;
      await writer;
    });

    test('is copied as it was in one moment, while it was paused [trellis:P35]', async () => {
      await until(() => expect(b.row()).toMatchObject({ state: 'replica', reason: null }), 20_000);
      expect(a.pauses).toBeGreaterThan(0);
      await b.running?.activate(storageId, 2);
      const ahead = Number(get(b, 'first')) - Number(get(b, 'second'));
      expect([0, 1]).toContain(ahead);
      expect(get(b, 'large')).toHaveLength(1 << 20);
    });

    test('is paused once for all copies', async () => {
      const others = [b, await rig.add('cccc'), await rig.add('eeee')];
      await rig.hold(a, 1);
      const newer = { state: 'replica', version: expect.toSatisfy((version) => version > 3) };
      await until(() => {
        for (const host of others) expect(host.row()).toMatchObject(newer);
      }, 18_000);
      const [versions, pauses] = [others.map((host) => host.row()?.version), a.pauses];
      expect(pauses).toBeLessThanOrEqual(new Set(versions).size * 3);
    });

    test('is no copy at all when it cannot be paused, and says so', async () => {
      a.pauseWorks = false;
      await until(() => expect(b.row()?.reason).toMatch(/could not be paused/), 20_000);
      expect(b.row()).toMatchObject({ state: 'failed', isInSync: false });
    });
  });

  test('much is copied as well as little, to several at once', async () => {
    const c = await rig.add('cccc');
    const bytes = randomBytes(24 << 20);
    mkdirSync(a.path, { recursive: true });
    writeFileSync(join(a.path, 'large'), bytes);
    await rig.hold(a, 1);
    for (const host of [b, c])
      await until(
        () => expect(host.row()).toMatchObject({ state: 'replica', reason: null }),
        15_000,
      );
    await c.running?.activate(storageId, 2);
    expect(readFileSync(join(c.path, 'large')).equals(bytes)).toBe(true);
  });

  test('a file that was changed within the second in which it was copied is copied again', async () => {
    await rig.hold(a, 1);
    const change = (text: string, seconds: number): void => {
      put(a, 'row', text);
      utimesSync(join(a.path, 'row'), seconds, seconds);
    };
    change('before', 1_700_000_000.25);
    await inSync(b);
    change('after!', 1_700_000_000.75);
    await until(() => expect(a.row()?.version).toBeGreaterThan(b.row()?.version ?? 0), 5_000);
    await inSync(b);
    await b.running?.activate(storageId, 2);
    expect(get(b, 'row')).toBe('after!');
  });

  test('content that was there before is the first content, and on a replica it is set aside', async () => {
    mkdirSync(a.path, { recursive: true });
    mkdirSync(b.path, { recursive: true });
    put(a, 'old', 'of a');
    put(b, 'old', 'of b');
    await rig.hold(a, 1);
    await inSync(b);
    await b.running?.activate(storageId, 2);
    expect(get(b, 'old')).toBe('of a');
    const work = join(dirname(b.path), '.db.trellis');
    const aside = readdirSync(work).find((name) => name.startsWith('aside')) ?? '';
    expect(readFileSync(join(work, aside, 'old'), 'utf8')).toBe('of b');
  });

  test('a host outside the role gets no byte', async () => {
    await rig.hold(a, 1);
    put(a, 'row', 'secret');
    const stranger = await rig.add('dddd');
    rig.hosts.delete(stranger.id);
    await rig.hold(a, 1);
    rig.hosts.set(stranger.id, stranger);
    await stranger.desire({ epoch: null, active: a.id, activeEpoch: 1 });
    await until(() => expect(stranger.row()?.reason).toMatch(/FORBIDDEN/), 10_000);
  });
});

test('a path among our own files is refused, and nothing is started on it', async () => {
  const c = await rig.add('cccc', 'state/plugins/db');
  await c.desire({ epoch: null, active: a.id, activeEpoch: 1 });
  expect(c.failures).toMatchObject([{ item: 'storage dbdata', isTransient: false }]);
  expect(c.failures[0]?.message).toMatch(/belongs to the system or to us/);
  await expect(c.running?.activate(storageId, 2)).rejects.toThrow(/belongs to/);
  expect(c.running?.fitness(storageId)).toMatchObject({ isFit: false });
  expect(existsSync(c.path)).toBe(false);
});

describe('what the other rsync may ask for', () => {
  const good = [
    'x',
    'rsync',
    '--server',
    '--sender',
    '-lHogDtpAXre.iLsfxCIvu',
    '--numeric-ids',
    '.',
    '/',
  ];

  test('a copy of our path, whatever path it names', () => {
    expect(senderArgs(good, '/srv/db')?.at(-1)).toBe('/srv/db/');
  });

  test.each([
    [[...good.slice(0, 5), '.', '/', '/etc']],
    [['x', 'rsync', '--server', '-lHogDtpAXre.iLsfxCIvu', '--numeric-ids', '.', '/']],
    [[...good.slice(0, 5), '--log-file=/etc/cron.d/x', '.', '/']],
    [[...good.slice(0, -1), '/a', '/etc']],
    [['x', 'rsync', '--server', '--sender', '--rsh=sh', '--numeric-ids', '.', '/']],
    [[]],
  ])('nothing else: %j', (args) => {
    expect(senderArgs(args, '/srv/db')).toBeNull();
  });
});
