/**
 * Every order of events for one step of a chain: messages delivered in any order or never, disks that sync whenever they
 * like, one crash, two initiators who want different things. What `chain-world.ts` checks must hold after every event,
 * and what is left must still be able to finish.
 *
 * A host's state depends only on the order of its own events, so two runs in which every host saw the same are one state
 * and are looked at once.
 */
import { expect, test } from 'vitest';
import { ChainWorld, host, hosts, startN } from './chain-world.ts';
import type { Letter } from './chain-world.ts';

interface Scene {
  readonly names: string;
  readonly voters: string;
  /** Who wants which voters. */
  readonly wants: readonly (readonly [string, string])[];
  readonly crashesMax: number;
  /** Per initiator; each is 20 s. */
  readonly ticksMax: number;
  readonly crasher?: string;
  readonly hasSlowDisks?: boolean;
  readonly filter?: ChainWorld['filter'];
  readonly forgets?: ChainWorld['forgets'];
}

/** One thing that may happen next, and the host whose state it changes. */
interface Choice {
  readonly label: string;
  readonly host: string;
  readonly act: () => void;
}

class Orders {
  readonly #scene: Scene;
  readonly #seen = new Set<string>();
  finished = 0;

  constructor(scene: Scene) {
    this.#scene = scene;
  }

  get states(): number {
    return this.#seen.size;
  }

  /** Depth first; a path is replayed from the start because a chain cannot be copied. */
  explore(statesMax: number): void {
    const paths: number[][] = [[]];
    for (let path = paths.pop(); path !== undefined; path = paths.pop()) {
      if (this.#seen.size > statesMax) throw new Error(`more than ${statesMax} states`);
      const { world, key, choices } = this.#replay(path);
      if (this.#seen.has(key)) continue;
      this.#seen.add(key);
      if (choices.length === 0) this.#end(world);
      choices.forEach((_, index) => paths.push([...path, index]));
    }
  }

  #replay(path: readonly number[]) {
    const { names, voters, wants } = this.#scene;
    const world = new ChainWorld(names, { voters });
    world.filter = this.#scene.filter ?? (() => true);
    world.forgets = this.#scene.forgets ?? null;
    world.hasSlowDisks = this.#scene.hasSlowDisks ?? false;
    for (const [letter] of wants) this.#want(world, letter);
    const histories = new Map<string, string[]>(names.split('').map((letter) => [letter, []]));
    for (const index of path) {
      const choice = this.#choices(world, histories)[index];
      if (choice === undefined) throw new Error('a replay went another way');
      histories.get(choice.host)?.push(choice.label);
      choice.act();
    }
    const key = [...histories.values()].map((history) => history.join()).join('\n');
    return { world, key, choices: this.#choices(world, histories) };
  }

  #choices(world: ChainWorld, histories: ReadonlyMap<string, readonly string[]>): Choice[] {
    const choices: Choice[] = [];
    world.mail.forEach((letter, index) => {
      const to = letter.to[0] ?? '';
      const label = labelOf(letter);
      choices.push({ label, host: to, act: () => world.deliver(index) });
    });
    const crashes = [...histories.values()].flat().filter((label) => label === 'crash').length;
    for (const letter of this.#scene.names) {
      const one = world.host(letter);
      if (one.unsynced.length > 0) {
        choices.push({ label: 'sync', host: letter, act: () => one.sync() });
      }
      if (crashes < this.#scene.crashesMax && letter === this.#scene.crasher) {
        const act = () => {
          one.crash();
          one.restart();
          this.#want(world, letter);
        };
        choices.push({ label: 'crash', host: letter, act });
      }
      const isInitiator = this.#scene.wants.some(([who]) => who === letter);
      const ticks = histories.get(letter)?.filter((label) => label === 'tick').length ?? 0;
      if (isInitiator && ticks < this.#scene.ticksMax) {
        const act = () => {
          world.nowMs += 20_000;
          one.run((now) => one.chain.tick(now));
        };
        choices.push({ label: 'tick', host: letter, act });
      }
    }
    return choices;
  }

  #want(world: ChainWorld, letter: string): void {
    const wanted = this.#scene.wants.find(([who]) => who === letter)?.[1];
    const one = world.host(letter);
    if (wanted !== undefined) one.run((now) => one.chain.want(hosts(wanted), now));
  }

  /** Nothing is under way any more. With disks and network in order, the chain goes on. */
  #end(world: ChainWorld): void {
    this.finished += 1;
    world.hasSlowDisks = false;
    world.filter = () => true;
    for (const one of world.hosts.values()) while (one.unsynced.length > 0) one.sync();
    const first = this.#scene.wants[0];
    for (const [letter] of this.#scene.wants) {
      const one = world.host(letter);
      one.run((now) => one.chain.want(letter === first?.[0] ? hosts(first[1]) : null, now));
    }
    if (first === undefined) return;
    expect(world.run(120_000, () => world.voters(first[0]) === first[1])).toBe(true);
    world.gossip();
    expect(world.agree(first[1], first[1])).toBe(true);
  }
}

/** Short, and different for different messages. */
function labelOf({ from, message }: Letter): string {
  const all = message as unknown as Record<string, { counter?: number; host?: string } | null>;
  const ballot = all['ballot'] ?? null;
  const words = [from[0], message.kind, ballot?.counter, ballot?.host?.[0], all['isOpen']];
  return JSON.stringify([...words, all['isAccepted'], all['hash']]);
}

function explored(scene: Scene, statesMax: number): Orders {
  const orders = new Orders(scene);
  orders.explore(statesMax);
  return orders;
}

/** Only what chooses this one link; news of it, and the next link, come when every order has been looked at. */
const oneLink: ChainWorld['filter'] = ({ message }) =>
  (message.kind === 'config' ? message.chosen.config.n : message.n) === startN;

/** And with c only: a majority of three, in which any two initiators meet. */
const viaC: ChainWorld['filter'] = (letter) =>
  oneLink(letter) && [letter.from, letter.to].includes(host('c'));

const add: Scene = {
  names: 'abcd',
  voters: 'abc',
  wants: [['a', 'abcd']],
  crashesMax: 0,
  ticksMax: 0,
};
const remove: Scene = { ...add, names: 'abc', wants: [['a', 'ab']], ticksMax: 1, filter: viaC };
const duel: Scene = {
  ...remove,
  wants: [
    ['a', 'ab'],
    ['b', 'bc'],
  ],
};
const pair: Scene = {
  names: 'abc',
  voters: 'ac',
  wants: [['a', 'abc']],
  crashesMax: 1,
  ticksMax: 2,
  filter: oneLink,
};

test.each<[string, Scene, number]>([
  ['a voter is added to three', add, 1_000],
  [
    'a voter is removed, its initiator crashes, disks are slow',
    { ...remove, crashesMax: 1, crasher: 'a', hasSlowDisks: true },
    1_000,
  ],
  [
    'a voter is removed, another crashes, disks are slow',
    { ...remove, crashesMax: 1, crasher: 'c', hasSlowDisks: true },
    300,
  ],
  ['two initiators want different things', duel, 200],
  [
    'two initiators, and the voter between them crashes',
    { ...duel, crashesMax: 1, crasher: 'c' },
    1_000,
  ],
  ['a pair becomes three, one of it crashes', { ...pair, crasher: 'c' }, 1_500],
])('%s, every order', (_, scene, statesMin) => {
  const orders = explored(scene, 10_000);
  expect(orders.states).toBeGreaterThan(statesMin);
  expect(orders.finished).toBeGreaterThan(0);
});

test.each<[string, Scene, string]>([
  ['promises', { ...duel, crashesMax: 1, crasher: 'c', forgets: 'chain' }, 'two links'],
  ['intent', { ...pair, crasher: 'c', forgets: 'intent' }, 'a pair voted and is not full'],
])('a crash that loses %s would be noticed', (_, scene, fault) => {
  expect(() => explored(scene, 10_000)).toThrow(fault);
});
