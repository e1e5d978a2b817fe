/** The shell that closes gates in a dead guard's place, on the real kernel. */
import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { Deadman } from '../../../daemon/lease/guard/deadman.ts';
import { kernelClocks } from '../../../daemon/lease/guard/clocks.ts';
import { eventually, measureFor } from '../../await.ts';
import { cgroupRoots, quietLog, scratch, type Scratch } from './scratch-gates.ts';

const nowMs = (): number => kernelClocks().bootMs();

describe.each(cgroupRoots())('the deadman on cgroup $version at $root', ({ root }) => {
  const gate = 'trellis-x-0a0a0a0a-dead-010203';
  let world: Scratch;
  const begin = (): { path: string; make: (generation: string) => Deadman } => {
    world = scratch(root);
    const path = join(world.dir, 'deadman');
    const { tree } = world.gates;
    return {
      path,
      make: (generation) => new Deadman({ path, generation, tree, log: quietLog }),
    };
  };
  const shells = (path: string): number =>
    execFileSync('ps', ['-eo', 'args'], { encoding: 'utf8' })
      .split('\n')
      .filter((line) => line.includes(`trellis-deadman ${path}`)).length;

  afterEach(async () => {
    rmSync(join(world.dir, 'deadman'), { force: true });
    await eventually(() => shells(join(world.dir, 'deadman')) === 0, { withinMs: 10_000 });
    await world.gates.clear(gate);
    world.remove();
  });

  test('closes a gate at its time when nobody moves the time on', async () => {
    const { make } = begin();
    await world.gates.thaw(gate);
    const deadlineMs = nowMs() + 700;
    make('one').arm([{ gate, deadlineMs }]);
    await eventually(() => world.gates.isFrozen(gate), { withinMs: 10_000, everyMs: 1 });
    expect(nowMs()).toBeGreaterThanOrEqual(deadlineMs - 20);
  });

  test('leaves it open while the time moves on, and when it is taken out', async () => {
    const { make } = begin();
    await world.gates.thaw(gate);
    const deadman = make('one');
    for (let round = 0; round < 6; round += 1) {
      deadman.arm([{ gate, deadlineMs: nowMs() + 2_000 }]);
      await measureFor(400);
    }
    deadman.arm([]);
    await measureFor(2_500);
    expect(world.gates.isFrozen(gate)).toBe(false);
    expect(deadman.starts).toBe(1);
  });

  test('the one of a guard before ends when there is another', async () => {
    const { path, make } = begin();
    await world.gates.thaw(gate);
    make('one').arm([{ gate, deadlineMs: nowMs() + 600_000 }]);
    await eventually(() => shells(path) === 1, { withinMs: 5_000 });
    make('two').arm([{ gate, deadlineMs: nowMs() + 600_000 }]);
    await measureFor(1_000);
    await eventually(() => shells(path) === 1, { withinMs: 5_000 });
  });
});
