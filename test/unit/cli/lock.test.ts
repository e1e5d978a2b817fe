import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import type { Server, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { runCli } from '../../../daemon/cli/run.ts';
import type {
  FromGuard,
  GuardCommand,
  GuardReply,
  ToGuard,
} from '../../../daemon/lease/guard-api.ts';
import { eventually } from '../../await.ts';
import { fakeClient } from './fake-client.ts';
import { fakeTerminal } from './terminal.ts';

/** A guard at its socket: answers as the test says, remembers what it was told. */
class FakeGuard {
  readonly heard: ToGuard[] = [];
  readonly path: string;
  answer: (command: GuardCommand & { kind: 'acquire' }, nth: number) => GuardReply | null;
  /** The client has ended its side. */
  isAlone = true;
  #socket: Socket | null = null;
  readonly #server: Server;

  constructor(path: string, answer: FakeGuard['answer']) {
    this.path = path;
    this.answer = answer;
    this.#server = createServer((socket) => this.#serve(socket));
  }

  listen(): Promise<void> {
    return new Promise((resolve) => {
      this.#server.listen(this.path, resolve);
    });
  }

  say(message: FromGuard): void {
    this.#socket?.write(`${JSON.stringify(message)}\n`);
  }

  die(): void {
    this.#socket?.destroy();
  }

  close(): void {
    this.#socket?.destroy();
    this.#server.close();
  }

  commands(): GuardCommand[] {
    return this.heard.flatMap((line) => (line.kind === 'command' ? [line.command] : []));
  }

  #serve(socket: Socket): void {
    this.#socket = socket;
    this.isAlone = false;
    let held = '';
    socket.on('close', () => (this.isAlone = true));
    socket.on('error', () => socket.destroy());
    socket.setEncoding('utf8').on('data', (text) => {
      held += String(text);
      const lines = held.split('\n');
      held = lines.pop() ?? '';
      for (const line of lines) this.#take(JSON.parse(line) as ToGuard);
    });
  }

  #take(line: ToGuard): void {
    this.heard.push(line);
    if (line.kind !== 'command') return;
    const { id, command } = line;
    const nth = this.commands().filter(({ kind }) => kind === 'acquire').length;
    const reply = command.kind === 'acquire' ? this.answer(command, nth) : { isOk: true as const };
    if (reply !== null) this.say({ kind: 'reply', id, reply });
  }
}

let dir: string;
let guard: FakeGuard;
let procs: string;

const granted = (): GuardReply => ({
  isOk: true,
  epoch: 7,
  gateProcs: [procs],
  leaseDir: '/run/x/lease',
});

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'trellis-lock-'));
  procs = join(dir, 'cgroup.procs');
  writeFileSync(procs, '');
  guard = new FakeGuard(join(dir, 'guard.sock'), granted);
  await guard.listen();
});

afterEach(() => {
  guard.close();
  rmSync(dir, { recursive: true });
});

const ticket = () => ({
  socket: guard.path,
  guardApiVersion: 1,
  lease: { name: 'lock/x', title: 'lock x' },
  hosts: { aa: 'h9' },
});

async function lock(argv: readonly string[], prepare = ticket) {
  const terminal = fakeTerminal({});
  const client = fakeClient({ 'lock/prepare': prepare });
  const exit = await runCli(['lock', ...argv], terminal, () => client);
  return { exit, stdout: terminal.stdout(), stderr: terminal.stderr(), asked: client.asked };
}

const out = () => join(dir, 'out');
const sh = (script: string) => ['--', '/bin/sh', '-c', script];

test('the command runs inside the gate with its epoch; its exit code is ours; then the lease is given back', async () => {
  const script = `echo "$TRELLIS_EPOCH $TRELLIS_LEASE_DIR $$" > ${out()}; exit 3`;
  const { exit, stderr, asked } = await lock([
    'x',
    '--wait',
    '2s',
    '--profile',
    'wan',
    ...sh(script),
  ]);
  expect([exit, stderr]).toEqual([3, '']);
  expect(asked).toEqual([{ call: 'lock/prepare', params: { name: 'x', profile: 'wan' } }]);
  const [epoch, leaseDir, pid] = readFileSync(out(), 'utf8').trim().split(' ');
  expect([epoch, leaseDir]).toEqual(['7', '/run/x/lease']);
  // It put itself there before it became the command.
  expect(readFileSync(procs, 'utf8').trim()).toBe(pid);
  expect(guard.heard[0]).toMatchObject({ kind: 'hello', v: 1 });
  expect(guard.commands()).toMatchObject([
    { kind: 'acquire', lease: { name: 'lock/x' }, waitMs: 2_000 },
    { kind: 'release', name: 'lock/x' },
  ]);
  await eventually(() => expect(guard.isAlone).toBe(true), { withinMs: 5_000 });
});

test('every hierarchy of the gate is entered', async () => {
  const second = join(dir, 'second.procs');
  writeFileSync(second, '');
  guard.answer = () => ({ isOk: true, epoch: 1, gateProcs: [procs, second], leaseDir: '/l' });
  expect((await lock(['x', '--', 'true'])).exit).toBe(0);
  expect(readFileSync(second, 'utf8')).toBe(readFileSync(procs, 'utf8'));
});

test('arguments reach the command as they stand', async () => {
  const { exit } = await lock([
    'x',
    '--',
    '/bin/sh',
    '-c',
    `printf '%s|' "$@" > ${out()}`,
    'sh',
    '--json',
    'a b',
    '$HOME',
  ]);
  expect(exit).toBe(0);
  expect(readFileSync(out(), 'utf8')).toBe('--json|a b|$HOME|');
});

test.each(['LEASE_BUSY', 'NO_QUORUM', 'TIMED_OUT'])(
  '%s at the end of the wait exits 5',
  async (code) => {
    guard.answer = () => ({ isOk: false, code, details: {} });
    const { exit, stderr } = await lock(['x', '--wait', '100ms', ...sh(`touch ${out()}`)]);
    expect([exit, existsSync(out())]).toEqual([5, false]);
    expect(stderr).toContain('error LEASE_TIMED_OUT: lease lock x was not acquired within 0.1 s');
  },
);

test('who has it is said by name', async () => {
  guard.answer = () => ({ isOk: false, code: 'LEASE_BUSY', details: { holder: 'aa' } });
  expect((await lock(['x', '--wait', '0', '--', 'true'])).stderr).toContain('h9 has it');
});

test('a guard that is busy with another command of this host is asked again', async () => {
  guard.answer = (_, nth) =>
    nth < 3 ? { isOk: false, code: 'LEASE_BUSY', details: { reason: 'busy' } } : granted();
  expect((await lock(['x', '--wait', '20s', '--', 'true'])).exit).toBe(0);
});

test('a guard that has just been started is asked again, whatever the wait', async () => {
  const reason = 'it has not heard from a daemon yet';
  guard.answer = (_, nth) =>
    nth < 3 ? { isOk: false, code: 'GUARD_UNREACHABLE', details: { reason } } : granted();
  expect((await lock(['x', '--wait', '0', '--', 'true'])).exit).toBe(0);
});

test('what the guard refuses keeps its code', async () => {
  guard.answer = () => ({ isOk: false, code: 'GATE_FAULT', details: { reason: 'no freezer' } });
  const { exit, stderr } = await lock(['x', '--', 'true']);
  expect(exit).toBe(1);
  expect(stderr).toContain('error GATE_FAULT');
  expect(stderr).toContain('no freezer');
  guard.answer = () => ({ isOk: true, epoch: 1 });
  expect((await lock(['x', '--', 'true'])).stderr).toContain('the guard named no gate');
});

test('a command that cannot enter the gate does not run', async () => {
  guard.answer = () => ({
    isOk: true,
    epoch: 1,
    gateProcs: [join(dir, 'none', 'procs')],
    leaseDir: '',
  });
  const { exit, stderr } = await lock(['x', ...sh(`touch ${out()}`)]);
  expect([exit, existsSync(out())]).toEqual([1, false]);
  expect(stderr).toContain('error GATE_FAULT');
});

const closed = (epoch: number): FromGuard => ({
  kind: 'notice',
  notice: { kind: 'closed', name: 'lock/x', epoch, isKilled: true, why: 'no majority' },
});

test('a lost lease ends the command, with a message and exit 1', async () => {
  const running = lock(['x', ...sh(`echo on > ${out()}; exec sleep 60`)]);
  await eventually(() => expect(existsSync(out())).toBe(true), { withinMs: 5_000 });
  // Of another command that had it before: not ours.
  guard.say(closed(6));
  guard.say(closed(7));
  const { exit, stderr } = await running;
  expect(exit).toBe(1);
  expect(stderr).toContain('error LEASE_LOST: lease lock x was lost: no majority');
});

test('killed by the guard before its word of it arrives', async () => {
  const running = lock(['x', ...sh('kill -9 $$')]);
  await eventually(() => expect(readFileSync(procs, 'utf8')).not.toBe(''), { withinMs: 5_000 });
  guard.say(closed(7));
  expect((await running).stderr).toContain('LEASE_LOST');
});

test('a kill that is not the guard’s is the command’s own end', async () => {
  expect((await lock(['x', ...sh('kill -9 $$')])).exit).toBe(137);
});

test('when the guard goes, everything in the gate is killed', async () => {
  const running = lock(['x', ...sh(`echo on > ${out()}; exec sleep 60`)]);
  await eventually(() => expect(existsSync(out())).toBe(true), { withinMs: 5_000 });
  guard.die();
  const { exit, stderr } = await running;
  expect(exit).toBe(1);
  expect(stderr).toContain('the guard has ended');
});

test('signals reach the command', async () => {
  const script = `trap 'echo got > ${out()}.got; exit 9' TERM; echo on > ${out()}; while :; do sleep 0.05; done`;
  const running = lock(['x', ...sh(script)]);
  await eventually(() => expect(existsSync(out())).toBe(true), { withinMs: 5_000 });
  process.emit('SIGTERM', 'SIGTERM');
  expect((await running).exit).toBe(9);
  expect(existsSync(`${out()}.got`)).toBe(true);
});

test('a signal while waiting ends the waiting', async () => {
  guard.answer = () => null;
  const running = lock(['x', '--', 'true']);
  await eventually(() => expect(guard.commands().length).toBe(1), { withinMs: 5_000 });
  process.emit('SIGINT', 'SIGINT');
  expect((await running).exit).toBe(130);
  await eventually(() => expect(guard.isAlone).toBe(true), { withinMs: 5_000 });
});

test('--json gives one value with what the command wrote', async () => {
  const { exit, stdout } = await lock(['x', '--json', ...sh('echo hello; echo bad >&2; exit 4')]);
  expect(exit).toBe(4);
  expect(JSON.parse(stdout)).toEqual({
    name: 'lock/x',
    epoch: 7,
    exitCode: 4,
    stdout: 'hello\n',
    stderr: 'bad\n',
  });
});

test('what it left in the background does not keep its lease', async () => {
  const { exit, stdout } = await lock(['x', '--json', ...sh('sleep 2 & echo done')]);
  expect([exit, (JSON.parse(stdout) as { stdout: string }).stdout]).toEqual([0, 'done\n']);
  expect(guard.commands().at(-1)?.kind).toBe('release');
});

test('no guard, no command', async () => {
  const gone = () => ({ ...ticket(), socket: join(dir, 'nobody.sock') });
  const { exit, stderr } = await lock(['x', '--', 'true'], gone);
  expect(exit).toBe(1);
  expect(stderr).toContain('error GUARD_UNREACHABLE');
  expect(stderr).toContain('it is not running');
  expect((await lock(['x'])).exit).toBe(2);
});
