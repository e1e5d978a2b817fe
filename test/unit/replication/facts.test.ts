import { describe, expect, test } from 'vitest';
import { seal } from '../../../crdt/records.ts';
import type { FactRecord, SignedBytes } from '../../../crdt/records.ts';
import { makeConfig } from '../../../daemon/config.ts';
import { Facts } from '../../../daemon/replication/facts.ts';
import type { StoredFact } from '../../../daemon/replication/facts.ts';
import { ClusterKit } from '../../cluster-kit.ts';
import type { KitHost } from '../../cluster-kit.ts';
import { SimCrypto } from '../../sim/sim-crypto.ts';

const crypto = new SimCrypto();
const kit = new ClusterKit(crypto);
const config = makeConfig({ factBytesMax: 4_096, deadFactRetentionMs: 1_000 });
const [h1, h2, h3] = [kit.host(0), kit.host(1), kit.host(2)];
const anybody = (): boolean => true;

function factsOf(host: KitHost, incarnation = 1): Facts {
  const { clusterId } = kit;
  return new Facts({ clusterId, self: host.node, keys: host.keys, incarnation, crypto, config });
}

function say(facts: Facts, topic: string, value: unknown, nowMs = 0): StoredFact {
  const fact = facts.publish(topic, value, { monotonicMs: nowMs, wallMs: 0 });
  if (fact === null || fact === 'too-large') throw new Error('nothing was published');
  return fact;
}

function made(host: KitHost, changes: Partial<FactRecord>): SignedBytes {
  const record: FactRecord = {
    kind: 'fact',
    v: 1,
    clusterId: kit.clusterId,
    owner: host.keys.publicKey,
    topic: 'host',
    incarnation: 1,
    seq: 1,
    at: 0,
    body: 'made',
    ...changes,
  };
  return seal(record, (bytes) => host.keys.sign(bytes));
}

/** Anti-entropy of facts alone, both ways, until nothing is new. */
function exchange(a: Facts, b: Facts, nowMs: number): void {
  for (let round = 0; round < 3; round++) {
    for (const [from, to] of [
      [a, b],
      [b, a],
    ] as const)
      for (const fact of from.missingFrom(to.versions()))
        to.accept(fact.signed, nowMs - fact.bornMs, nowMs, anybody);
  }
}

describe('facts', () => {
  test('the newest version of its owner wins in any order; the same value is said once', () => {
    const [own, peer] = [factsOf(h1), factsOf(h2)];
    const old = say(own, 'host', 1);
    const later = say(own, 'host', 2);
    expect(own.publish('host', 2, { monotonicMs: 0, wallMs: 5 })).toBeNull();
    expect(peer.accept(later.signed, 0, 0, anybody)).toMatchObject({ owner: h1.node });
    expect(peer.accept(old.signed, 0, 0, anybody)).toBe('known');
    expect(peer.get('host', h1.node, 0)?.value).toBe(2);
    expect(peer.digest()).toBe(own.digest());
  });

  test('ages are added up from hop to hop, so that the facts of a dead host die everywhere', () => {
    const [own, second, third] = [factsOf(h1), factsOf(h2), factsOf(h3)];
    const fact = say(own, 'host', 1, 5_000);
    second.accept(fact.signed, 100, 70_000, anybody);
    const passedOn = second.missingFrom({})[0];
    expect(passedOn).toBeDefined();
    third.accept(fact.signed, 70_400 - (passedOn?.bornMs ?? 0), 300, anybody);
    expect(third.get('host', h1.node, 300)?.ageMs).toBe(500);
    expect(third.get('host', h1.node, 400)?.ageMs).toBe(600);

    third.forget(799, anybody);
    expect(third.get('host', h1.node, 799)).not.toBeNull();
    third.forget(800, anybody);
    expect(third.get('host', h1.node, 800)).toBeNull();
    // Nobody who still has it can give it back.
    expect(third.accept(fact.signed, 1_000, 800, anybody)).toBe('known');
    expect(third.versions()).toEqual({});
  });

  test.each([Number.NaN, Number.POSITIVE_INFINITY, -5])('an age of %d is none', (age) => {
    const peer = factsOf(h2);
    peer.accept(made(h1, {}), age, 50, anybody);
    expect(peer.get('host', h1.node, 60)?.ageMs).toBe(10);
  });

  test('own facts do not die, and those of a removed host do at once', () => {
    const facts = factsOf(h1);
    say(facts, 'host', 1);
    facts.accept(made(h2, {}), 0, 0, anybody);
    facts.forget(10, (node) => node !== h2.node);
    facts.forget(1_000_000, (node) => node !== h2.node);
    expect(Object.keys(facts.versions())).toEqual([h1.node]);
  });

  test('strangers, forgeries, other clusters, too large ones and too many topics are refused', () => {
    const facts = factsOf(h1);
    expect(facts.accept(made(h2, {}), 0, 0, () => false)).toBe('stranger');
    const forged = made(h3, { owner: h2.keys.publicKey });
    expect(facts.accept(forged, 0, 0, anybody)).toBe('rejected');
    expect(facts.accept(made(h2, { clusterId: '0'.repeat(32) }), 0, 0, anybody)).toBe('rejected');
    expect(facts.accept(made(h2, { body: 'x'.repeat(6_000) }), 0, 0, anybody)).toBe('rejected');
    expect(facts.accept(made(h2, { incarnation: 2 ** 50 }), 0, 0, anybody)).toBe('rejected');
    for (const topic of ['__proto__', 'Über', '', 'a b'])
      expect(facts.accept(made(h2, { topic }), 0, 0, anybody)).toBe('rejected');
    for (let index = 0; index < 40; index++)
      facts.accept(made(h2, { topic: `t${index}` }), 0, 0, anybody);
    expect(Object.keys(facts.versions()[h2.node] ?? {})).toHaveLength(32);
    expect(facts.accept(made(h2, { topic: 't1', seq: 2 }), 0, 0, anybody)).not.toBe('rejected');
  });

  test('a topic that every object has by birth is sent to who lacks it', () => {
    const facts = factsOf(h1);
    say(facts, 'constructor', 1);
    expect(facts.missingFrom({ [h1.node]: {} })).toHaveLength(1);
  });

  test('an own value over the limit is refused and the last good one stays', () => {
    const facts = factsOf(h1);
    say(facts, 'docker', 'small');
    const large = facts.publish('docker', 'x'.repeat(5_000), { monotonicMs: 0, wallMs: 0 });
    expect(large).toBe('too-large');
    expect(facts.get('docker', h1.node, 0)?.value).toBe('small');
  });

  test('after a restored disk peers believe this run again', () => {
    const peer = factsOf(h2);
    const before = factsOf(h1, 7);
    for (let count = 0; count < 5; count++) say(before, 'host', `before ${count}`);
    say(before, 'inventory', 'before');
    exchange(before, peer, 0);

    const restored = factsOf(h1, 3);
    say(restored, 'host', 'now');
    say(restored, 'docker', 'now');
    exchange(restored, peer, 10);
    expect(peer.get('host', h1.node, 10)?.value).toBe('now');
    expect(peer.get('docker', h1.node, 10)?.value).toBe('now');
    expect(restored.get('host', h1.node, 10)?.value).toBe('now');
    expect(restored.digest()).toBe(peer.digest());
  });

  test('what an earlier run said and this one does not is shown to nobody here, yet both sides agree', () => {
    const peer = factsOf(h2);
    peer.accept(made(h1, { topic: 'events' }), 0, 0, anybody);
    const restarted = factsOf(h1, 2);
    say(restarted, 'host', 1);
    exchange(restarted, peer, 0);
    expect(restarted.get('events', h1.node, 0)).toBeNull();
    expect(restarted.all('events', 0)).toEqual([]);
    expect(restarted.digest()).toBe(peer.digest());
    const said = say(restarted, 'events', 'new');
    expect(peer.accept(said.signed, 0, 0, anybody)).not.toBe('known');
    expect(restarted.digest()).toBe(peer.digest());
  });
});
