/** The gate on the real kernel: one suite for both cgroup interfaces. */
import { readFileSync, writeFileSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { testGate } from '../../../daemon/lease/guard/gate-test.ts';
import { sliceName } from '../../../daemon/lease/guard/gates.ts';
import { eventually, measureFor } from '../../await.ts';
import { cgroupRoots, linesOf, scratch, type Scratch } from './scratch-gates.ts';

const roots = cgroupRoots();

test('this machine has at least one interface to try', () => {
  expect(roots.length).toBeGreaterThan(0);
});

test('the name of a slice is one level deep for systemd', () => {
  expect(sliceName('trellis-x-ab')).toBe('trellis\\x2dx\\x2dab.slice');
});

describe.each(roots)('a gate on cgroup $version at $root', ({ root }) => {
  const gate = 'trellis-x-0a0a0a0a-web-010203';
  let world: Scratch;
  const enter = (): Scratch => (world = scratch(root));

  afterEach(async () => {
    await world.gates.clear(gate);
    world.remove();
  });

  test('is closed when it is made, and who comes in does not run', async () => {
    const { gates, dir, run } = enter();
    const mark = join(dir, 'ran');
    await run(gate, `: > ${mark}`);
    await measureFor(50);
    expect(existsSync(mark)).toBe(false);
    expect(await gates.thaw(gate)).toBe('open');
    await eventually(() => existsSync(mark), { withinMs: 5_000 });
  });

  test('stands still when frozen and goes on when thawed', async () => {
    const { gates, dir, run } = enter();
    await gates.thaw(gate);
    const file = join(dir, 'lines');
    await run(gate, `while :; do echo x >> ${file}; done`);
    await eventually(() => linesOf(file) > 10, { withinMs: 5_000 });
    expect(await gates.freeze(gate)).toBe('frozen');
    const before = linesOf(file);
    await measureFor(100);
    expect(linesOf(file)).toBe(before);
    expect(await gates.thaw(gate)).toBe('open');
    await eventually(() => linesOf(file) > before, { withinMs: 5_000 });
  });

  test('is emptied of what runs and of what is frozen, and is closed afterwards', async () => {
    const { gates, dir, run, pids } = enter();
    for (const act of ['thaw', 'freeze'] as const) {
      await gates[act](gate);
      await run(gate, 'while :; do :; done & while :; do :; done');
      expect(gates.look(gate)).toBe('populated');
      expect(await gates.clear(gate)).toBe('empty');
      expect(pids(gate)).toEqual([]);
    }
    const mark = join(dir, 'ran');
    await run(gate, `: > ${mark}`);
    await measureFor(50);
    expect(existsSync(mark)).toBe(false);
  });

  test('nothing in the gate runs on its way to death', async () => {
    const { gates, dir, run } = enter();
    await gates.thaw(gate);
    const file = join(dir, 'lines');
    await run(gate, `while :; do echo x >> ${file}; done`);
    await eventually(() => linesOf(file) > 0, { withinMs: 5_000 });
    await gates.freeze(gate);
    const before = linesOf(file);
    expect(await gates.clear(gate)).toBe('empty');
    expect(linesOf(file)).toBe(before);
  });

  test('those who fork while they are killed do not get away', async () => {
    const { gates, run } = enter();
    await gates.thaw(gate);
    // A few generations at a time: each process starts two more and ends.
    const script = 'f() { sleep 0.02; f & f & wait; }; f';
    await run(gate, `ulimit -u 4000; ${script}`);
    expect(await gates.clear(gate)).toBe('empty');
    expect(gates.look(gate)).toBe('empty');
  });

  test('what an engine puts below is fenced too, paused or not', async () => {
    const { gates, run } = enter();
    await gates.thaw(gate);
    await run(gate, 'while :; do :; done', 'container-one');
    await run(gate, 'while :; do :; done', 'container-two');
    const paused = join(gates.dirOf(gate), 'container-two');
    if (existsSync(join(paused, 'freezer.state')))
      writeFileSync(join(paused, 'freezer.state'), 'FROZEN');
    else writeFileSync(join(paused, 'cgroup.freeze'), '1');
    expect(gates.look(gate)).toBe('populated');
    expect(await gates.clear(gate)).toBe('empty');
    expect(readFileSync(join(paused, 'cgroup.procs'), 'utf8')).toBe('');
  });

  test('a newer act makes an older one give up', async () => {
    const { gates, run } = enter();
    await gates.thaw(gate);
    await run(gate, 'while :; do :; done');
    const clearing = gates.clear(gate);
    const freezing = gates.freeze(gate);
    expect(await freezing).toBe('frozen');
    expect(await clearing).toBe('failed');
  });

  test('is found and taken away again', async () => {
    const { gates } = enter();
    gates.ensure(gate);
    expect(gates.list((name) => name.startsWith('trellis-x-'))).toEqual([gate]);
    gates.remove(gate);
    expect(gates.list((name) => name.startsWith('trellis-x-'))).toEqual([]);
    expect(gates.look(gate)).toBe('empty');
  });

  test('fifty busy processes are frozen and gone', async () => {
    const { gates, run } = enter();
    await gates.thaw(gate);
    const busy =
      'i=0; while [ $i -lt 49 ]; do (while :; do :; done) & i=$((i+1)); done; while :; do :; done';
    await run(gate, busy);
    await eventually(() => world.pids(gate).length >= 50, { withinMs: 10_000 });
    expect(await gates.freeze(gate)).toBe('frozen');
    expect(await gates.clear(gate)).toBe('empty');
  });

  test('tries itself for real and says how long it takes', async () => {
    const { gates, dir } = enter();
    const result = await testGate(gates, `${gate}-test`, dir);
    expect(result.fault).toBeNull();
    expect(result.freezeMs).toBeGreaterThan(0);
    expect(gates.list((name) => name.endsWith('-test'))).toEqual([]);
  });
});
