import { afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { z } from 'zod';
import { decode, encode } from '../../../crdt/codec.ts';
import type { HostId, NodeId } from '../../../crdt/ids.ts';
import { openAs, seal } from '../../../crdt/records.ts';
import type { SignedBytes } from '../../../crdt/records.ts';
import { systemClock } from '../../../daemon/clock.ts';
import { silentLog } from '../../../daemon/logger.ts';
import type { NodeApi } from '../../../daemon/node-api.ts';
import { Bus } from '../../../daemon/operations/bus.ts';
import type { RemoteCaller } from '../../../daemon/operations/bus.ts';
import type { Operation } from '../../../daemon/operations/operation.ts';
import {
  CallGuard,
  createRemoteCaller,
  serveRemoteCalls,
} from '../../../daemon/operations/remote.ts';
import type { Clock } from '../../../daemon/ports.ts';
import type { Blobs } from '../../../plugins/api.ts';
import { eventually } from '../../await.ts';
import { meshed, TestCluster as Hosts } from '../net/cluster.ts';
import { newCluster, newHost, rosterOf } from '../trust/cluster.ts';
import type { TestCluster } from '../trust/cluster.ts';

const target = '1'.repeat(32) as HostId;
let hosts: Hosts;
let cluster: TestCluster;
beforeAll(async () => {
  cluster = await newCluster();
});
beforeEach(() => {
  hosts = new Hosts();
});
afterEach(async () => hosts.close());

/** The session's own record, as the roster keeps it. */
function sessionRecord(): SignedBytes {
  const signed = [...cluster.roster.records().values()].find(
    (one) => openAs('session', one) !== null,
  );
  return signed as SignedBytes;
}

const params = z.strictObject({ n: z.int().default(1) });

function operations(seen: { isAborted: boolean }): readonly Operation[] {
  return [
    {
      group: 'test',
      command: 'sum',
      summary: '',
      access: 'operator',
      isMutation: true,
      isStream: true,
      params,
      run: async (context) => {
        context.progress('adding');
        let sum = 0;
        for await (const line of context.io!.input) {
          const value = (line as { value?: number }).value;
          if (value === undefined) break;
          sum += value;
          await context.io!.send({ sum });
        }
        return { sum, operator: context.caller.session?.operator, via: context.caller.via };
      },
    },
    {
      group: 'test',
      command: 'hang',
      summary: '',
      access: 'operator',
      isMutation: false,
      isStream: true,
      params,
      run: ({ signal, io }) =>
        new Promise((resolve) => {
          void io!.send('begun');
          signal.addEventListener('abort', () => {
            seen.isAborted = true;
            resolve(null);
          });
        }),
    },
    {
      group: 'test',
      command: 'fail',
      summary: '',
      access: 'operator',
      isMutation: false,
      params,
      run: () => Promise.reject(new TypeError('bug')),
    },
  ];
}

async function pair(): Promise<{ caller: RemoteCaller; seen: { isAborted: boolean }; bus: Bus }> {
  const [a, b] = [await hosts.start(), await hosts.start()];
  await meshed([a, b]);
  const seen = { isAborted: false };
  const bus = new Bus({
    operations: operations(seen),
    host: {
      node: () => ({ env: 'prod', self: { host: target } }) as unknown as NodeApi,
      runtime: () => null,
      blobs: () => ({}) as Blobs,
      remote: () => null,
    },
    mayAct: () => true,
    audit: () => {},
    clock: systemClock,
    log: silentLog,
  });
  const { clusterId, records } = cluster.founding;
  // The target has not heard of the session yet: the call brings it along.
  const roster = rosterOf(clusterId, records);
  serveRemoteCalls({
    clusterId,
    self: target,
    net: b.network,
    bus,
    roster,
    clock: systemClock,
    log: silentLog,
  });
  const caller = createRemoteCaller({
    clusterId,
    net: a.network,
    nodeOf: (host): NodeId | null => (host === target ? b.id : null),
    sessionRecord,
    sign: (id, bytes) => cluster.keeper.sign(id, bytes),
    clock: systemClock,
  });
  return { caller, seen, bus };
}

test('an operation on another host: two ways, under the operator’s own session', async () => {
  const { caller } = await pair();
  const got: unknown[] = [];
  async function* input(): AsyncGenerator<unknown> {
    yield { value: 2 };
    await eventually(() => got.length === 1, { withinMs: 5_000 });
    yield { value: 3 };
  }
  const notes: string[] = [];
  const data = await caller.call(
    target,
    { group: 'test', command: 'sum', params: {} },
    cluster.session,
    {
      progress: (text) => notes.push(text),
      io: { send: async (one) => void got.push(one), input: input() },
    },
  );
  expect(data).toEqual({ sum: 5, operator: 'ada', via: 'peer' });
  expect(got).toEqual([{ sum: 2 }, { sum: 5 }]);
  expect(notes).toEqual(['adding']);
});

test('errors come back with code, words and fields; unknown hosts are said', async () => {
  const { caller } = await pair();
  const call = (command: string, given: unknown = {}): Promise<unknown> =>
    caller.call(target, { group: 'test', command, params: given }, cluster.session, {});
  await expect(call('fail')).rejects.toMatchObject({ code: 'INTERNAL', message: /bug/ });
  await expect(call('fail', { x: 1 })).rejects.toMatchObject({
    code: 'USAGE',
    details: { fields: ['x'] },
  });
  await expect(call('none')).rejects.toMatchObject({ code: 'NOT_FOUND' });
  await expect(
    caller.call(
      '2'.repeat(32) as HostId,
      { group: 'a', command: 'b', params: {} },
      cluster.session,
      {},
    ),
  ).rejects.toMatchObject({ code: 'NOT_FOUND' });
});

test('a caller that goes away ends the operation at the target', async () => {
  const { caller, seen, bus } = await pair();
  const gone = new AbortController();
  const begun = Promise.withResolvers<void>();
  const idle = { [Symbol.asyncIterator]: () => ({ next: () => new Promise<never>(() => {}) }) };
  const running = caller.call(
    target,
    { group: 'test', command: 'hang', params: {} },
    cluster.session,
    {
      signal: gone.signal,
      io: { send: async () => begun.resolve(), input: idle },
    },
  );
  await begun.promise;
  gone.abort(new Error('gone'));
  await expect(running).rejects.toThrow();
  await eventually(() => seen.isAborted && bus.running === 0, { withinMs: 5_000 });
});

function guardAt(clock: Clock = systemClock): CallGuard {
  const { clusterId, records } = cluster.founding;
  return new CallGuard({
    clusterId,
    self: target,
    roster: rosterOf(clusterId, records),
    clock,
    log: silentLog,
  });
}

function callBytes(
  changes: Record<string, unknown> = {},
  sign?: (bytes: Uint8Array) => Uint8Array,
): Uint8Array {
  const { session, keeper, founding } = cluster;
  const signed = seal(
    {
      kind: 'call',
      v: 1,
      clusterId: founding.clusterId,
      session: session.id,
      target,
      group: 'g',
      command: 'c',
      params: '{"a":1}',
      nonce: new Uint8Array(16).fill(7),
      at: Date.now(),
      ...changes,
    } as never,
    sign ?? ((bytes) => keeper.sign(session.id, bytes)),
  );
  return encode([signed, sessionRecord()]);
}

test('a call runs once, at its target, in time, signed by a session that lives', () => {
  const why = (bytes: Uint8Array, guard = guardAt()): string => {
    try {
      return guard.check(bytes).caller.session?.operator ?? '';
    } catch (error) {
      return String((error as Error).message);
    }
  };
  const guard = guardAt();
  expect(guard.check(callBytes())).toMatchObject({
    call: { group: 'g', params: { a: 1 } },
    caller: { via: 'peer' },
  });
  expect(why(callBytes(), guard)).toContain('ran here already');
  expect(why(callBytes({ nonce: new Uint8Array(16) }), guard)).toBe('ada');
  expect(why(callBytes({ target: '2'.repeat(32) }))).toContain('another host');
  expect(why(callBytes({ clusterId: '2'.repeat(32) }))).toContain('another cluster');
  expect(why(callBytes({ at: Date.now() - 11 * 60_000 }))).toContain('11 min');
  expect(why(callBytes({ at: Date.now() + 11 * 60_000 }))).toContain('11 min');
  expect(why(callBytes({ session: '2'.repeat(32) }))).toContain('not known');
  expect(why(callBytes({}, (bytes) => newHost().keys.sign(bytes)))).toContain('signature');
  const later = { ...systemClock, wallMs: () => Date.now() + 13 * 3_600_000 };
  expect(why(callBytes({ at: later.wallMs() }), guardAt(later))).toContain('expired');
  for (const garbage of [
    new Uint8Array(0),
    new Uint8Array(100).fill(255),
    encode(null),
    encode([1, 2]),
    encode([]),
  ]) {
    expect(why(garbage)).toContain('not a call');
  }
  const [signed] = decode(callBytes()) as [Uint8Array];
  for (let at = 0; at < signed.length; at += 5) {
    const bent = Uint8Array.from(signed);
    bent[at] = (bent[at] ?? 0) ^ 4;
    expect(why(encode([bent, sessionRecord()]))).not.toBe('ada');
  }
});

test('a removed session may not call any more', () => {
  const { clusterId, records } = cluster.founding;
  const roster = rosterOf(clusterId, [...records, sessionRecord()]);
  const guard = new CallGuard({
    clusterId,
    self: target,
    roster,
    clock: systemClock,
    log: silentLog,
  });
  const { session, keeper } = cluster;
  roster.add(
    seal(
      {
        kind: 'removal',
        v: 1,
        clusterId,
        subject: 'session',
        id: session.id,
        by: session.id,
        reason: '',
      },
      (bytes) => keeper.sign(session.id, bytes),
    ),
  );
  expect(() => guard.check(callBytes())).toThrow(/revoked/);
});
