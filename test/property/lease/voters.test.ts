import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { HostId } from '../../../crdt/ids.ts';
import { chooseVoters, voterCount, voterReplaceMs } from '../../../daemon/lease/voters.ts';
import type { VoterHost } from '../../../daemon/lease/voters.ts';

const hostOf = (index: number) => index.toString(16).padStart(32, '0') as HostId;

function member(index: number, changes: Partial<VoterHost> = {}): VoterHost {
  return {
    host: hostOf(index),
    deadForMs: null,
    uptimeMs: 0,
    location: '',
    isWitness: false,
    isNever: false,
    hasForgotten: false,
    isLeaving: false,
    ...changes,
  };
}

const anyHosts = fc.uniqueArray(fc.nat(30), { minLength: 1, maxLength: 12 }).chain((indexes) =>
  fc.tuple(
    ...indexes.map((index) =>
      fc
        .record({
          deadForMs: fc.constantFrom(null, null, null, 1_000, voterReplaceMs, voterReplaceMs * 9),
          uptimeMs: fc.constantFrom(0, 7_200_000, 200_000_000),
          location: fc.constantFrom('', 'east', 'west', 'north'),
          isWitness: fc.boolean(),
          isNever: fc.constantFrom(false, false, false, true),
          isLeaving: fc.constantFrom(false, false, false, true),
        })
        .map((changes) => member(index, changes)),
    ),
  ),
);
const world = anyHosts.chain((hosts) =>
  fc.record({
    hosts: fc.constant(hosts as readonly VoterHost[]),
    current: fc
      .subarray(
        Array.from({ length: 31 }, (_, index) => hostOf(index)),
        { minLength: 1, maxLength: 5 },
      )
      .map((all) => all as readonly HostId[]),
    operatorChoice: fc.constant(null),
  }),
);

describe('the choice of voters', () => {
  test('does not depend on the order of hosts', () => {
    fc.assert(
      fc.property(world, fc.infiniteStream(fc.nat()), (input, numbers) => {
        const shuffle = <T>(list: readonly T[]) =>
          list
            .map((item) => ({ item, key: numbers.next().value ?? 0 }))
            .toSorted((a, b) => a.key - b.key)
            .map(({ item }) => item);
        const other = { ...input, hosts: shuffle(input.hosts), current: shuffle(input.current) };
        expect(chooseVoters(other)).toEqual(chooseVoters(input));
      }),
    );
  });

  test('is settled at once', () => {
    fc.assert(
      fc.property(world, (input) => {
        const chosen = chooseVoters(input);
        expect(chooseVoters({ ...input, current: chosen })).toEqual(chosen);
      }),
    );
  });

  test('is odd, sorted, of members that may vote, and no more than the hosts ask for', () => {
    fc.assert(
      fc.property(world, (input) => {
        const able = input.hosts.filter(({ isNever, isLeaving }) => !isNever && !isLeaving);
        const chosen = chooseVoters(input);
        fc.pre(able.length > 0 && chosen.join() !== input.current.toSorted().join());
        const names = able.map(({ host }) => host);
        expect(chosen.every((host) => names.includes(host))).toBe(true);
        expect(chosen.length % 2).toBe(1);
        expect(chosen.length).toBeLessThanOrEqual(voterCount(able.length));
        expect(chosen).toEqual(chosen.toSorted());
        expect(new Set(chosen).size).toBe(chosen.length);
      }),
    );
  });

  test('keeps every voter that is not gone for long, while their number is right', () => {
    fc.assert(
      fc.property(world, (input) => {
        const able = input.hosts.filter(({ isNever, isLeaving }) => !isNever && !isLeaving);
        const kept = able.filter(
          ({ host, deadForMs }) =>
            input.current.includes(host) && (deadForMs ?? 0) < voterReplaceMs,
        );
        const chosen = chooseVoters(input);
        fc.pre(kept.length <= voterCount(able.length) && kept.length % 2 === 1);
        for (const { host } of kept) expect(chosen).toContain(host);
      }),
    );
  });

  test('never gives a new vote to the dead', () => {
    fc.assert(
      fc.property(world, (input) => {
        const dead = input.hosts.filter(({ deadForMs }) => deadForMs !== null);
        const chosen = chooseVoters(input);
        for (const { host } of dead) {
          if (!input.current.includes(host)) expect(chosen).not.toContain(host);
        }
      }),
    );
  });
});

describe('by the number of hosts', () => {
  const founder = [hostOf(0)];
  const choose = (hosts: readonly VoterHost[], current: readonly HostId[] = founder) =>
    chooseVoters({ hosts, current, operatorChoice: null });
  const some = (count: number) => Array.from({ length: count }, (_, index) => member(index));

  test.each([
    [1, 1],
    [2, 1],
    [3, 3],
    [4, 3],
    [5, 5],
    [99, 5],
    [100, 7],
  ])('%i hosts have %i votes', (hosts, votes) => {
    const chosen = choose(some(hosts));
    expect(chosen.length).toBe(votes);
    expect(chosen).toContain(hostOf(0));
  });

  test('two stay with the voter they have, and do as the operator says', () => {
    expect(choose(some(2), [hostOf(1)])).toEqual([hostOf(1)]);
    const pair = [hostOf(0), hostOf(1)];
    const input = { hosts: some(2), current: founder, operatorChoice: pair };
    expect(chooseVoters(input)).toEqual(pair);
  });

  test('a witness makes three of two', () => {
    expect(choose([...some(2), member(7, { isWitness: true })]).length).toBe(3);
    const chosen = choose([...some(3), member(7, { isWitness: true })]);
    expect(chosen).not.toContain(hostOf(7));
  });

  test('a voter that lost memory is removed by a majority of the others, and asked for again', () => {
    const voters = [0, 1, 2].map(hostOf);
    const forgot = (index: number) =>
      some(3).map((one) => ({ ...one, hasForgotten: one.host === hostOf(index) }));
    const rest = [hostOf(0), hostOf(2)];
    expect(choose(forgot(1), voters)).toEqual(rest);
    const operatorChoice = voters;
    expect(chooseVoters({ hosts: forgot(1), current: voters, operatorChoice })).toEqual(rest);
    // Whoever was removed remembers: it is let in anew.
    expect(choose(forgot(1), rest)).toEqual(voters);
    expect(choose(some(3), rest)).toEqual(voters);
    // The only other one of a pair is no majority.
    const pair = [hostOf(0), hostOf(1)];
    const input = { hosts: forgot(1).slice(0, 2), current: pair, operatorChoice: pair };
    expect(chooseVoters(input)).toEqual(pair);
  });

  test('a dead voter is replaced after ten minutes, by somebody alive', () => {
    const voters = [0, 1, 2].map(hostOf);
    const dead = (ms: number) => [...some(2), member(2, { deadForMs: ms }), member(3)];
    expect(choose(dead(voterReplaceMs - 1), voters)).toEqual(voters);
    expect(choose(dead(voterReplaceMs), voters)).toEqual([0, 1, 3].map(hostOf));
    expect(choose(dead(voterReplaceMs).slice(0, 3), voters)).toEqual(voters);
  });

  test('a voter that left is replaced at once', () => {
    const hosts = [...some(2), member(2, { isLeaving: true }), member(3)];
    expect(choose(hosts, [0, 1, 2].map(hostOf))).toEqual([0, 1, 3].map(hostOf));
  });

  test('other places come first', () => {
    const east = [0, 1, 2, 3].map((index) => member(index, { location: 'east' }));
    const west = member(8, { location: 'west' });
    const north = member(9, { location: 'north' });
    expect(choose([...east, west].slice(1), [hostOf(1)])).toContain(west.host);
    const chosen = choose([east[0], east[1], west, north].filter((one) => one !== undefined));
    expect(chosen).toEqual([0, 8, 9].map(hostOf));
  });

  test('who has run for long comes before who has just started', () => {
    const hosts = [member(0), member(1), member(2), member(3, { uptimeMs: 9e8 })];
    expect(choose(hosts)).toContain(hostOf(3));
  });

  test('nobody left keeps what there is', () => {
    expect(chooseVoters({ hosts: [], current: founder, operatorChoice: null })).toEqual(founder);
    const gone = { hosts: some(2), current: founder, operatorChoice: [hostOf(9)] };
    expect(chooseVoters(gone)).toEqual(founder);
  });
});
