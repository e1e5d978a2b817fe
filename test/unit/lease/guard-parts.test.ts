/** The small parts of the guard's process that need no kernel. */
import {
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { HostId } from '../../../crdt/ids.ts';
import type { DurableRecord } from '../../../daemon/lease/core-api.ts';
import type { LeaseDesired } from '../../../daemon/lease/guard-api.ts';
import { firstConfig } from '../../../daemon/lease/voter-config.ts';
import { Clocks } from '../../../daemon/lease/guard/clocks.ts';
import {
  DesiredFile,
  DurableLog,
  isFirstOfBoot,
} from '../../../daemon/lease/guard/durable-state.ts';
import { LeaseDirs } from '../../../daemon/lease/guard/lease-dir.ts';
import { isGateName, LeaseTable } from '../../../daemon/lease/guard/lease-table.ts';
import { LineSplitter } from '../../../daemon/lease/guard/lines.ts';
import { createGuardLog } from '../../../daemon/lease/guard/log.ts';
import { readSettings } from '../../../daemon/lease/guard/settings.ts';
import { VolatileStore } from '../../../daemon/lease/guard/volatile-store.ts';
import { fenceByPanic, runFenceCommand, Watchdog } from '../../../daemon/lease/guard/watchdog.ts';
import { eventually } from '../../await.ts';
import { quietLog } from '../../conformance/lease/scratch-gates.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'trellis-guard-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const host = '0a'.repeat(16) as HostId;
const owner = { host, session: 'b'.repeat(24) };

describe('clocks', () => {
  const raw = { mono: 1_000, boot: 1_003, wall: 5_000_000 };
  const clocks = (): Clocks =>
    new Clocks({ monoMs: () => raw.mono, bootMs: () => raw.boot, wallMs: () => raw.wall });
  const pass = (ms: number): void => {
    raw.mono += ms;
    raw.boot += ms;
    raw.wall += ms;
  };

  test('time that passes alike on all of them is no jump, however much', () => {
    const c = clocks();
    for (const ms of [1, 20, 10_000, 3_600_000]) {
      pass(ms);
      expect(c.jump()).toBeNull();
    }
  });

  test('a boot clock that gained more than half a second means that the host slept', () => {
    const c = clocks();
    pass(20);
    raw.boot += 400;
    expect(c.jump()).toBeNull();
    pass(20);
    raw.boot += 501;
    raw.wall += 501;
    expect(c.jump()).toBe('suspend');
    pass(20);
    expect(c.jump()).toBeNull();
  });

  test('a wall clock that was set is told once, in both directions', () => {
    const c = clocks();
    for (const step of [3_600_000, -7_200_000, 600]) {
      pass(20);
      raw.wall += step;
      expect(c.jump()).toBe('wall');
      pass(20);
      expect(c.jump()).toBeNull();
    }
  });

  test('neither clock goes back, and a suspend counts against authority', () => {
    const c = clocks();
    const before = c.now();
    raw.boot += 5_000;
    const slept = c.now();
    expect(slept.monoMs).toBe(before.monoMs);
    expect(slept.authorityMs).toBeGreaterThanOrEqual(before.authorityMs + 4_900);
    raw.mono -= 50;
    raw.boot -= 6_000;
    expect(c.now()).toEqual(slept);
  });

  test('the kernel counts from its boot', () => {
    const now = new Clocks().now();
    expect(now.authorityMs).toBeGreaterThanOrEqual(now.monoMs);
    expect(now.authorityMs - now.monoMs).toBeLessThan(24 * 3_600_000);
  });
});

describe('lines', () => {
  test('come whole, whatever the pieces are', () => {
    const text = 'one\ntwo two\n\n{"a":"ü"}\n';
    for (const size of [1, 2, 3, 7, 100]) {
      const splitter = new LineSplitter(64);
      const bytes = Buffer.from(text);
      const lines: string[] = [];
      for (let at = 0; at < bytes.length; at += size) {
        lines.push(...(splitter.push(bytes.subarray(at, at + size)) ?? ['too long']));
      }
      expect(lines).toEqual(['one', 'two two', '', '{"a":"ü"}']);
    }
  });

  test('a line that does not end is refused', () => {
    const splitter = new LineSplitter(8);
    expect(splitter.push(Buffer.from('12345678'))).toEqual([]);
    expect(splitter.push(Buffer.from('9'))).toBeNull();
  });
});

describe('state on tmpfs', () => {
  const file = (): string => join(dir, 'lease.state');
  const slotBytes = 4_096;
  const found = (): unknown => {
    const store = new VolatileStore(dir, slotBytes);
    const value = store.read();
    store.close();
    return value;
  };

  test('the newest is found again', () => {
    const store = new VolatileStore(dir, slotBytes);
    expect(store.read()).toBeNull();
    for (const n of [1, 2, 3]) store.write({ n, text: 'x'.repeat(n * 1_000) });
    expect(found()).toMatchObject({ n: 3 });
    const next = new VolatileStore(dir, slotBytes);
    next.read();
    next.write({ n: 4 });
    expect(found()).toEqual({ n: 4 });
    expect(() => next.write('x'.repeat(slotBytes))).toThrow();
    expect(found()).toEqual({ n: 4 });
  });

  test('[trellis:R3] a write that was torn at any place leaves the one before', () => {
    const store = new VolatileStore(dir, slotBytes);
    store.write({ n: 1 });
    store.write({ n: 2, text: 'x'.repeat(300) });
    const good = Buffer.alloc(2 * slotBytes);
    readFileSync(file()).copy(good);
    store.write({ n: 3, text: 'y'.repeat(300) });
    const after = readFileSync(file());
    const slot = good.findIndex((byte, index) => byte !== after[index]);
    for (let cut = slot; cut < slot + 340; cut += 1) {
      const torn = Buffer.from(good);
      after.copy(torn, slot, slot, cut);
      writeFileSync(file(), torn);
      expect([2, 3]).toContain((found() as { n: number }).n);
    }
  });

  test('nothing is believed when both slots are damaged', () => {
    const store = new VolatileStore(dir, slotBytes);
    store.write({ n: 1 });
    store.write({ n: 2 });
    truncateSync(file(), 30);
    expect(found()).toBeNull();
  });
});

describe('the durable log', () => {
  const epoch = (name: string, n: number): DurableRecord => ({
    kind: 'epoch',
    name,
    epoch: n,
    owner,
  });

  test('the last of each key survives, in an order that can be applied', async () => {
    const log = new DurableLog(dir, quietLog);
    let done = 0;
    for (const n of [1, 2, 3]) {
      log.append([epoch('service/p/a', n), epoch('service/p/b', n * 10)], () => (done += 1));
    }
    log.append([{ kind: 'floor-rest', epoch: 7 }], () => (done += 1));
    await eventually(() => done === 4, { withinMs: 5_000 });
    await log.close();
    expect(new DurableLog(dir, quietLog).records()).toEqual([
      epoch('service/p/a', 3),
      epoch('service/p/b', 30),
      { kind: 'floor-rest', epoch: 7 },
    ]);
  });

  test('what comes while the disk is busy shares one sync', async () => {
    const log = new DurableLog(dir, quietLog);
    let done = 0;
    for (let n = 1; n <= 100; n += 1) log.append([epoch('a', n)], () => (done += 1));
    await eventually(() => done === 100, { withinMs: 5_000 });
    expect(log.syncs).toBeLessThan(10);
    await log.close();
  });

  test('it is rewritten when it has grown', async () => {
    const log = new DurableLog(dir, quietLog);
    let done = 0;
    const many = Array.from({ length: 4_000 }, (_, n) => epoch('a', n));
    log.append(many, () => (done += 1));
    await eventually(() => done === 1, { withinMs: 5_000 });
    const large = statSync(join(dir, 'log')).size;
    log.append(many, () => (done += 1));
    await eventually(() => done === 2, { withinMs: 5_000 });
    expect(statSync(join(dir, 'log')).size).toBeLessThan(large / 100);
    await log.close();
    expect(new DurableLog(dir, quietLog).records()).toEqual([epoch('a', 3_999)]);
  });

  describe('that has lost something', () => {
    const link = (n: number, ttlMsMax = 5_000): DurableRecord => {
      const { config } = firstConfig('prod', owner.host);
      const electorate = n === 0 ? [] : [owner.host];
      return {
        kind: 'chosen',
        chosen: { config: { ...config, n, ttlMsMax }, electorate, votes: electorate },
      };
    };

    async function written(records: DurableRecord[]): Promise<void> {
      const log = new DurableLog(dir, quietLog);
      let isSynced = false;
      log.append(records, () => (isSynced = true));
      await eventually(() => isSynced, { withinMs: 5_000 });
      await log.close();
    }

    function flip(at: number): void {
      const bytes = readFileSync(join(dir, 'log'));
      bytes[at] = (bytes[at] ?? 0) ^ 0x40;
      writeFileSync(join(dir, 'log'), bytes);
    }

    const found = () => new DurableLog(dir, quietLog).records();
    const lost = { kind: 'forgotten', isOn: true } as const;

    test('its middle: it says so, with the newest link that it had, at every start', async () => {
      await written([link(0)]);
      await written([link(1, 15_000)]);
      const end = statSync(join(dir, 'log')).size;
      await written([link(2), epoch('a', 5)]);
      await written([epoch('a', 6)]);
      flip(end + 30);
      const beyond = { env: 'prod', generation: 0, n: 2, ttlMsMax: 15_000 };
      const expected = [link(1, 15_000), { ...lost, beyond }];
      expect(found()).toEqual(expected);
      expect(found()).toEqual(expected);
      await written([link(3), { ...lost, isOn: false, beyond: null }]);
      expect(found()).toEqual([link(3)]);
    });

    test('all of it: a file that was removed, or put back from an earlier time', async () => {
      await written([link(0)]);
      const early = readFileSync(join(dir, 'log'));
      await written([link(1)]);
      const beyond = { env: 'prod', generation: 0, n: 1, ttlMsMax: 5_000 };
      writeFileSync(join(dir, 'log'), early);
      expect(found()).toEqual([link(0), { ...lost, beyond }]);
      rmSync(join(dir, 'log'));
      expect(found()).toEqual([{ ...lost, beyond }]);
    });

    test('and its mark: not even the link is known', async () => {
      await written([link(0)]);
      await written([link(1)]);
      flip(40);
      rmSync(join(dir, 'link.json'));
      expect(found()).toEqual([{ ...lost, beyond: null }]);
    });

    test('nothing: a cut tail was never promised, and a log of before there were marks is whole', async () => {
      await written([link(0)]);
      await written([link(1)]);
      rmSync(join(dir, 'link.json'));
      truncateSync(join(dir, 'log'), statSync(join(dir, 'log')).size - 1);
      expect(found()).toEqual([link(0)]);
      expect(found()).toEqual([link(0)]);
    });
  });

  test("the daemon's wish and the boot are remembered", () => {
    const file = new DesiredFile(dir);
    expect(file.read(quietLog)).toBeNull();
    const desired = { v: 1, env: 'prod' } as never;
    file.write(desired);
    expect(new DesiredFile(dir).read(quietLog)).toEqual(desired);
    expect([isFirstOfBoot(dir, 'b1'), isFirstOfBoot(dir, 'b1'), isFirstOfBoot(dir, 'b2')]).toEqual([
      true,
      false,
      true,
    ]);
  });

  test('a damaged wish is set aside', () => {
    new DesiredFile(dir).write({ v: 1 } as never);
    truncateSync(join(dir, 'desired.json'), 3);
    expect(new DesiredFile(dir).read(quietLog)).toBeNull();
    expect(readdirSync(dir)).toContain('desired.json.damaged-1');
  });
});

test('a lease directory changes its epoch with an activation only', () => {
  const dirs = new LeaseDirs(join(dir, 'lease'));
  const read = (name: string): string => readFileSync(join(dirs.dirOf('g'), name), 'utf8');
  dirs.ensure('g');
  expect(read('epoch')).toBe('0\n');
  dirs.write('g', 4, 123_456.789);
  expect(read('epoch')).toBe('4\n');
  expect(JSON.parse(read('lease.json'))).toEqual({ epoch: 4, deadlineBoottimeNs: '123456789000' });
  const inode = statSync(join(dirs.dirOf('g'), 'epoch')).ino;
  dirs.write('g', 4, 124_000);
  expect(statSync(join(dirs.dirOf('g'), 'epoch')).ino).toBe(inode);
  dirs.write('g', 4, null);
  expect(JSON.parse(read('lease.json'))).toEqual({ epoch: 4, deadlineBoottimeNs: '0' });
  expect(read('epoch')).toBe('4\n');
  expect(readdirSync(dirs.dirOf('g'))).toEqual(['epoch', 'lease.json']);
  expect(new LeaseDirs(join(dir, 'lease')).ensure('g')).toBeUndefined();
  expect(read('epoch')).toBe('4\n');
});

test('leases that are wanted no more are known until they were fenced', () => {
  const lease = (name: string): LeaseDesired =>
    ({ name, gate: 'g-1', traffic: [], fence: 'none', fenceCommand: [], onLoss: 'stop' }) as never;
  const table = new LeaseTable();
  table.setDesired({ leases: [lease('a'), lease('b')] } as never);
  table.setDesired({ leases: [lease('b')] } as never);
  expect(table.get('a')?.gate).toBe('g-1');
  expect(table.all().map(({ name }) => name)).toEqual(['b']);
  table.addAcquired(lease('lock/x'));
  table.dropAcquired('lock/x');
  expect(table.get('lock/x')?.gate).toBe('g-1');
  for (let n = 0; n < 300; n += 1) {
    table.setDesired({ leases: [lease(`n${n}`)] } as never);
  }
  expect(table.get('a')).toBeNull();
});

test("a gate's name leads nowhere else", () => {
  expect(isGateName('trellis-x-0a0a0a0a-web-010203')).toBe(true);
  for (const bad of ['', '..', '../x', 'a/b', 'A', '-a', 'a'.repeat(81), null]) {
    expect(isGateName(bad)).toBe(false);
  }
});

describe('the watchdog', () => {
  const pets = (): string => readFileSync(join(dir, 'wd'), 'utf8');

  test('is petted only while every armed lease is valid or verified stopped', () => {
    const wd = new Watchdog(join(dir, 'wd'), quietLog);
    wd.pet(0);
    wd.setLeases(['a', 'b']);
    wd.pet(10_000);
    expect(pets()).toBe('1');
    wd.running('a');
    wd.extend('a', 13_000);
    wd.pet(12_000);
    expect(pets()).toBe('11');
    wd.pet(13_500);
    wd.pet(20_000);
    expect(pets()).toBe('11');
    wd.stopped('a');
    wd.pet(20_001);
    expect(pets()).toBe('111');
    wd.setLeases([]);
    expect(pets()).toBe('111V');
  });

  test('a device that is not there is said and does not stop the guard', () => {
    const wd = new Watchdog(join(dir, 'absent', 'wd'), quietLog);
    wd.setLeases(['a']);
    wd.pet(5_000);
    expect(wd.pets).toBe(0);
  });
});

test("a panic needs the operator's word", () => {
  const path = join(dir, 'sysrq');
  fenceByPanic(null, quietLog);
  expect(readdirSync(dir)).toEqual([]);
  fenceByPanic(path, quietLog);
  expect(readFileSync(path, 'utf8')).toBe('b');
});

test('a fence command is run without a shell, and is told whom', async () => {
  const about = { name: 'service/p/a', victim: host, victimName: 'h1' };
  const out = join(dir, 'out');
  const run = (...command: string[]): Promise<string | null> => runFenceCommand(command, about);
  expect(
    await run('/bin/sh', '-c', `echo $TRELLIS_FENCE_HOST $TRELLIS_FENCE_HOST_ID > ${out}`),
  ).toBeNull();
  expect(readFileSync(out, 'utf8')).toBe(`h1 ${host}\n`);
  expect(await run('/bin/echo', '; touch', join(dir, 'no'))).toBeNull();
  expect(await run('/bin/sh', '-c', 'echo no power >&2; exit 3')).toBe('no power');
  expect(await run('/absent/program')).toContain('ENOENT');
  expect(await run()).toBe('no fence command is set');
});

test('the log is bounded', () => {
  let nowMs = 0;
  const log = createGuardLog(() => nowMs);
  log.toFile(join(dir, 'guard.log'));
  for (let n = 0; n < 40_000; n += 1) {
    nowMs += 60;
    log.info('guard.test', { text: 'x'.repeat(100) });
  }
  expect(statSync(join(dir, 'guard.log')).size).toBeLessThanOrEqual(1 << 20);
  expect(readdirSync(dir).toSorted()).toEqual(['guard.log', 'guard.log.1']);
  const lines = (): number => readFileSync(join(dir, 'guard.log'), 'utf8').split('\n').length;
  const before = lines();
  for (let n = 0; n < 1_000; n += 1) log.warn('guard.flood', {});
  expect(lines() - before).toBeLessThan(30);
});

test('arguments are checked', () => {
  const ok = readSettings(['--state', '/s', '--run', '/r', '--listen', '[::1]:7']);
  expect(ok).toMatchObject({
    stateDir: '/s',
    listen: { address: '::1', port: 7 },
    sysrqPath: null,
  });
  for (const bad of [
    [],
    ['--state', '/s'],
    ['--state', '/s', '--run', '/r', '--listen', 'x'],
    ['--what'],
  ]) {
    expect(() => readSettings(bad)).toThrow(expect.objectContaining({ code: 'USAGE' }) as Error);
  }
});
