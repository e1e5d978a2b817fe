/** Two or three whole nodes in the simulator's world: what the parts promise each other. */
import { describe, expect, test } from 'vitest';
import { encode } from '../../../crdt/codec.ts';
import { hex } from '../../../crdt/ids.ts';
import type { Hash, ObjectId } from '../../../crdt/ids.ts';
import type { Plan, PlanInputs } from '../../../crdt/model.ts';
import { seal } from '../../../crdt/records.ts';
import type { SignedBytes } from '../../../crdt/records.ts';
import { makeConfig } from '../../../daemon/config.ts';
import { ClusterError } from '../../../daemon/errors.ts';
import { plan } from '../../../daemon/plan/plan.ts';
import { SimCrypto } from '../../sim/sim-crypto.ts';
import { serviceLeaves, TrellisWorld } from '../../sim/trellis-world.ts';

const ids = { service: 'a'.repeat(16) as ObjectId, role: 'b'.repeat(16) as ObjectId };
const crypto = new SimCrypto();
const planOf = (inputs: PlanInputs): Plan => plan(inputs, (bytes) => crypto.sha256(bytes));

function worldOf(nodeCount: number, options: { deadFactRetentionMs?: number } = {}): TrellisWorld {
  const world = new TrellisWorld({ seed: 7, nodeCount, config: makeConfig(options) });
  world.converge({ withinMs: 10_000 });
  return world;
}

function edit(world: TrellisWorld, by: number, pointer: string, value: string): Hash {
  let hash: Hash | null = null;
  world.node(by).edit([{ object: ids.service, pointer, value }], (result) => {
    if (result instanceof ClusterError) throw result;
    hash = result.hash;
  });
  expect(world.runUntil(() => hash !== null, { withinMs: 1_000 })).toBe(true);
  return hash as unknown as Hash;
}

function valueOn(world: TrellisWorld, index: number, pointer: string): unknown {
  return world.node(index).node.reader('env/prod').leaf(ids.service, pointer);
}

/** One service on every host that it wants, planned and committed by an operator on node 0. */
function planned(world: TrellisWorld): void {
  const count = { perRole: { min: 2, max: 2 } };
  const leaves = serviceLeaves({ name: 'site', role: 'web', image: 'demo', count }, ids);
  const problems: unknown[] = [];
  world.node(0).edit(leaves, (result) => {
    if (result instanceof ClusterError) problems.push(result);
  });
  world.run({ forMs: 1_000 });
  world.node(0).apply((error) => {
    if (error !== null) problems.push(error);
  });
  world.run({ forMs: 3_000 });
  expect(problems).toEqual([]);
}

/** A pointer signed by a host, as its daemon would make it, with whatever blobs it likes. */
function signedByHost(
  world: TrellisWorld,
  by: number,
  proposal: { inputs: PlanInputs; plan: Plan },
): { signed: SignedBytes; blobs: Map<Hash, Uint8Array> } {
  const host = world.kitHosts[by] as (typeof world.kitHosts)[number];
  const current = world.node(by).node.replica.plans.current('prod');
  const blobs = new Map(
    [encode(proposal.plan), encode(proposal.inputs)].map((bytes) => [
      hex(crypto.sha256(bytes)) as Hash,
      bytes,
    ]),
  );
  const [blob, inputBlob] = [...blobs.keys()] as [Hash, Hash];
  const signed = seal(
    {
      kind: 'plan',
      v: 1,
      clusterId: world.kit.clusterId,
      env: 'prod',
      planEpoch: 0,
      seq: (current?.pointer.seq ?? 0) + 1,
      inputHash: inputBlob,
      inputBlob,
      blob,
      host: host.keys.publicKey,
      after: current?.hash ?? '',
      at: 0,
    },
    (bytes) => host.keys.sign(bytes),
  );
  return { signed, blobs };
}

describe('edits', () => {
  test('spread to everybody, and spread() says who has them', () => {
    const world = worldOf(3);
    const hash = edit(world, 1, '/env/A', 'one');
    const all = world.kitHosts.map((host) => host.host).toSorted();
    const { node } = world.node(1);
    world.runUntil(() => node.spread(hash).missing.length === 0, { withinMs: 5_000 });
    expect([...node.spread(hash).have].toSorted()).toEqual(all);
    for (const index of [0, 1, 2]) expect(valueOn(world, index, '/env/A')).toBe('one');
  });

  test('do not count as had by a host that is cut off, and reach it after', () => {
    const world = worldOf(3);
    world.isolate(2);
    const hash = edit(world, 0, '/env/A', 'two');
    const { node } = world.node(0);
    const reached = world.kitHosts
      .slice(0, 2)
      .map((host) => host.host)
      .toSorted();
    const have = () => [...node.spread(hash).have].toSorted();
    for (let seconds = 0; seconds < 20; seconds++) {
      expect(have()).not.toContain(world.kitHosts[2]?.host);
      world.run({ forMs: 1_000 });
    }
    // Dead by now: spread() speaks of live members only.
    expect([have(), node.spread(hash).missing]).toEqual([reached, []]);
    world.heal();
    world.converge({ withinMs: 60_000 });
    expect(valueOn(world, 2, '/env/A')).toBe('two');
    world.runUntil(() => have().length === 3, { withinMs: 10_000 });
    expect(have()).toHaveLength(3);
  });

  test('outlive a damaged log of a host that is alone, and the damage is said', () => {
    const world = worldOf(1);
    for (let n = 0; n < 5; n++) edit(world, 0, `/env/K${n}`, 'kept');
    world.run({ forMs: 1_000 });
    world.stop(0);
    expect(world.disk(0).lose('log/envelopes')).toBe(true);
    const { node } = world.start(0);
    for (let n = 0; n < 5; n++) expect(valueOn(world, 0, `/env/K${n}`)).toBe('kept');
    expect(node.damages()).toMatchObject([
      { name: 'envelopes', detail: expect.stringContaining('came back from its copy') },
    ]);
    expect(node.events().map((event) => event.kind)).toContain('state.damaged');
    world.run({ forMs: 3_000 });
    world.restart(0);
    expect(world.node(0).node.damages()).toEqual([]);
  });
});

describe('plans', () => {
  test('a commit is followed by everybody', () => {
    const world = worldOf(3);
    planned(world);
    const hashes = [0, 1, 2].map((index) => world.node(index).node.committedPlan()?.pointerHash);
    expect(new Set(hashes).size).toBe(1);
    expect(hashes[0]).toMatch(/^[0-9a-f]{64}$/);
    const placements = [0, 1, 2].map((index) => world.node(index).node.effectivePlacements());
    expect(placements[1]).toEqual(placements[0]);
    expect(placements[2]).toEqual(placements[0]);
    const running = [0, 1, 2].flatMap((index) => world.engines[index]?.running() ?? []);
    expect(running.toSorted()).toEqual(['site-0', 'site-1']);
  });

  test('one that a host signed is followed when it says what operators decided', () => {
    const world = worldOf(2);
    planned(world);
    const inputs = world.node(1).node.planInputs();
    const { signed, blobs } = signedByHost(world, 1, { inputs, plan: planOf(inputs) });
    expect(world.node(0).node.replica.plans.accept(signed, blobs)).toBe('adopted');
  });

  test('one that a host signed and that changes a service, or places otherwise, is refused', () => {
    const world = worldOf(2);
    planned(world);
    const { plans } = world.node(0).node.replica;
    const before = plans.current('prod')?.hash;
    const inputs = world.node(1).node.planInputs();
    const services = inputs.services.map((service) => ({ ...service, image: 'evil:1' }));
    const changed = { ...inputs, services };
    const honest = planOf(inputs);
    const moved = { ...honest, placements: honest.placements.slice(0, 1) };
    for (const proposal of [
      { inputs: changed, plan: planOf(changed) },
      { inputs, plan: moved },
    ]) {
      const { signed, blobs } = signedByHost(world, 1, proposal);
      expect(plans.accept(signed, blobs)).toBe('refused');
      expect(plans.current('prod')?.hash).toBe(before);
    }
    expect(plans.refused()).toHaveLength(2);
    const stranger = signedByHost(world, 1, { inputs, plan: honest }).signed;
    const damaged = stranger.slice();
    damaged[damaged.length - 1] = (damaged.at(-1) ?? 0) ^ 1;
    expect(plans.accept(damaged)).toBe('rejected');
  });
});

describe('facts', () => {
  test('age on every host, also when their owner is dead, and are forgotten in the end', () => {
    const world = worldOf(3, { deadFactRetentionMs: 60_000 });
    const owner = world.kitHosts[0]?.node as never;
    world.node(0).node.publishFact('weather', { sun: true });
    const fact = (index: number) => world.node(index).node.fact('weather', owner);
    world.runUntil(() => fact(1) !== null && fact(2) !== null, { withinMs: 2_000 });
    expect(fact(2)).toMatchObject({ value: { sun: true } });
    expect(fact(2)?.ageMs).toBeLessThan(1_000);
    world.run({ forMs: 10_000 });
    for (const index of [0, 1, 2]) {
      expect(fact(index)?.ageMs).toBeGreaterThan(9_900);
      expect(fact(index)?.ageMs).toBeLessThan(12_500);
    }
    world.crash(0, 'power');
    world.run({ forMs: 30_000 });
    const seen = world
      .node(1)
      .node.members()
      .find((member) => member.node === owner);
    expect(seen?.liveness).toBe('dead');
    // A host that comes back late learns the old fact with its true age.
    world.restart(2);
    world.runUntil(() => fact(2) !== null, { withinMs: 10_000 });
    expect(fact(2)?.ageMs).toBeGreaterThan(39_000);
    world.run({ forMs: 45_000 });
    expect([fact(1), fact(2)]).toEqual([null, null]);
  });

  test('of a host are written by nobody else', () => {
    const world = worldOf(2);
    const [victim, liar] = world.kitHosts;
    if (victim === undefined || liar === undefined) throw new Error('two hosts');
    const forged = seal(
      {
        kind: 'fact',
        v: 1,
        clusterId: world.kit.clusterId,
        owner: victim.keys.publicKey,
        topic: 'host',
        incarnation: 99,
        seq: 99,
        at: 0,
        body: { name: 'stolen' },
      },
      (bytes) => liar.keys.sign(bytes),
    );
    const { node } = world.node(1);
    const before = node.fact('host', victim.node)?.value;
    node.replica.onMessage(liar.node, { t: 'push', f: [[forged, 0]] });
    expect(node.fact('host', victim.node)?.value).toEqual(before);
    expect(node.replica.facts.rejected).toBe(1);
  });
});
