/**
 * Chains under any sequence of loss, repetition, reordering, crashes and competing wishes. Besides what the world checks at every
 * step: leases are granted by majorities of whoever is in one link, and no link that is two behind may still grant, nor
 * may an epoch come again.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { compareRefs } from '../../../daemon/lease/voter-config.ts';
import { majorityOf } from '../../../daemon/lease/model.ts';
import { ChainWorld, hosts, letters } from '../../unit/lease/chain-world.ts';
import type { ChainHost } from '../../unit/lease/chain-world.ts';

const names = 'abcd';
const letter = fc.constantFrom(...names.split(''));
const target = fc.subarray(names.split(''), { minLength: 1 }).map((all) => all.join(''));

type Step =
  | { readonly kind: 'deliver' | 'repeat' | 'drop'; readonly at: number }
  | { readonly kind: 'sync' | 'crash' | 'grant' | 'tick'; readonly letter: string }
  | { readonly kind: 'want'; readonly letter: string; readonly target: string | null }
  | { readonly kind: 'wait' | 'calm'; readonly ms: number }
  | { readonly kind: 'meet'; readonly letter: string; readonly other: string };

const at = fc.nat(1_000);
const of = <K extends Step['kind']>(...kinds: K[]) => fc.constantFrom(...kinds);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 12, arbitrary: fc.record({ kind: of('deliver'), at }) },
  { weight: 1, arbitrary: fc.record({ kind: of('repeat', 'drop'), at }) },
  { weight: 5, arbitrary: fc.record({ kind: of('sync', 'sync', 'grant', 'tick'), letter }) },
  { weight: 1, arbitrary: fc.record({ kind: of('crash'), letter }) },
  {
    weight: 2,
    arbitrary: fc.record({ kind: of('want'), letter, target: fc.option(target, { nil: null }) }),
  },
  { weight: 2, arbitrary: fc.record({ kind: of('wait'), ms: fc.constantFrom(50, 400, 6_000) }) },
  { weight: 2, arbitrary: fc.record({ kind: of('calm'), ms: fc.constantFrom(100, 1_000, 7_000) }) },
  { weight: 2, arbitrary: fc.record({ kind: of('meet'), letter, other: letter }) },
) as fc.Arbitrary<Step>;

/** What a lease would see of the chain: epochs, and which link granted last. */
class Grants {
  epoch = 0;
  last: { readonly generation: number; readonly n: number } | null = null;

  /** A majority of the voters in one link agrees on the next epoch; null: there is none. */
  grant(world: ChainWorld, asker: ChainHost): void {
    const chosen = asker.chain.current();
    if (chosen === null || !asker.isUp) return;
    const inLink = chosen.config.voters
      .map((id) => world.hosts.get(id))
      .filter((one) => one !== undefined)
      .filter((one) => one.isUp && compareRefs(one.chain.ref(), chosen.config) === 0);
    if (inLink.length < majorityOf(chosen.config.voters.length)) return;
    const epoch = 1 + Math.max(...inLink.map((one) => one.epoch('lock/x')));
    const owner = { host: asker.id, session: 'e'.repeat(24) };
    for (const one of inLink) one.raise([{ name: 'lock/x', epoch, owner }], 0);
    expect(epoch).toBeGreaterThan(this.epoch);
    if (this.last !== null) {
      expect(chosen.config.n).toBeGreaterThanOrEqual(this.last.n - 1);
    }
    this.epoch = epoch;
    const isNewer = this.last === null || compareRefs(chosen.config, this.last) > 0;
    if (isNewer) this.last = chosen.config;
  }
}

function apply(world: ChainWorld, grants: Grants, one: Step): void {
  switch (one.kind) {
    case 'deliver':
    case 'repeat':
      if (world.mail.length > 0) world.deliver(one.at % world.mail.length, one.kind === 'repeat');
      return;
    case 'drop':
      if (world.mail.length > 0) world.mail.splice(one.at % world.mail.length, 1);
      return;
    case 'sync':
      return world.host(one.letter).sync();
    case 'crash':
      world.host(one.letter).crash();
      return world.host(one.letter).restart();
    case 'grant':
      return grants.grant(world, world.host(one.letter));
    case 'tick': {
      const host = world.host(one.letter);
      return host.run((now) => host.chain.tick(now));
    }
    case 'want': {
      const host = world.host(one.letter);
      const wanted = one.target === null ? null : hosts(one.target);
      return host.run((now) => host.chain.want(wanted, now));
    }
    case 'wait':
      world.nowMs += one.ms;
      return;
    case 'calm':
      syncAll(world);
      world.hasSlowDisks = false;
      world.run(one.ms);
      world.hasSlowDisks = true;
      return;
    case 'meet': {
      const host = world.host(one.letter);
      const ref = world.host(one.other).chain.ref();
      if (one.letter === one.other) return;
      const from = world.host(one.other).id;
      return host.run((now) => host.chain.meet(from, ref, now).effects);
    }
  }
}

function syncAll(world: ChainWorld): void {
  for (const one of world.hosts.values()) while (one.unsynced.length > 0) one.sync();
}

function settle(world: ChainWorld): void {
  world.hasSlowDisks = false;
  syncAll(world);
  for (const one of world.hosts.values()) one.run((now) => one.chain.want(null, now));
  world.run(10_000);
  world.gossip();
  world.gossip();
}

function play(voters: string, steps: readonly Step[], forgets: ChainWorld['forgets'] = null): void {
  const world = new ChainWorld(names, { voters });
  world.hasSlowDisks = true;
  world.forgets = forgets;
  const grants = new Grants();
  for (const one of steps) apply(world, grants, one);
  settle(world);
  const newest = [...world.links.values()].toSorted((a, b) => b.config.n - a.config.n)[0];
  const current = letters(newest?.config.voters ?? []);
  expect(world.agree(names, current)).toBe(true);
  const leader = world.host(current[0] ?? 'a');
  leader.run((now) => leader.chain.want(hosts('abc'), now));
  expect(world.run(200_000, () => world.agree('abc', 'abc'))).toBe(true);
  grants.grant(world, world.host('a'));
}

test('any schedule: one link of a number, no vote before its time, epochs only rise, and it goes on', () => {
  const start = fc.constantFrom('a', 'ab', 'abc', 'abcd');
  fc.assert(
    fc.property(start, fc.array(step, { maxLength: 250, size: 'max' }), (voters, steps) => {
      play(voters, steps);
    }),
    { numRuns: 150 },
  );
});
