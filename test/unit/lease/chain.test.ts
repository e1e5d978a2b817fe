import { describe, expect, test } from 'vitest';
import { firstConfig, voteWaitMs } from '../../../daemon/lease/voter-config.ts';
import { intentIdleMs } from '../../../daemon/lease/chain-voter.ts';
import type { ChosenConfig } from '../../../daemon/lease/model.ts';
import { ChainWorld, host, hosts, worldEnv } from './chain-world.ts';

const waitMs = voteWaitMs(5_000);

/** Voters of `names`, all of them knowing. */
function grown(names: string, voters: string, seed = 1): ChainWorld {
  const world = new ChainWorld(names, { seed });
  want(world, 'a', voters);
  const isDone = world.run(120_000, () => world.agree(voters, voters));
  if (!isDone) throw new Error(`not grown: ${world.voters('a')}`);
  want(world, 'a', null);
  world.run(10_000);
  return world;
}

function want(world: ChainWorld, letter: string, voters: string | null): void {
  const one = world.host(letter);
  one.run((now) => one.chain.want(voters === null ? null : hosts(voters), now));
}

function force(world: ChainWorld, letter: string, voters: string, dead: string) {
  const one = world.host(letter);
  const answer = one.chain.force(hosts(voters), hosts(dead), world.now());
  one.carryOut(answer.isOk ? answer.effects : []);
  return answer;
}

describe('the chain of voters', () => {
  test('a founder is the only voter, on its disk before it acts', () => {
    const world = new ChainWorld('ab');
    expect(world.voters('a')).toBe('a');
    expect(world.host('a').chain.isVoter()).toBe(true);
    expect(world.host('a').chain.ref()).toEqual({ env: worldEnv, generation: 0, n: 0 });
    expect(world.host('b').chain.current()).toBeNull();
    expect(world.host('b').chain.ref().n).toBe(-1);
  });

  test('grows from one to three and five, one at a time, and back', () => {
    const world = new ChainWorld('abcde');
    want(world, 'a', 'abc');
    expect(world.run(60_000, () => world.agree('abc', 'abc'))).toBe(true);
    want(world, 'a', 'abcde');
    expect(world.run(60_000, () => world.agree('abcde', 'abcde'))).toBe(true);
    want(world, 'a', 'ace');
    expect(world.run(60_000, () => world.agree('ace', 'ace'))).toBe(true);
    expect(world.host('b').chain.isVoter()).toBe(false);
    const sizes = [...world.links.values()].map((link) => link.config.voters.length);
    expect(sizes).toEqual([1, 2, 3, 4, 5, 4, 3]);
  });

  test('every voter can be replaced, and there are never fewer than three', () => {
    const world = grown('abcdef', 'abc');
    const before = world.links.size;
    want(world, 'a', 'def');
    expect(world.run(120_000, () => world.agree('def', 'def'))).toBe(true);
    const sizes = [...world.links.values()].slice(before).map((link) => link.config.voters.length);
    expect(sizes).toEqual([4, 3, 4, 3, 4, 3]);
  });

  test('a voter does not vote before leases of the link before are over', () => {
    const world = new ChainWorld('abc');
    const startMs = world.nowMs;
    want(world, 'a', 'ab');
    expect(world.run(waitMs - 1, () => world.voters('a') === 'ab')).toBe(false);
    expect(world.run(500, () => world.agree('ab', 'ab'))).toBe(true);
    expect(world.nowMs - startMs).toBeGreaterThanOrEqual(waitMs);
  });

  test('a restart starts the wait anew', () => {
    const world = grown('abcd', 'abc');
    world.run(waitMs * 2);
    world.host('b').crash();
    world.host('c').crash();
    world.host('b').restart();
    world.host('c').restart();
    want(world, 'a', 'abcd');
    expect(world.run(waitMs - 100, () => world.voters('a') === 'abcd')).toBe(false);
    expect(world.run(20_000, () => world.agree('abcd', 'abcd'))).toBe(true);
  });

  test('a pair says full before it votes, also after a restart', () => {
    const world = grown('abc', 'ab');
    world.run(waitMs * 3);
    expect(world.host('a').chain.isFull()).toBe(false);
    want(world, 'a', 'abc');
    world.run(1_000);
    expect(world.host('a').chain.isFull()).toBe(true);
    expect(world.host('b').chain.isFull()).toBe(true);
    world.host('b').crash();
    world.host('b').restart();
    expect(world.host('b').chain.isFull()).toBe(true);
    expect(world.run(waitMs - 1_100, () => world.voters('a') === 'abc')).toBe(false);
    expect(world.run(20_000, () => world.agree('abc', 'abc'))).toBe(true);
    expect(world.host('b').chain.isFull()).toBe(false);
  });

  test('a pair with a dead peer is not even asked: the holder keeps what it has', () => {
    const world = grown('abc', 'ab');
    world.run(waitMs * 3);
    world.host('b').crash();
    want(world, 'a', 'abc');
    world.run(60_000);
    expect(world.host('a').chain.isFull()).toBe(false);
    want(world, 'a', null);
    const c = world.host('c');
    c.run((now) => c.chain.adopt(world.host('a').chain.current() as ChosenConfig, now));
    want(world, 'c', 'abc');
    world.run(60_000);
    expect(world.host('a').chain.isFull()).toBe(false);
    world.host('b').restart();
    expect(world.run(60_000, () => world.agree('abc', 'abc'))).toBe(true);
  });

  test('intent ends when nobody goes on with the step', () => {
    const world = grown('abc', 'ab');
    world.run(waitMs * 3);
    want(world, 'a', 'abc');
    world.run(500);
    want(world, 'a', null);
    world.run(intentIdleMs - 1_000);
    expect(world.host('b').chain.isFull()).toBe(true);
    world.run(2_000);
    expect(world.host('b').chain.isFull()).toBe(false);
    expect(world.host('a').chain.isFull()).toBe(false);
    world.host('b').crash();
    world.host('b').restart();
    expect(world.host('b').chain.isFull()).toBe(false);
    want(world, 'a', 'abc');
    expect(world.run(waitMs - 100, () => world.voters('a') === 'abc')).toBe(false);
    expect(world.run(20_000, () => world.agree('abc', 'abc'))).toBe(true);
  });

  test('intent of who has accepted does not end', () => {
    const world = grown('abc', 'ab');
    world.run(waitMs * 3);
    world.filter = ({ message }) => message.kind !== 'chain-accepted';
    want(world, 'a', 'abc');
    world.run(waitMs + 2_000);
    want(world, 'a', null);
    world.run(intentIdleMs * 2);
    expect(world.host('b').chain.isFull()).toBe(true);
  });

  test('a minority chooses nothing', () => {
    const world = grown('abcd', 'abc');
    world.run(waitMs);
    world.host('b').crash();
    world.host('c').crash();
    want(world, 'a', 'abcd');
    world.run(120_000);
    expect(world.voters('a')).toBe('abc');
  });

  test('a silent acceptor does not vote', () => {
    const world = grown('abcd', 'abc');
    world.run(waitMs);
    world.host('b').isSilent = true;
    world.host('c').crash();
    want(world, 'a', 'abcd');
    world.run(30_000);
    expect(world.voters('a')).toBe('abc');
    world.host('b').isSilent = false;
    expect(world.run(30_000, () => world.voters('a') === 'abcd')).toBe(true);
  });

  test('who is not a voter may lead a step', () => {
    const world = grown('abcd', 'abc');
    const chosen = world.host('a').chain.current() as ChosenConfig;
    const d = world.host('d');
    d.run((now) => d.chain.adopt(chosen, now));
    want(world, 'd', 'abd');
    expect(world.run(60_000, () => world.agree('abcd', 'abd'))).toBe(true);
  });

  test('what was accepted before is finished by the next', () => {
    const world = grown('abcd', 'abc');
    world.run(waitMs);
    world.filter = ({ message, to }) =>
      message.kind !== 'config' && !(message.kind === 'chain-accepted' && to === host('a'));
    want(world, 'a', 'abcd');
    world.run(2_000);
    world.host('a').crash();
    world.filter = () => true;
    want(world, 'b', 'bc');
    world.run(5_000);
    expect(world.links.get('0.3')?.config.voters).toEqual(hosts('abcd'));
  });

  test('who was away is told when it shows an old number', () => {
    const world = grown('abcd', 'abc');
    world.host('c').crash();
    world.run(waitMs);
    want(world, 'a', 'abd');
    world.run(60_000, () => world.agree('abd', 'abd'));
    world.host('c').restart();
    expect(world.voters('c')).toBe('abc');
    const c = world.host('c');
    const a = world.host('a');
    const met = a.chain.meet(c.id, c.chain.ref(), world.now());
    expect(met.isOurs).toBe(false);
    a.carryOut(met.effects);
    world.run(100);
    expect(world.voters('c')).toBe('abd');
    expect(c.adoptions.at(-1)?.mustDrop).toBe(false);
  });

  test('a newer number makes this host ask', () => {
    const world = grown('abcd', 'abc');
    const [a, d] = [world.host('a'), world.host('d')];
    d.carryOut(d.chain.meet(a.id, a.chain.ref(), world.now()).effects);
    world.run(100);
    expect(world.voters('d')).toBe('abc');
    expect(d.chain.meet(a.id, a.chain.ref(), world.now()).isOurs).toBe(true);
  });

  test('floors are the highest of a majority, and reach the new voter', () => {
    const world = grown('abcd', 'abc');
    const owner = { host: host('b'), session: 'e'.repeat(24) };
    for (const letter of 'bc') world.host(letter).raise([{ name: 'lock/x', epoch: 7, owner }], 0);
    world.host('c').crash();
    world.run(waitMs);
    want(world, 'a', 'abcd');
    expect(world.run(60_000, () => world.voters('d') === 'abcd')).toBe(true);
    expect(world.host('d').epoch('lock/x')).toBe(7);
    expect(world.host('d').epochs.get('lock/x')?.owner).toEqual(owner);
  });

  test('the longest exclusion changes in a step of its own, and the longer one is waited for', () => {
    const world = grown('abc', 'abc');
    const a = world.host('a');
    a.run((now) => a.chain.wantTtlMsMax(15_000, now));
    const ttl = () => a.chain.current()?.config.ttlMsMax;
    expect(world.run(60_000, () => ttl() === 15_000)).toBe(true);
    expect(world.voters('a')).toBe('abc');
    world.run(voteWaitMs(15_000));
    a.run((now) => a.chain.wantTtlMsMax(5_000, now));
    expect(world.run(60_000, () => ttl() === 5_000)).toBe(true);
    expect(a.chain.exclusionMsMax()).toBe(15_000);
    const sinceMs = world.nowMs;
    a.run((now) => a.chain.wantTtlMsMax(null, now));
    want(world, 'a', 'ab');
    expect(world.run(60_000, () => world.voters('a') === 'ab')).toBe(true);
    expect(world.nowMs - sinceMs).toBeGreaterThanOrEqual(voteWaitMs(15_000));
  });
});

describe('links that are not taken', () => {
  const world = grown('abcd', 'abc');
  const a = world.host('a');
  const now = a.chain.current() as ChosenConfig;
  const next: ChosenConfig = {
    config: { ...now.config, n: now.config.n + 1, voters: hosts('abcd') },
    electorate: hosts('abc'),
    votes: hosts('ab'),
  };

  test.each<[string, ChosenConfig]>([
    ['without a majority', { ...next, votes: hosts('a') }],
    ['with votes of strangers', { ...next, votes: hosts('ad') }],
    ['with a vote counted twice', { ...next, votes: hosts('aa') }],
    ['voted by others than the voters', { ...next, electorate: hosts('abd'), votes: hosts('abd') }],
    ['that follow another', { ...next, config: { ...next.config, prevHash: '0'.repeat(64) } }],
    ['that swap a voter', { ...next, config: { ...next.config, voters: hosts('abd') } }],
    ['of another environment', { ...next, config: { ...next.config, env: 'test' } }],
    ['founded by somebody else', firstConfig(worldEnv, host('d'))],
    ['unsorted', { ...next, config: { ...next.config, voters: [...hosts('abcd')].toReversed() } }],
    ['far ahead without votes', { ...next, config: { ...next.config, n: 99 }, votes: [] }],
  ])('%s', (_, chosen) => {
    expect(a.chain.adopt(chosen, world.now()).filter((one) => one.kind === 'persist')).toEqual([]);
    world.run(100);
    expect(world.voters('a')).toBe('abc');
  });

  test('two links of one number are an alarm, once', () => {
    const other = { ...now, config: { ...now.config, ttlMsMax: 6_000 } };
    const effects = a.chain.adopt(other, world.now());
    expect(effects).toMatchObject([{ notice: { event: 'lease.chain-forked', severity: 'alarm' } }]);
    expect(a.chain.adopt(other, world.now())).toEqual([]);
  });
});

describe('force', () => {
  test('survivors become a new generation after 2 M, and epochs jump', () => {
    const world = grown('abc', 'abc');
    world
      .host('a')
      .raise(
        [{ name: 'lock/x', epoch: 3, owner: { host: host('b'), session: 'e'.repeat(24) } }],
        0,
      );
    world.host('b').crash();
    world.host('c').crash();
    const startMs = world.nowMs;
    expect(force(world, 'a', 'a', 'bc')).toMatchObject({ isOk: true, waitMs: 10_000 });
    expect(world.run(9_900, () => world.voters('a') === 'a')).toBe(false);
    expect(world.run(10_000, () => world.voters('a') === 'a')).toBe(true);
    expect(world.nowMs - startMs).toBeGreaterThanOrEqual(10_000);
    expect(world.host('a').chain.ref().generation).toBe(1);
    expect(world.host('a').epoch('lock/x')).toBe(3 + 2 ** 20);
    expect(world.host('a').epoch('lock/other')).toBe(2 ** 20);
    expect(world.host('a').adoptions.at(-1)?.mustDrop).toBe(false);
  });

  test('two of five, then the old voters return and drop what they had', () => {
    const world = grown('abcde', 'abcde');
    for (const letter of 'cde') world.host(letter).crash();
    force(world, 'b', 'ab', 'cde');
    expect(world.run(40_000, () => world.agree('ab', 'ab'))).toBe(true);
    for (const letter of 'ab') expect(world.host(letter).adoptions.at(-1)?.mustDrop).toBe(false);
    for (const letter of 'cde') world.host(letter).restart();
    const c = world.host('c');
    want(world, 'c', 'abcde');
    world.run(500);
    expect(c.adoptions.at(-1)).toMatchObject({ mustDrop: true });
    want(world, 'c', null);
    want(world, 'b', 'abc');
    expect(world.run(60_000, () => world.agree('abc', 'abc'))).toBe(true);
    expect(world.host('a').chain.ref().generation).toBe(1);
  });

  test('works when no voter is left', () => {
    const world = grown('abcd', 'abc');
    const d = world.host('d');
    d.run((now) => d.chain.adopt(world.host('a').chain.current() as ChosenConfig, now));
    for (const letter of 'abc') world.host(letter).crash();
    expect(force(world, 'd', 'd', 'abc').isOk).toBe(true);
    expect(world.run(20_000, () => world.voters('d') === 'd')).toBe(true);
  });

  test('needs every survivor, and says so when one does not answer', () => {
    const world = grown('abcde', 'abcde');
    for (const letter of 'bcde') world.host(letter).crash();
    force(world, 'a', 'ab', 'cde');
    world.run(200_000);
    expect(world.voters('a')).toBe('abcde');
    expect(world.host('a').events).toContain('lease.force-failed');
    expect(force(world, 'a', 'a', 'bcde').isOk).toBe(true);
    expect(world.run(20_000, () => world.voters('a') === 'a')).toBe(true);
  });

  test('a survivor that knows a newer link stops it', () => {
    const world = grown('abcd', 'abc');
    world.run(waitMs);
    world.filter = ({ to }) => to !== host('c');
    want(world, 'a', 'abcd');
    expect(world.run(60_000, () => world.agree('abd', 'abcd'))).toBe(true);
    world.filter = () => true;
    want(world, 'a', null);
    world.host('a').crash();
    world.host('b').crash();
    expect(world.voters('c')).toBe('abc');
    expect(force(world, 'c', 'c', 'ab').isOk).toBe(true);
    const c = world.host('c');
    c.run((now) => c.chain.adopt(world.host('d').chain.current() as ChosenConfig, now));
    world.run(60_000);
    expect(world.voters('c')).toBe('abcd');
    expect(c.events).toContain('lease.force-failed');
  });

  test('two forces at once end in one generation for all who took part', () => {
    const world = grown('abcd', 'abcd');
    for (const letter of 'cd') world.host(letter).crash();
    force(world, 'a', 'ab', 'cd');
    force(world, 'b', 'ab', 'cd');
    expect(world.run(60_000, () => world.agree('ab', 'ab'))).toBe(true);
    world.run(60_000);
    expect(world.host('a').chain.ref()).toEqual(world.host('b').chain.ref());
  });

  test('a second force with other survivors is of another generation than the first, which may be chosen yet', () => {
    const world = grown('abcde', 'abcde');
    for (const letter of 'de') world.host(letter).crash();
    world.filter = ({ message }) => message.kind !== 'chain-accepted';
    force(world, 'a', 'abc', 'de');
    world.run(11_000);
    world.filter = () => true;
    for (const letter of 'bc') world.host(letter).crash();
    world.host('a').restart();
    expect(force(world, 'a', 'a', 'bcde').isOk).toBe(true);
    expect(world.run(30_000, () => world.voters('a') === 'a')).toBe(true);
    expect(world.host('a').chain.ref().generation).toBeGreaterThan(1);
  });

  test('a survivor that was asked for a higher generation too took part in the lower one', () => {
    const world = grown('abc', 'abc');
    const [a, b] = [world.host('a'), world.host('b')];
    const ballot = { counter: 9, host: a.id, session: 'f'.repeat(24) };
    const ask = { kind: 'chain-prepare', env: worldEnv, n: -1, ballot } as const;
    for (const generation of [1, 5])
      b.run((now) => b.chain.handle(a.id, { ...ask, generation }, now));
    b.restart();
    const { config } = a.chain.current() as ChosenConfig;
    const forced = (generation: number): ChosenConfig => ({
      config: { ...config, n: config.n + 1, generation, voters: hosts('ab') },
      electorate: hosts('ab'),
      votes: hosts('ab'),
    });
    b.run((now) => b.chain.adopt(forced(1), now));
    expect(b.adoptions.at(-1)).toMatchObject({ chosen: forced(1), mustDrop: false });
    // Of this one it was never told.
    b.run((now) => b.chain.adopt(forced(2), now));
    expect(b.adoptions.at(-1)).toMatchObject({ chosen: forced(2), mustDrop: true });
    b.run((now) => b.chain.adopt(forced(5), now));
    expect(b.adoptions.at(-1)).toMatchObject({ chosen: forced(5), mustDrop: false });
  });

  test.each([
    ['a host that is not among the survivors', 'b', 'ac', /not among the survivors/],
    ['an open voter', 'a', 'b', /neither survivor nor named dead: c/],
    ['somebody both dead and alive', 'ab', 'bc', /named dead/],
    ['somebody who is no voter', 'ad', 'bc', /not a voter now: d/],
    ['nobody', '', 'abc', /each survivor once/],
    ['somebody twice', 'aa', 'bc', /each survivor once/],
  ])('is refused for %s', (_, survivors, dead, reason) => {
    const world = grown('abcd', 'abc');
    const answer = force(world, 'a', survivors, dead);
    expect(answer).toMatchObject({ isOk: false, reason: expect.stringMatching(reason) });
  });
});

describe('a voter whose log lost its middle', () => {
  /** It knows the link that the world begins with, and had known more. */
  function forget(world: ChainWorld, letter: string): void {
    const { generation, n } = world.host(letter).chain.ref();
    const beyond = { env: worldEnv, generation, n, ttlMsMax: 5_000 };
    const one = world.host(letter);
    one.crash();
    one.durable.push({ kind: 'forgotten', isOn: true, beyond });
    one.restart();
    world.run(waitMs);
  }

  const hasForgotten = (world: ChainWorld, letter: string) => world.host(letter).chain.hasForgotten;

  test('votes for nothing, also after further starts', () => {
    const world = grown('abcd', 'abc');
    forget(world, 'c');
    world.host('b').crash();
    want(world, 'a', 'abcd');
    world.run(60_000);
    world.host('c').restart();
    world.run(60_000);
    expect(world.voters('a')).toBe('abc');
    expect(hasForgotten(world, 'c')).toBe(true);
  });

  test('is removed by the others, let in anew, and votes again', () => {
    const world = grown('abcd', 'abc');
    forget(world, 'c');
    want(world, 'a', 'ab');
    expect(world.run(60_000, () => world.agree('abc', 'ab'))).toBe(true);
    expect(hasForgotten(world, 'c')).toBe(false);
    expect(world.host('c').adoptions.at(-1)).toMatchObject({ endsLoss: true });
    want(world, 'a', 'abc');
    expect(world.run(60_000, () => world.agree('abc', 'abc'))).toBe(true);
    world.host('b').crash();
    want(world, 'a', 'abcd');
    expect(world.run(60_000, () => world.agree('acd', 'abcd'))).toBe(true);
    world.host('c').restart();
    expect(hasForgotten(world, 'c')).toBe(false);
  });

  test('is not let in by a link of before it forgot', () => {
    const world = grown('abcd', 'abc');
    const c = world.host('c');
    const now = c.chain.current() as ChosenConfig;
    const without = { ...now, config: { ...now.config, n: now.config.n + 1, voters: hosts('ab') } };
    const within = { ...now, config: { ...now.config, n: now.config.n + 2 } };
    c.crash();
    const { generation, n } = within.config;
    const beyond = { env: worldEnv, generation, n, ttlMsMax: 5_000 };
    c.durable.push({ kind: 'forgotten', isOn: true, beyond });
    c.restart();
    for (const each of [without, within]) {
      const link = { ...each, electorate: hosts('ab'), votes: hosts('ab') };
      c.run((at) => c.chain.adopt(link, at));
      expect(hasForgotten(world, 'c')).toBe(true);
    }
  });

  test('does not make the other of a pair enter intent', () => {
    const world = grown('abc', 'ab');
    forget(world, 'b');
    for (const letter of 'ab') want(world, letter, 'abc');
    world.run(60_000);
    expect(world.host('a').chain.isFull()).toBe(false);
    expect(world.voters('a')).toBe('ab');
  });

  test('has a part in a force, above every generation and epoch that it may have known', () => {
    const world = grown('abc', 'a');
    const a = world.host('a');
    a.crash();
    const beyond = { env: worldEnv, generation: 3, n: 40, ttlMsMax: 15_000 };
    a.durable.push({ kind: 'forgotten', isOn: true, beyond });
    a.restart();
    expect(force(world, 'a', 'a', '')).toMatchObject({ isOk: true, waitMs: 30_000 });
    expect(world.run(60_000, () => a.chain.ref().generation === 4)).toBe(true);
    expect(hasForgotten(world, 'a')).toBe(false);
    expect(a.epoch('lock/x')).toBe(4 * 2 ** 20);
    expect(a.adoptions.at(-1)).toMatchObject({ mustDrop: false, endsLoss: true });
  });

  test('tells who forces voters of a generation that it had', () => {
    const world = grown('abc', 'abc');
    const b = world.host('b');
    b.crash();
    const beyond = { env: worldEnv, generation: 2, n: 40, ttlMsMax: 5_000 };
    b.durable.push({ kind: 'forgotten', isOn: true, beyond });
    b.restart();
    world.host('c').crash();
    force(world, 'a', 'ab', 'c');
    expect(world.run(60_000, () => world.agree('ab', 'ab'))).toBe(true);
    expect(world.host('a').chain.ref().generation).toBe(3);
  });
});
