import { expect, test } from 'vitest';
import { runCli } from '../../../daemon/cli/run.ts';
import type {
  EnvDetails,
  LeaseDetails,
  QuorumAnswer,
} from '../../../daemon/operations/lease-answers.ts';
import { fakeClient } from './fake-client.ts';
import type { Answer } from './fake-client.ts';
import { fakeTerminal } from './terminal.ts';

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

const quorum: QuorumAnswer = {
  n: 4,
  generation: 1,
  mode: 'majority',
  voters: [
    { host: 'h1', isReachable: true, isSilent: false, lastHeardMs: 40 },
    { host: 'h2', isReachable: true, isSilent: true, lastHeardMs: 70 },
    { host: 'h3', isReachable: false, isSilent: false, lastHeardMs: null },
  ],
  hasQuorum: true,
  needed: 2,
  survives: 0,
  ifOneMoreGoes: 'if one of h1, h2 goes too, it stops',
  note: '',
};

const row = {
  name: 'service/prod/0011223344556677',
  title: 'service db',
  holder: 'h1',
  epoch: 7,
  state: 'active',
  voters: ['h1', 'h2', 'h3'],
  expiresInMs: 1_234,
  candidates: ['h1', 'h2'],
  profile: 'fast',
  onLoss: 'stop',
  frozen: false,
  trouble: [],
};

const details: LeaseDetails = {
  ...row,
  env: 'prod',
  services: ['db'],
  since: '2026-11-20T08:00:00.000Z',
  candidates: [
    { host: 'h1', place: 1, isHolder: true, mayTake: false, reasons: [] },
    {
      host: 'h2',
      place: 2,
      isHolder: false,
      mayTake: false,
      reasons: [{ code: 'drained', text: 'it is drained' }],
    },
    { host: 'h3', place: 3, isHolder: false, mayTake: true, reasons: [] },
  ],
  gate: { host: 'h1', state: 'open', fault: null },
  moving: null,
  timing: {
    exclusionMs: 1_600,
    authorityMs: 1_500,
    renewMs: 400,
    freezeBeforeMs: 300,
    killBeforeMs: 150,
  },
  history: [{ epoch: 7, host: 'h1', what: 'acquired', why: '', at: '2026-11-20T08:00:00.000Z' }],
  quorum,
  survives: 0,
  seenFrom: 'h1',
};

test('lease ls: a table for people, the rows for programs', async () => {
  const nobody = {
    ...row,
    title: 'lock x',
    holder: null,
    epoch: 0,
    state: 'free',
    expiresInMs: null,
  };
  const rows = [row, { ...nobody, frozen: true, trouble: ['nobody holds it'] }];
  const { stdout } = await cli(['lease', 'ls'], { 'lease/ls': () => rows });
  expect(stdout).toMatch(/service db +h1 +7 +active +1\.2 s +h1,h2/);
  expect(stdout).toMatch(/lock x +nobody +free +h1,h2 +nobody holds it; frozen by an operator/);
  const json = await cli(['lease', 'ls', '--json'], { 'lease/ls': () => rows });
  expect(JSON.parse(json.stdout)).toEqual(rows);
  expect((await cli(['lease', 'ls'], { 'lease/ls': () => [] })).stdout).toBe('no leases\n');
});

test('storage ls: a line for each host', async () => {
  const copy = { isAlive: true, epoch: 3, version: 1, bytes: 2 << 20, ageMs: 0, reason: null };
  const rows = [
    {
      name: 'dbdata',
      hosts: [
        { ...copy, host: 'h1', state: 'active', lagMs: 0, isInSync: true },
        { ...copy, host: 'h2', state: 'replica', lagMs: 1_500, isInSync: true },
        { ...copy, host: 'h3', state: 'failed', lagMs: null, isInSync: false, reason: 'no rsync' },
      ],
    },
  ];
  const { stdout } = await cli(['storage', 'ls'], { 'storage/ls': () => rows });
  expect(stdout).toMatch(/dbdata +h1 +active +3 +2(\.0)? Mi?B/);
  expect(stdout).toMatch(/\n +h2 +replica +3 +1\.5 s/);
  expect(stdout).toMatch(/h3 +failed +3 +not known, may not take over +2(\.0)? Mi?B +no rsync/);
  expect((await cli(['storage', 'ls'], { 'storage/ls': () => [] })).stdout).toBe('no storage\n');
});

test('lease show: holder, time, candidates with reasons, voters, history', async () => {
  const { stdout, asked } = await cli(['lease', 'show', 'service', 'db'], {
    'lease/show': () => details,
  });
  expect(asked[0]?.params).toEqual({ name: ['service', 'db'] });
  for (const text of [
    'h1, active, epoch 7 since 2026-11-20 08:00:00Z',
    'renewed every 400 ms, lost after 1500 ms (frozen 300 ms before, killed 150 ms before)',
    'it is drained',
    'may take over',
    'does not answer',
    'silent',
    'configuration 4, generation 1; survives: 0 more losses',
    'if one of h1, h2 goes too, it stops',
    'acquired',
  ])
    expect(stdout).toContain(text);
});

test('switch and release show what they do and ask; --yes does not', async () => {
  const answers: Record<string, Answer> = {
    'lease/switch': (params) =>
      params['dryRun'] === true
        ? { plan: ['stop db on h1 in order, and start on h2'] }
        : { title: 'service db', from: 'h1', to: 'h2', epoch: 8, tookMs: 312 },
    'lease/release': (params) =>
      params['dryRun'] === true
        ? { plan: ['stop db on h1 and give service db up'] }
        : { title: 'service db', from: 'h1', to: null, epoch: 7, tookMs: 100 },
  };
  const refused = await cli(['lease', 'switch', 'db', '--to', 'h2'], answers);
  expect([refused.exit, refused.asked.length]).toEqual([3, 1]);
  expect(refused.stderr).toContain('start on h2');
  const asked = await cli(['lease', 'switch', 'db', '--to', 'h2'], answers, { answers: ['y'] });
  expect(asked.stdout).toBe('service db is held by h2, epoch 8 (0.3 s)\n');
  const sure = await cli(['lease', 'release', 'db', '--yes'], answers);
  expect(sure.stdout).toBe('service db was given up by h1 (0.1 s)\n');
  expect(sure.asked).toEqual([{ call: 'lease/release', params: { name: ['db'] } }]);
});

test('force-active: two confirmations, by flags or by hand', async () => {
  const answers: Record<string, Answer> = {
    'lease/force-active': (params) =>
      params['dryRun'] === true
        ? { plan: ['taken from h2', 'two hosts may run it at once'], from: 'h2' }
        : { title: 'service db', from: 'h2', to: 'h1', epoch: 9, tookMs: 3_000 },
  };
  const argv = ['lease', 'force-active', 'db'];
  const nobody = await cli(argv, answers);
  expect([nobody.exit, nobody.asked.length]).toEqual([3, 1]);
  expect(nobody.stderr).toContain('REFUSED_UNCONFIRMED');
  const once = await cli([...argv, '--yes'], answers);
  expect([once.exit, once.asked.length]).toEqual([3, 1]);
  expect(once.stderr).toContain('CONFIRMATION_NEEDED');
  expect(once.stderr).toContain('--confirm "db"');
  const no = await cli(argv, answers, { answers: ['n'] });
  expect([no.exit, no.asked.length]).toEqual([3, 1]);
  const typed = await cli(argv, answers, { answers: ['y', 'db'] });
  expect(typed.asked[1]?.params).toEqual({ name: ['db'], of: 'h2', confirm: 'db' });
  const flags = await cli([...argv, '--yes', '--confirm', 'db'], answers);
  expect(flags.stdout).toContain('held by h1, epoch 9');
  expect(flags.asked[1]?.params).toEqual({ name: ['db'], of: 'h2', confirm: 'db' });
});

test('env force-voters asks for the name of the environment', async () => {
  const answers: Record<string, Answer> = {
    'env/force-voters': (params) =>
      params['dryRun'] === true ? { plan: ['a', 'b'] } : { env: 'prod', voters: ['h1'] },
  };
  const argv = ['env', 'force-voters', '--voters', 'h1', '--dead', 'h2,h3'];
  const once = await cli([...argv, '--yes'], answers);
  expect([once.exit, once.asked.length]).toEqual([3, 1]);
  const sure = await cli([...argv, '--yes', '--confirm', 'prod'], answers);
  expect(sure.stdout).toBe('the voters of prod are now h1\n');
  expect(sure.asked[1]?.params).toEqual({ voters: ['h1'], dead: ['h2,h3'], confirm: 'prod' });
});

test('env show and ls', async () => {
  const data: EnvDetails = {
    name: 'prod',
    hosts: 2,
    live: 2,
    voters: ['h1'],
    hasQuorum: true,
    frozen: true,
    isOwn: true,
    votersWanted: 'auto',
    autoApply: 'safe',
    quorum,
    planner: { host: 'h1', epoch: 3 },
    choices: ['keep h1', 'pair'],
  };
  const shown = await cli(['env', 'show'], { 'env/show': () => data });
  expect(shown.stdout).toContain('survives: 0 more losses');
  expect(shown.stdout).toMatch(/Two hosts.*\n {2}- keep h1\n {2}- pair/);
  expect(shown.stdout).toMatch(/planner +h1, epoch 3/);
  const none = { ...data, quorum: { ...quorum, survives: -1 }, planner: null, choices: [] };
  const trouble = await cli(['env', 'show'], { 'env/show': () => none });
  expect(trouble.stdout).toContain('no lease can change hands now');
  const listed = await cli(['env', 'ls'], { 'env/ls': () => [{ ...data, hasQuorum: false }] });
  expect(listed.stdout).toMatch(/prod +2\/2 +h1 +no majority, frozen/);
});

test('env set takes words as they come', async () => {
  const edited = { hash: 'a'.repeat(64), changed: 1, warnings: ['h3 is dead'] };
  const { stdout, asked } = await cli(['env', 'set', 'voters', 'witness', 'h3'], {
    'env/set': () => edited,
  });
  expect(asked[0]?.params).toEqual({ key: 'voters', value: ['witness', 'h3'] });
  expect(stdout).toContain('warning: h3 is dead');
  expect((await cli(['env', 'set', 'voters'], {})).exit).toBe(2);
});

test('alert ls and ack', async () => {
  const alert = {
    id: 'daemon-down:h2',
    kind: 'daemon-down',
    severity: 'alarm',
    subject: 'h2',
    text: 'the daemon of h2 does not answer',
    todo: 'start it',
    since: '2026-11-20T08:00:00.000Z',
    reportedBy: ['h1', 'h3'],
    acknowledged: { at: '2026-11-20T08:01:00.000Z', operator: 'ada' },
  };
  const listed = await cli(['alert', 'ls'], { 'alert/ls': () => [alert] });
  expect(listed.stdout).toContain('daemon-down:h2  since 2026-11-20 08:00:00Z, reported by h1, h3');
  expect(listed.stdout).toContain('seen by ada at 2026-11-20 08:01:00Z');
  expect((await cli(['alert', 'ls'], { 'alert/ls': () => [] })).stdout).toBe(
    'nothing needs a person\n',
  );
  const seen = { hash: 'a'.repeat(64), changed: 1, acknowledged: ['daemon-down:h2'] };
  const acked = await cli(['alert', 'ack', 'daemon-down:h2'], { 'alert/ack': () => seen });
  expect(acked.stdout).toContain('acknowledged: daemon-down:h2');
});

test('park and unpark say how it ends', async () => {
  const parked = await cli(['lease', 'park'], {
    'lease/park': () => ({ host: 'h1', leases: [], parked: true }),
  });
  expect(parked.stdout).toContain('nobody takes it over until `trellis lease unpark` on h1');
  const unparked = await cli(['lease', 'unpark', 'db'], {
    'lease/unpark': () => ({ host: 'h1', leases: ['service db'], parked: false }),
  });
  expect(unparked.stdout).toBe('service db is no longer parked\n');
});

test('status --redundancy', async () => {
  const data = {
    ok: true,
    cluster: 'c',
    env: 'e',
    services: [],
    hosts: [],
    conflicts: 0,
    problems: [],
    alarms: [],
    unplaceable: [],
    planIsStale: false,
    differences: [],
    exclusive: [
      {
        service: 'db',
        lease: 'service db',
        holder: 'h1',
        epoch: 7,
        state: 'active',
        survives: 1,
        limit: 'voters',
      },
      {
        service: 'q',
        lease: 'service q',
        holder: null,
        epoch: 0,
        state: 'free',
        survives: -1,
        limit: 'nobody holds it',
      },
    ],
  };
  const { stdout } = await cli(['status', '--redundancy'], { 'cluster/status': () => data });
  expect(stdout).toMatch(/db +h1 +1 more loss +voters/);
  expect(stdout).toMatch(/q +nobody +down +nobody holds it/);
  const plain = await cli(['status'], { 'cluster/status': () => data });
  expect(plain.stdout).not.toContain('EXCLUSIVE');
});

test('names of leases and alerts complete', async () => {
  const found = await cli(['__complete', 'lease', 'show', ''], {
    'lease/ls': () => [{ title: 'service db' }],
  });
  expect(found.stdout).toBe('service db\tlease\n');
  const flags = await cli(['__complete', 'lock', 'x', '--profile', ''], {});
  expect(flags.stdout).toBe('fast\nwan\nfenced\n');
});
