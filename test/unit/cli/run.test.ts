import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { runCli } from '../../../daemon/cli/run.ts';
import { ClusterError } from '../../../daemon/errors.ts';
import { fakeClient } from './fake-client.ts';
import type { Answer } from './fake-client.ts';
import { fakeTerminal } from './terminal.ts';

const dir = mkdtempSync(join(tmpdir(), 'trellis-cli-'));
afterAll(() => rmSync(dir, { recursive: true }));

async function cli(
  argv: readonly string[],
  answers: Readonly<Record<string, Answer>>,
  options: Parameters<typeof fakeTerminal>[0] = {},
) {
  const terminal = fakeTerminal(options);
  const client = fakeClient(answers);
  const exit = await runCli(argv, terminal, () => client);
  return { exit, stdout: terminal.stdout(), stderr: terminal.stderr(), asked: client.asked };
}

const rows = [
  {
    name: 'web',
    live: 1,
    hosts: ['h1'],
    minHosts: 2,
    dedicated: false,
    services: [],
    exists: true,
  },
];

test('people get a table, programs exactly one JSON value', async () => {
  const answers = { 'role/ls': () => rows };
  const people = await cli(['role', 'ls'], answers);
  expect(people.stdout.split('\n')[1]).toMatch(/^web +1\/1 +2$/);
  const programs = await cli(['role', 'ls', '--json'], answers);
  expect(JSON.parse(programs.stdout)).toEqual(rows);
  expect(programs.stdout.trim().split('\n').length).toBe(1);
});

test.each([
  ['NOT_FOUND', 4],
  ['STALE', 3],
  ['TIMED_OUT', 5],
  ['INVALID', 2],
  ['INTERNAL', 1],
] as const)('%s exits %i, on stderr for people and as JSON on stdout', async (code, exit) => {
  const answers = {
    'role/ls': () => {
      throw new ClusterError(code, { reason: 'because' });
    },
  };
  const people = await cli(['role', 'ls'], answers);
  expect([people.exit, people.stdout]).toEqual([exit, '']);
  expect(people.stderr).toMatch(new RegExp(`^error ${code}: .*; .*\n$`));
  const programs = await cli(['role', 'ls', '--json'], answers);
  expect([programs.exit, programs.stderr]).toEqual([exit, '']);
  expect(JSON.parse(programs.stdout)).toMatchObject({
    error: { code, details: { reason: 'because' } },
  });
});

test('what a host reports cannot drive the terminal', async () => {
  const evil = 'web\u001b]0;owned\u0007\u009b2J';
  const answers = { 'role/ls': () => [{ ...rows[0], name: evil }] };
  const people = await cli(['role', 'ls'], answers);
  expect(people.stdout).toContain('web?]0;owned??2J');
  const programs = await cli(['role', 'ls', '--json'], answers);
  expect(programs.stdout).not.toContain('\u001b');
  expect((JSON.parse(programs.stdout) as { name: string }[])[0]?.name).toBe(evil);
});

test('a wrong command line is refused as JSON too', async () => {
  const { exit, stdout } = await cli(['rol', '--json'], {});
  expect(exit).toBe(2);
  expect(JSON.parse(stdout)).toMatchObject({ error: { code: 'USAGE' } });
});

test('status and doctor exit 1 when something is wrong', async () => {
  const status = (ok: boolean) => ({
    ok,
    cluster: 'c',
    env: 'e',
    services: [],
    hosts: [],
    conflicts: 0,
    problems: [],
    alarms: [],
    unplaceable: [],
    planIsStale: false,
    differences: ok ? [] : ['host h3 is dead'],
  });
  expect((await cli(['status'], { 'cluster/status': () => status(true) })).exit).toBe(0);
  const bad = await cli(['status'], { 'cluster/status': () => status(false) });
  expect(bad.exit).toBe(1);
  expect(bad.stdout).toContain('host h3 is dead');
});

test('what is lost is shown and confirmed; without a terminal it is refused', async () => {
  const answers: Record<string, Answer> = {
    'host/remove': (params) =>
      params['dryRun'] === true
        ? { plan: ['remove host h3'] }
        : { hash: 'a'.repeat(64), changed: 1 },
  };
  const argv = ['host', 'remove', 'h3'];
  const refused = await cli(argv, answers);
  expect(refused.exit).toBe(3);
  expect(refused.stderr).toContain('remove host h3');
  expect(refused.stderr).toContain('REFUSED_UNCONFIRMED');
  expect(refused.asked.length).toBe(1);
  expect((await cli(argv, answers, { answers: ['n'] })).exit).toBe(3);
  expect((await cli(argv, answers, { answers: ['y'] })).exit).toBe(0);
  const sure = await cli([...argv, '--yes'], answers);
  expect(sure.exit).toBe(0);
  expect(sure.asked).toEqual([{ call: 'host/remove', params: { host: 'h3' } }]);
});

const applied = {
  hash: null,
  changed: 0,
  pruned: [],
  changes: [],
  pushed: [],
  plan: null,
  dryRun: false,
};

test('apply sends the text under the base name of the file, and asks only before it prunes', async () => {
  const file = join(dir, 'site.yaml');
  writeFileSync(file, 'apiVersion: trellis/v1\n');
  const plain = await cli(['apply', '-f', file], { 'desired/apply': () => applied });
  expect(plain.asked[0]?.params).toEqual({
    source: 'site.yaml',
    fileName: 'site.yaml',
    text: 'apiVersion: trellis/v1\n',
  });
  const prune = { 'desired/apply': () => ({ ...applied, pruned: ['service old'] }) };
  const refused = await cli(['apply', '-f', file, '--prune'], prune);
  expect(refused.exit).toBe(3);
  expect(refused.stderr).toContain('delete service old');
  expect((await cli(['apply', '-f', file, '--prune', '--yes'], prune)).exit).toBe(0);
  expect(
    (await cli(['apply', '-f', file, '--prune'], { 'desired/apply': () => applied })).exit,
  ).toBe(0);
  const missing = await cli(['apply', '-f', join(dir, 'none')], {});
  expect([missing.exit, missing.asked]).toEqual([2, []]);
});

test('a passphrase comes from a file or a prompt, never from the command line', async () => {
  const login = { 'operator/login': () => ({ operator: 'ada', expiresAt: 0 }) };
  const file = join(dir, 'pass');
  writeFileSync(file, 'correct horse\nsecond line\n', { mode: 0o600 });
  const fromFile = await cli(['login', '--passphrase-file', file], login);
  expect(fromFile.asked[0]?.params).toEqual({ passphrase: 'correct horse' });
  const typed = await cli(['login'], login, { answers: ['battery'] });
  expect(typed.asked[0]?.params).toEqual({ passphrase: 'battery' });
  expect((await cli(['login', '--passphrase', 'x'], login)).exit).toBe(2);
  const init = {
    'cluster/init': () => ({ clusterId: 'c', name: 'n', env: 'e', operator: 'o', hostName: 'h' }),
  };
  const twice = await cli(['init', '--name', 'n'], init, { answers: ['one', 'two'] });
  expect(twice.exit).toBe(2);
  const generated = await cli(['init', '--name', 'n'], init);
  expect(generated.asked[0]?.params).toEqual({ name: 'n' });
});

test('the code of an invitation comes from a file, the environment or standard input', async () => {
  const join = { 'cluster/join': () => ({ name: 'n', hostName: 'h', env: 'e', roles: [] }) };
  const fromEnv = await cli(['join', '--peer', '10.0.0.1:8443'], join, {
    env: { TRELLIS_CODE: 'abc' },
  });
  expect(fromEnv.asked[0]?.params).toEqual({ peers: ['10.0.0.1:8443'], code: 'abc' });
  const fromInput = await cli(['join'], join, { input: 'xyz\n' });
  expect(fromInput.asked[0]?.params).toEqual({ code: 'xyz' });
  expect((await cli(['join'], join)).exit).toBe(2);
  const invitation = JSON.stringify({ code: 'c', peers: ['10.0.0.1:8443'], caPem: 'pem', id: 'i' });
  const whole = await cli(['join', '--name', 'h2'], join, { input: invitation });
  expect(whole.asked[0]?.params).toEqual({
    code: 'c',
    peers: ['10.0.0.1:8443'],
    caPem: 'pem',
    hostName: 'h2',
  });
});

test('logs are cut into lines; several instances are told apart', async () => {
  const chunk = (instance: string, text: string) => ({
    host: 'h1',
    instance,
    stream: 'stdout',
    bytes: Buffer.from(text).toString('base64'),
  });
  const answers: Record<string, Answer> = {
    'service/logs': (_, hooks) => {
      hooks.onData?.({ instances: ['site-0', 'site-1'] });
      hooks.onData?.(chunk('site-0', 'on'));
      hooks.onData?.(chunk('site-1', 'two\n'));
      hooks.onData?.(chunk('site-0', 'e\nlast'));
      return null;
    },
  };
  const people = await cli(['logs', 'site'], answers);
  expect(people.stdout).toBe('site-1 | two\nsite-0 | one\nsite-0 | last\n');
  const programs = await cli(['logs', 'site', '--json'], answers);
  expect(JSON.parse(programs.stdout)).toEqual([
    { host: 'h1', instance: 'site-1', stream: 'stdout', line: 'two' },
    { host: 'h1', instance: 'site-0', stream: 'stdout', line: 'one' },
    { host: 'h1', instance: 'site-0', stream: 'stdout', line: 'last' },
  ]);
});

test('names in completion come from the daemon, and its absence is silent', async () => {
  const found = await cli(['__complete', 'host', 'show', 'h'], {
    'host/ls': () => [{ name: 'h1' }, { name: 'x2' }],
  });
  expect(found.stdout).toBe('h1\thost\n');
  const silent = await cli(['__complete', 'host', 'show', ''], {});
  expect([silent.exit, silent.stdout, silent.stderr]).toEqual([0, '', '']);
});
