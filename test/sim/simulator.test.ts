import { describe, expect, test } from 'vitest';
import type { NodeId } from '../../crdt/ids.ts';
import { SimRandom } from './sim-random.ts';
import { Scheduler } from './scheduler.ts';
import { World, type SimNode, type SimPorts } from './world.ts';

/** Counts what it hears, remembers numbers on disk, and talks to everybody every 100 ms. */
class ChattyNode implements SimNode {
  readonly heard = new Map<NodeId, number>();
  readonly peers: [NodeId, boolean][] = [];
  readonly replayed: number[] = [];
  readonly acknowledged: number[] = [];
  readonly ticksMs: number[] = [];
  error: Error | null = null;
  #next = 0;
  readonly ports: SimPorts;

  constructor(ports: SimPorts) {
    this.ports = ports;
  }

  start(): void {
    const { network, storage } = this.ports;
    for (const record of storage.readLog('numbers').records)
      this.replayed.push(record[0] as number);
    this.#next = (this.replayed.at(-1) ?? -1) + 1;
    network.onFrame((from) => this.heard.set(from, (this.heard.get(from) ?? 0) + 1));
    network.onPeer((peer, isConnected) => this.peers.push([peer, isConnected]));
    this.#tick();
  }

  #tick(): void {
    const { clock, network, storage, random } = this.ports;
    this.ticksMs.push(clock.monotonicMs());
    for (const peer of network.connected()) network.send(peer, random.bytes(8));
    const number = this.#next++ & 0xff;
    storage.append('numbers', new Uint8Array([number]), (error) => {
      if (error === undefined) this.acknowledged.push(number);
      else this.error = error;
    });
    clock.setTimer(100, () => this.#tick());
  }
}

function chatty(seed: number, nodeCount = 3, extra: object = {}): World<ChattyNode> {
  const world = new World({ seed, nodeCount, factory: (ports) => new ChattyNode(ports), ...extra });
  world.startAll();
  return world;
}

const roughNetwork = { loss: 0.1, duplicate: 0.2, reorder: 0.2, jitterMs: 30 };

function roughRun(seed: number): string {
  const world = chatty(seed, 5, { network: roughNetwork });
  world.run({ forMs: 2_000 });
  world.isolate(4);
  world.crash(1);
  world.pause(2, { forMs: 700 });
  world.run({ forMs: 20_000 });
  world.heal();
  world.start(1);
  world.run({ forMs: 5_000 });
  return world.traceHash();
}

describe('the simulator itself', () => {
  test('the same seed twice gives the same trace, another seed another one', () => {
    expect(roughRun(11)).toBe(roughRun(11));
    expect(roughRun(11)).not.toBe(roughRun(12));
  });

  test('events of one moment run in the order they were asked for', () => {
    const scheduler = new Scheduler();
    const order: number[] = [];
    for (const [atMs, name] of [
      [5, 1],
      [3, 2],
      [5, 3],
      [3, 4],
    ] as const) {
      scheduler.at(atMs, () => order.push(name));
    }
    while (scheduler.step(10));
    expect(order).toEqual([2, 4, 1, 3]);
    expect(scheduler.nowMs).toBe(10);
  });

  test('a fork of a random stream does not depend on what was drawn before', () => {
    const drawn = new SimRandom(1);
    drawn.next();
    expect(drawn.fork('x').next()).toBe(new SimRandom(1).fork('x').next());
    expect(new SimRandom(1).fork('x').next()).not.toBe(new SimRandom(1).fork('y').next());
  });

  test('a silent cut breaks connections late, healing redials', () => {
    const world = chatty(2);
    world.run({ forMs: 2_000 });
    expect(world.node(0).ports.network.connected()).toHaveLength(2);
    world.isolate(2);
    world.run({ forMs: 5_000 });
    const heardThen = world.node(0).heard.get(world.ids[2] as NodeId);
    expect(world.node(0).ports.network.connected()).toHaveLength(2);
    world.run({ forMs: 30_000 });
    expect(world.node(0).ports.network.connected()).toEqual([world.ids[1]]);
    expect(world.node(0).heard.get(world.ids[2] as NodeId)).toBe(heardThen);
    world.heal();
    world.run({ forMs: 2_000 });
    expect(world.node(0).ports.network.connected()).toHaveLength(2);
    expect(world.node(0).peers.filter(([peer]) => peer === world.ids[2])).toEqual([
      [world.ids[2], true],
      [world.ids[2], false],
      [world.ids[2], true],
    ]);
  });

  test('a killed process resets its connections, a power-cut does not', () => {
    const world = chatty(3);
    world.run({ forMs: 2_000 });
    world.crash(2, 'kill');
    world.crash(1, 'power');
    world.run({ forMs: 1_000 });
    expect(world.node(0).ports.network.connected()).toEqual([world.ids[1]]);
  });

  test('a one-way cut loses one direction only', () => {
    const world = chatty(4, 2);
    world.run({ forMs: 2_000 });
    world.partition([0], [1], { bothWays: false });
    const before = [...world.node(0).heard.values(), ...world.node(1).heard.values()];
    world.run({ forMs: 2_000 });
    expect(world.node(0).heard.get(world.ids[1] as NodeId)).toBeGreaterThan(
      (before[0] as number) + 10,
    );
    expect(world.node(1).heard.get(world.ids[0] as NodeId)).toBeLessThanOrEqual(
      (before[1] as number) + 1,
    );
  });

  test('a paused node does nothing, then its timers run before its frames', () => {
    const world = chatty(5, 2);
    world.run({ forMs: 2_000 });
    const { ticksMs, heard } = world.node(0);
    const [ticks, frames] = [ticksMs.length, heard.get(world.ids[1] as NodeId) as number];
    world.pause(0, { forMs: 3_000 });
    world.run({ forMs: 2_900 });
    expect([ticksMs.length, heard.get(world.ids[1] as NodeId)]).toEqual([ticks, frames]);
    world.run({ forMs: 200 });
    expect(heard.get(world.ids[1] as NodeId)).toBeGreaterThan(frames + 25);
    expect(ticksMs.length).toBeLessThan(ticks + 5);
  });

  test('monotonic clocks never go back and timers never fire early, whatever drift and jumps do', () => {
    const world = chatty(6, 3, { driftMax: 0.05 });
    world.run({ forMs: 1_000 });
    world.jumpWallClock(0, -3_600_000);
    world.host(1).rate = 0.9;
    world.run({ forMs: 5_000 });
    for (const index of [0, 1, 2]) {
      const { ticksMs } = world.node(index);
      for (let i = 1; i < ticksMs.length; i++) {
        expect((ticksMs[i] as number) - (ticksMs[i - 1] as number)).toBeGreaterThanOrEqual(
          100 - 1e-5,
        );
      }
    }
  });

  test('a crash keeps what was synced, in order, and some prefix of the rest', () => {
    let torn = 0;
    for (let seed = 0; seed < 40; seed++) {
      const world = chatty(seed, 1, { storage: { syncMsMin: 50, syncMsMax: 400 } });
      world.run({ forMs: 1_950 });
      const { acknowledged } = world.node(0);
      const disk = world.disk(0);
      world.crash(0);
      const { records, damage } = disk.read('log/numbers');
      const numbers = records.map((record) => record[0]);
      expect(numbers.slice(0, acknowledged.length)).toEqual(acknowledged);
      expect(numbers).toEqual(numbers.map((_, index) => index));
      if (damage?.kind === 'torn-tail') torn++;
    }
    expect(torn).toBeGreaterThan(3);
  });

  test('no callback of a crashed life ever fires', () => {
    const world = chatty(7, 1, { storage: { syncMsMin: 500, syncMsMax: 500 } });
    const ghost = world.node(0);
    world.run({ forMs: 300 });
    const ticks = ghost.ticksMs.length;
    world.restart(0);
    world.run({ forMs: 5_000 });
    expect(ghost.acknowledged).toEqual([]);
    expect(ghost.ticksMs).toHaveLength(ticks);
  });

  test('a full disk refuses and keeps nothing, then works again', () => {
    const world = chatty(8, 1);
    world.run({ forMs: 500 });
    world.disk(0).isFull = true;
    world.run({ forMs: 500 });
    expect(world.node(0).error).toMatchObject({ code: 'ENOSPC' });
    world.disk(0).isFull = false;
    world.run({ forMs: 500 });
    world.run({ forMs: 50 });
    const { records } = world.disk(0).read('log/numbers');
    expect(records.map((record) => record[0])).toEqual(world.node(0).acknowledged);
    expect(records.length).toBeLessThan(world.node(0).ticksMs.length - 3);
  });

  test('a flipped byte is found once, and what was before it is kept', () => {
    const world = chatty(9, 1);
    world.run({ forMs: 3_000 });
    world.crash(0);
    expect(world.disk(0).flipByte('log/numbers')).toBe(true);
    const first = world.disk(0).read('log/numbers');
    expect(first.damage?.kind).toBe('corrupt');
    expect(first.records.length).toBeLessThan(30);
    expect(world.disk(0).read('log/numbers').damage).toBeNull();
  });

  test('converge names what is pending', () => {
    const world = new World({
      seed: 1,
      nodeCount: 1,
      factory: () => ({ start: () => {}, pending: () => 'the moon' }),
    });
    world.startAll();
    expect(() => world.converge({ withinMs: 1_000 })).toThrow(
      'seed 1: not converged after 1000 ms: n0: the moon',
    );
  });
});
