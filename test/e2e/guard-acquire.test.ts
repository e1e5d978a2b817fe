/** Leases that tools take at the socket of a real guard, and what becomes of them when a tool loses them, dies, or never gets them. */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { GuardConnection } from '../../daemon/cli/guard-connection.ts';
import type { GuardReply, LeaseDesired, LeaseStatus } from '../../daemon/lease/guard-api.ts';
import { eventually } from '../await.ts';
import { GuardWorld, type GuardHost } from '../testbed/guard-hosts.ts';

let world: GuardWorld;
let host: GuardHost;
const open: Tool[] = [];
const name = 'lock/x';

beforeAll(async () => {
  world = new GuardWorld({ count: 1 });
  host = world.hosts[0] as GuardHost;
  await world.start();
  await world.settled(1);
});
afterEach(async () => {
  for (const tool of open.splice(0)) tool.close();
  await free();
});
afterAll(() => world.stop());

/** A connection of its own. */
class Tool {
  readonly #connection: GuardConnection;
  readonly #replies = new Map<number, (reply: GuardReply) => void>();
  #lastId = 0;

  private constructor(connection: GuardConnection) {
    this.#connection = connection;
    connection.onMessage((message) => {
      if (message.kind === 'reply') this.#replies.get(message.id)?.(message.reply);
    });
    open.push(this);
  }

  static async open(): Promise<Tool> {
    return new Tool(await GuardConnection.open(host.socketPath()));
  }

  acquire(changes: Partial<LeaseDesired> = {}, waitMs = 0): Promise<GuardReply> {
    const lease: LeaseDesired = {
      name,
      title: name,
      profile: 'fast',
      onLoss: 'stop',
      candidates: [host.host],
      mayAcquire: true,
      why: '',
      isFrozen: false,
      gate: host.gate(77),
      traffic: [],
      fence: 'none',
      fenceCommand: [],
      lockDelayMs: 0,
      onDaemonDown: 'stay',
      ...changes,
    };
    return this.#ask({ kind: 'acquire', lease, waitMs });
  }

  release(): Promise<GuardReply> {
    return this.#ask({ kind: 'release', name, reason: 'done' });
  }

  close(): void {
    this.#connection.destroy();
  }

  #ask(command: Parameters<GuardHost['command']>[0]): Promise<GuardReply> {
    const id = (this.#lastId += 1);
    return new Promise((resolve) => {
      this.#replies.set(id, resolve);
      this.#connection.send({ kind: 'command', id, command });
    });
  }
}

async function held(): Promise<LeaseStatus | undefined> {
  return (await host.look()).leases.find((lease) => lease.name === name && lease.epoch > 0);
}

/** What the guard keeps for its successor is as new as that. */
async function renewedOnce(): Promise<void> {
  let leastMs = Infinity;
  await eventually(
    async () => {
      const remainMs = (await held())?.remainMs ?? 0;
      const isLonger = remainMs > leastMs + 50;
      leastMs = Math.min(leastMs, remainMs);
      return isLonger;
    },
    { withinMs: 5_000, everyMs: 20, what: 'it is renewed' },
  );
}

function free(): Promise<unknown> {
  return eventually(async () => (await held()) === undefined, {
    withinMs: 10_000,
    what: 'nobody has it',
  });
}

test('a second one who asks changes nothing for the first, whose end still gives it back', async () => {
  const [first, second] = [await Tool.open(), await Tool.open()];
  const granted = await first.acquire();
  expect(granted).toMatchObject({ isOk: true });
  for (const tool of [second, first])
    expect(await tool.acquire({ gate: null })).toMatchObject({ isOk: false, code: 'LEASE_BUSY' });
  second.close();
  await host.look();
  expect(await held()).toMatchObject({ gate: 'open', epoch: granted.isOk && granted.epoch });
  await renewedOnce();
  // A guard that is started again must know of it, and of its gate.
  await host.killGuard();
  host.start();
  await host.greeted();
  await free();
  expect(await (await Tool.open()).acquire()).toMatchObject({ isOk: true });
});

test('two at the same moment: one has it', async () => {
  const tools = [await Tool.open(), await Tool.open(), await Tool.open()];
  const replies = await Promise.all(tools.map((tool) => tool.acquire()));
  expect(replies.filter(({ isOk }) => isOk)).toHaveLength(1);
  for (const [index, reply] of replies.entries()) if (!reply.isOk) tools[index]?.close();
  await host.look();
  expect(await held()).toMatchObject({ gate: 'open' });
});

test('who lets go of what is not theirs lets go of nothing', async () => {
  const [first, second] = [await Tool.open(), await Tool.open()];
  await first.acquire();
  expect(await second.release()).toMatchObject({ isOk: false, code: 'LEASE_NOT_HELD' });
  expect(await held()).toMatchObject({ gate: 'open' });
  // A person may, through the daemon; the end of who had it is then nothing to who has it next.
  expect(await host.command({ kind: 'release', name, reason: 'asked' })).toMatchObject({
    isOk: true,
  });
  await free();
  const next = await second.acquire();
  first.close();
  await host.look();
  expect(await held()).toMatchObject({ epoch: next.isOk && next.epoch });
});

test('who dies while it waits is granted nothing', async () => {
  const [first, second] = [await Tool.open(), await Tool.open()];
  // Nobody may have it now.
  void first.acquire({ mayAcquire: false, why: 'the test says so' }, 60_000);
  await eventually(async () => (await host.look()).leases.some((lease) => lease.name === name), {
    withinMs: 5_000,
  });
  expect(await second.acquire()).toMatchObject({ isOk: false, code: 'LEASE_BUSY' });
  first.close();
  await eventually(async () => (await second.acquire()).isOk, { withinMs: 5_000 });
});
