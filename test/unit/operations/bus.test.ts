import {
  appendFileSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { silentLog } from '../../../daemon/logger.ts';
import { systemClock } from '../../../daemon/clock.ts';
import type { EditSession, NodeApi } from '../../../daemon/node-api.ts';
import { AuditLog, firstBrokenLine } from '../../../daemon/operations/audit-log.ts';
import type { AuditHead } from '../../../daemon/operations/audit-log.ts';
import { auditedParams, Bus } from '../../../daemon/operations/bus.ts';
import type { AuditEntry, BusOptions } from '../../../daemon/operations/bus.ts';
import type { Access, Caller, Operation } from '../../../daemon/operations/operation.ts';
import type { Blobs } from '../../../plugins/api.ts';
import { eventually } from '../../await.ts';

const session: EditSession = {
  id: '0'.repeat(32) as never,
  operator: 'ada',
  expiresAtWallMs: Date.now() + 60_000,
};
const node = { env: 'prod', self: { host: 'h1' } } as unknown as NodeApi;

function operation(access: Access, changes: Partial<Operation> = {}): Operation {
  return {
    group: 'test',
    command: access,
    summary: '',
    access,
    isMutation: true,
    params: z.strictObject({ env: z.string().optional() }),
    run: async () => 'done',
    ...changes,
  };
}

function busOf(
  operations: readonly Operation[],
  changes: Partial<BusOptions> = {},
): { bus: Bus; audited: AuditEntry[] } {
  const audited: AuditEntry[] = [];
  const bus = new Bus({
    operations,
    host: { node: () => node, runtime: () => null, blobs: () => ({}) as Blobs, remote: () => null },
    mayAct: (_session, access, env) => access === 'operator' && env === 'prod',
    audit: (entry) => audited.push(entry),
    clock: systemClock,
    log: silentLog,
    ...changes,
  });
  return { bus, audited };
}

describe('rights', () => {
  const all = ['public', 'viewer', 'local', 'operator', 'admin'] as const;
  const { bus } = busOf(all.map((access) => operation(access)));
  const outcome = async (access: Access, caller: Caller, params: unknown = {}): Promise<string> => {
    try {
      return String(await bus.run({ group: 'test', command: access, params }, caller));
    } catch (error) {
      return (error as { code: string }).code;
    }
  };
  const expired = { ...session, expiresAtWallMs: 1 };
  test.each([
    ['socket', null, ['done', 'done', 'done', 'LOGIN_REQUIRED', 'LOGIN_REQUIRED']],
    [
      'https',
      null,
      ['done', 'LOGIN_REQUIRED', 'LOGIN_REQUIRED', 'LOGIN_REQUIRED', 'LOGIN_REQUIRED'],
    ],
    [
      'peer',
      null,
      ['done', 'LOGIN_REQUIRED', 'LOGIN_REQUIRED', 'LOGIN_REQUIRED', 'LOGIN_REQUIRED'],
    ],
    ['socket', session, ['done', 'done', 'done', 'done', 'FORBIDDEN']],
    ['https', session, ['done', 'done', 'done', 'done', 'FORBIDDEN']],
    ['peer', session, ['done', 'done', 'done', 'done', 'FORBIDDEN']],
    [
      'https',
      expired,
      ['done', 'LOGIN_REQUIRED', 'LOGIN_REQUIRED', 'LOGIN_REQUIRED', 'LOGIN_REQUIRED'],
    ],
  ] as const)('over the %s with session %o', async (via, held, expected) => {
    const outcomes = [];
    for (const access of all) outcomes.push(await outcome(access, { via, session: held }));
    expect(outcomes).toEqual(expected);
  });

  test('a right in one environment is none in another', async () => {
    expect(await outcome('operator', { via: 'https', session }, { env: 'test' })).toBe('FORBIDDEN');
  });

  test('who may not act learns nothing about the parameters', async () => {
    expect(await outcome('operator', { via: 'https', session: null }, { nonsense: 1 })).toBe(
      'LOGIN_REQUIRED',
    );
    expect(await outcome('operator', { via: 'https', session }, { nonsense: 1 })).toBe('USAGE');
  });
});

describe('running', () => {
  const caller: Caller = { via: 'socket', session };
  test('an operation is cancelled by its caller and by its time limit, and its late failure harms nobody', async () => {
    const seen: string[] = [];
    const hanging = operation('public', {
      timeLimitMs: 30,
      run: ({ signal }) =>
        new Promise((_, reject) => {
          signal.addEventListener('abort', () => {
            seen.push('aborted');
            reject(new Error('late'));
          });
        }),
    });
    const { bus } = busOf([hanging]);
    const call = { group: 'test', command: 'public', params: {} };
    await expect(bus.run(call, caller)).rejects.toMatchObject({ code: 'TIMED_OUT' });
    const gone = new AbortController();
    const running = bus.run(call, caller, { signal: gone.signal });
    gone.abort(new Error('gone'));
    await expect(running).rejects.toMatchObject({ code: 'INTERNAL' });
    expect(seen).toEqual(['aborted', 'aborted']);
    expect(bus.running).toBe(0);
  });

  test('an operation that throws at once, and a host that has no blobs yet', async () => {
    const blobs = (): Blobs => {
      throw new Error('none');
    };
    const host: BusOptions['host'] = {
      node: () => null,
      runtime: () => null,
      blobs,
      remote: () => null,
    };
    const throwing = operation('public', {
      run: () => {
        throw new Error('at once');
      },
    });
    const { bus } = busOf([throwing, operation('viewer')], { host });
    const call = { group: 'test', command: 'public', params: {} };
    await expect(bus.run(call, caller)).rejects.toMatchObject({ code: 'INTERNAL' });
    expect(await bus.run({ ...call, command: 'viewer' }, caller)).toBe('done');
  });

  test('too many at once are refused', async () => {
    const gate = Promise.withResolvers<string>();
    const { bus } = busOf([operation('public', { run: () => gate.promise })]);
    const call = { group: 'test', command: 'public', params: {} };
    const running = Array.from({ length: 512 }, () => bus.run(call, caller));
    await expect(bus.run(call, caller)).rejects.toMatchObject({ code: 'BUSY' });
    gate.resolve('x');
    await Promise.all(running);
  });

  test('remote to self runs here, remote to others needs a session', async () => {
    const there: unknown[] = [];
    const operations = [
      operation('public', {
        run: (context) =>
          context.remote('h1' as never, { group: 'test', command: 'viewer', params: {} }),
      }),
      operation('viewer'),
      operation('local', {
        run: (context) =>
          context.remote('h2' as never, { group: 'test', command: 'viewer', params: {} }),
      }),
    ];
    const remote = { call: async (...given: unknown[]) => there.push(given[0]) };
    const host: BusOptions['host'] = {
      node: () => node,
      runtime: () => null,
      blobs: () => ({}) as Blobs,
      remote: () => remote,
    };
    const { bus } = busOf(operations, { host });
    expect(await bus.run({ group: 'test', command: 'public', params: {} }, caller)).toBe('done');
    await bus.run({ group: 'test', command: 'local', params: {} }, caller);
    expect(there).toEqual(['h2']);
    const nobody = bus.run(
      { group: 'test', command: 'local', params: {} },
      { via: 'socket', session: null },
    );
    await expect(nobody).rejects.toMatchObject({ code: 'LOGIN_REQUIRED' });
  });

  test('audited parameters hold no secrets and no bulk', () => {
    expect(
      auditedParams({
        passphrase: 'x',
        code: 'y',
        caPem: 'z'.repeat(500),
        roles: ['a'],
        count: 3,
        env: { A: 'secret' },
        issuingKey: 'k',
      }),
    ).toEqual({
      passphrase: '(hidden)',
      code: '(hidden)',
      caPem: '(500 characters)',
      roles: ['a'],
      count: 3,
      env: '(1 fields)',
      issuingKey: '(hidden)',
    });
  });
});

describe('audit log', () => {
  let dir: string;
  beforeEach(() => (dir = mkdtempSync(join(tmpdir(), 'trellis-audit-'))));
  afterEach(() => rmSync(dir, { recursive: true, force: true }));
  const entry = (command: string): AuditEntry => ({
    group: 'g',
    command,
    via: 'socket',
    operator: 'ada',
    session: null,
    params: {},
    outcome: 'ok',
  });
  const openLog = (heads: AuditHead[] = []): AuditLog =>
    new AuditLog({
      dir,
      host: 'h1',
      clock: systemClock,
      log: silentLog,
      onHead: (head) => heads.push(head),
    });

  test('chained over restarts, the head published, a change in the middle found', async () => {
    const heads: AuditHead[] = [];
    const first = openLog(heads);
    for (let i = 0; i < 5; i++) first.append(entry(`c${i}`));
    await eventually(() => heads.at(-1)?.seq === 5, { withinMs: 5_000 });
    first.close();
    const second = openLog();
    expect(second.head).toEqual(heads.at(-1));
    second.append(entry('c5'));
    expect(second.newest(2).map(({ command, seq }) => [command, seq])).toEqual([
      ['c5', 6],
      ['c4', 5],
    ]);
    second.close();
    const text = readFileSync(join(dir, 'audit.jsonl'), 'utf8');
    expect(firstBrokenLine(text)).toBeNull();
    expect(firstBrokenLine(text.replace('"c2"', '"cX"'))).toBe(4);
    expect(firstBrokenLine(text.split('\n').toSpliced(2, 1).join('\n'))).toBe(4);
  });

  test('a torn line is cut off and the chain goes on', () => {
    const first = openLog();
    first.append(entry('a'));
    first.close();
    appendFileSync(join(dir, 'audit.jsonl'), '{"v":1,"seq":2,"pr');
    const second = openLog();
    second.append(entry('b'));
    second.close();
    const text = readFileSync(join(dir, 'audit.jsonl'), 'utf8');
    expect(firstBrokenLine(text)).toBeNull();
    expect(text.trim().split('\n')).toHaveLength(2);
  });

  test('bounded: full files are rotated and the oldest go', async () => {
    const heads: AuditHead[] = [];
    const log = openLog(heads);
    for (let n = 1; n <= 8; n++) writeFileSync(join(dir, `audit.${n}.jsonl`), `old ${n}\n`);
    const bulk = { ...entry('bulk'), params: { x: 'y'.repeat(1 << 20) } };
    for (let i = 0; i < 10; i++) {
      log.append(bulk);
      await eventually(() => heads.at(-1)?.seq === i + 1, { withinMs: 5_000 });
    }
    expect(log.newest(20).map(({ seq }) => seq)).toEqual([10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
    log.close();
    expect(readdirSync(dir).filter((name) => name !== 'audit.8.jsonl')).toHaveLength(8);
    expect(openLog().head.seq).toBe(10);
  });
});
