import { beforeEach, expect, test } from 'vitest';
import { doctorOperations } from '../../../daemon/operations/doctor.ts';
import { eventsOperations } from '../../../daemon/operations/events.ts';
import { logsOperations } from '../../../daemon/operations/logs.ts';
import type { StreamIo } from '../../../daemon/operations/operation.ts';
import type { HostTools } from '../../../daemon/operations/tools.ts';
import { eventually } from '../../await.ts';
import { FakeNode, runOperation } from './fake-node.ts';
import type { RunOptions } from './fake-node.ts';

let node: FakeNode;
beforeEach(() => {
  node = new FakeNode(['h1', 'h2']);
  node.setInstances('h1', [{ instance: 'site-0' }]);
  node.setInstances('h2', [{ instance: 'site-1' }]);
});

function ioOf(input: readonly unknown[] = []): StreamIo & { sent: unknown[] } {
  const sent: unknown[] = [];
  async function* messages() {
    yield* input;
  }
  return { sent, input: messages(), send: (message) => Promise.resolve(void sent.push(message)) };
}

const text = (message: unknown) =>
  Buffer.from((message as { bytes?: string }).bytes ?? '', 'base64').toString();

async function* output(words: string) {
  yield { stream: 'stdout' as const, bytes: Buffer.from(words) };
}

test('logs come from this host and from the owners of the others', async () => {
  const io = ioOf();
  const runtime: RunOptions['runtime'] = { logs: (id) => output(`here ${id}\n`) };
  const remote: NonNullable<RunOptions['remote']> = async (host, call, remoteIo) => {
    expect([host, call.group, call.command]).toEqual([node.host('h2').id, 'instance', 'logs']);
    await remoteIo?.send({ instance: 'site-1', bytes: Buffer.from('there\n').toString('base64') });
    return null;
  };
  await runOperation(
    logsOperations,
    'service/logs',
    { service: 'site' },
    { node, runtime, remote, io },
  );
  expect(io.sent[0]).toEqual({ instances: ['site-0', 'site-1'] });
  expect(io.sent.slice(1).map(text)).toEqual(['here id-site-0\n', 'there\n']);
});

test('a host that does not answer does not hide the logs of the others', async () => {
  const io = ioOf();
  const said: string[] = [];
  const runtime: RunOptions['runtime'] = { logs: () => output('here\n') };
  const options = { node, runtime, io, onProgress: (words: string) => said.push(words) };
  await runOperation(logsOperations, 'service/logs', { service: 'site' }, options);
  expect(io.sent.slice(1).map(text)).toEqual(['here\n']);
  expect(said.join()).toContain('site-1 on h2');
});

test('exec passes input, sizes and the exit code', async () => {
  const typed: string[] = [];
  const sizes: number[][] = [];
  let ended!: () => void;
  const end = new Promise<void>((resolve) => (ended = resolve));
  const runtime: RunOptions['runtime'] = {
    exec: (id, options) => {
      expect([id, options.command, options.isTty, options.env]).toEqual([
        'id-site-0',
        ['cat'],
        true,
        ['A=1'],
      ]);
      return Promise.resolve({
        output: (async function* () {
          await end;
          yield* output(typed.join(''));
        })(),
        write: (bytes: Uint8Array) => void typed.push(Buffer.from(bytes).toString()),
        end: () => ended(),
        resize: (columns: number, rows: number) =>
          Promise.resolve(void sizes.push([columns, rows])),
        exitCode: () => Promise.resolve(7),
      });
    },
  };
  const io = ioOf([
    { type: 'input', bytes: Buffer.from('hi').toString('base64') },
    { type: 'resize', columns: 100, rows: 30 },
    { type: 'end' },
  ]);
  const given = {
    service: 'site',
    cmd: ['cat'],
    isTty: true,
    columns: 80,
    rows: 24,
    environment: { A: '1' },
  };
  const result = await runOperation(logsOperations, 'service/exec', given, { node, runtime, io });
  expect(result).toEqual({ exitCode: 7, host: 'h1', instance: 'site-0' });
  expect([io.sent.map(text), sizes]).toEqual([
    ['hi'],
    [
      [80, 24],
      [100, 30],
    ],
  ]);
});

test('exec goes to the owner of the instance that is named', async () => {
  const calls: unknown[] = [];
  const remote: NonNullable<RunOptions['remote']> = (host, call) => {
    calls.push([host, call]);
    return Promise.resolve({ exitCode: 0 });
  };
  const given = { service: 'site', cmd: ['ls'], instance: 'site-1' };
  await runOperation(logsOperations, 'service/exec', given, { node, remote });
  expect(calls).toMatchObject([
    [
      node.host('h2').id,
      { group: 'instance', command: 'exec', params: { instance: 'site-1', cmd: ['ls'] } },
    ],
  ]);
  const stopped = { service: 'site', cmd: ['ls'], host: 'h2' };
  node.setInstances('h2', [{ instance: 'site-1', state: 'exited' }]);
  await expect(
    runOperation(logsOperations, 'service/exec', stopped, { node }),
  ).rejects.toMatchObject({ code: 'CONFLICT' });
});

test('events are followed without gaps or repeats', async () => {
  const io = ioOf();
  const gone = new AbortController();
  node.emit({ kind: 'a.b', severity: 'info', text: 'one' });
  const following = runOperation(
    eventsOperations,
    'events/ls',
    { follow: true },
    { node, io, signal: gone.signal },
  );
  await eventually(() => io.sent.length === 1, { withinMs: 5_000 });
  node.emit({ kind: 'a.b', severity: 'info', text: 'two' });
  node.emit({ kind: 'a.b', severity: 'warn', text: 'three' });
  await eventually(() => io.sent.length === 3, { withinMs: 5_000 });
  gone.abort();
  await following;
  expect(io.sent).toMatchObject([{ text: 'one', host: 'h1' }, { text: 'two' }, { text: 'three' }]);
});

test('doctor names what fails and what to do', async () => {
  const tools = {
    tryProgram: () => Promise.resolve('not found'),
    probe: (_address: string, port: number) => Promise.resolve(port === 8443 ? 'refused' : null),
    stateDiskFreeBytes: () => 10 * 2 ** 30,
  } as Partial<HostTools> as HostTools;
  const runtime: RunOptions['runtime'] = {
    engine: () => Promise.resolve({ state: 'ok', version: '20.10', endpoint: 'unix:///x' }),
  };
  const operations = doctorOperations(tools);
  const answer = (await runOperation(
    operations,
    'cluster/doctor',
    {},
    { node, runtime, isLoggedOut: true },
  )) as {
    ok: boolean;
    checks: { name: string; result: string; todo: string }[];
  };
  const failed = answer.checks.filter(({ result }) => result === 'fail');
  expect([answer.ok, failed.map(({ name }) => name)]).toEqual([false, ['iptables', 'ports']]);
  for (const check of failed) expect(check.todo).not.toBe('');
  const alone = (await runOperation(
    operations,
    'cluster/doctor',
    {},
    { node: null, runtime },
  )) as typeof answer;
  expect(alone.checks.map(({ name }) => name)).toContain('engine');
});
