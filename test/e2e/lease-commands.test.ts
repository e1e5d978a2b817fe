/**
 * The operator's view of leases on three hosts with real guards and gates: looking, moving, freezing, parking, locks, voters
 * and alerts, all through the command line.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { DoctorAnswer, StatusAnswer } from '../../daemon/operations/answers.ts';
import type {
  AlertRow,
  EnvDetails,
  LeaseDetails,
  LeaseRow,
  MoveAnswer,
} from '../../daemon/operations/lease-answers.ts';
import { eventually } from '../await.ts';
import { TestCluster } from '../testbed/cluster.ts';
import { makeImage } from '../testbed/image.ts';

let cluster: TestCluster;

const desired = `
apiVersion: trellis/v1
roles: { data: {} }
services:
  db:
    role: data
    image: demo/idle:1
    exclusive: true
    count: { perRole: { min: 1, max: 1 } }
    stopGrace: 2s
`;

beforeAll(async () => {
  cluster = await TestCluster.create({ hosts: 3, roles: [['data'], ['data'], ['data']] });
  await makeImage(cluster.bed.host(0), 'demo/idle:1', {
    files: { '/bin/idle': '#!/bin/sh\ntrap exit TERM\nwhile :; do sleep 1 & wait; done\n' },
    command: ['/bin/idle'],
  });
  for (const index of [1, 2]) await cluster.login(index);
  await cluster.mustApply(0, desired, []);
}, 240_000);

afterAll(async () => {
  await cluster?.destroy();
});

const names = ['h1', 'h2', 'h3'];
const indexOf = (name: string | null): number => names.indexOf(name ?? '');

async function dbRow(from = 0): Promise<LeaseRow> {
  const rows = await cluster.json<LeaseRow[]>(from, ['lease', 'ls']);
  const row = rows.find(({ title }) => title === 'service db');
  if (row === undefined) throw new Error(`no lease of db: ${JSON.stringify(rows)}`);
  return row;
}

/** Held, and every host says so. */
function settled(): Promise<LeaseRow> {
  return eventually(
    async () => {
      const rows = await Promise.all([0, 1, 2].map((index) => dbRow(index)));
      const [first] = rows;
      expect(first?.state).toBe('active');
      for (const row of rows)
        expect([row.holder, row.epoch]).toEqual([first?.holder, first?.epoch]);
      return first;
    },
    { withinMs: 60_000, everyMs: 200, what: 'all hosts name one active holder' },
  );
}

async function details(from = 0): Promise<LeaseDetails> {
  return cluster.json<LeaseDetails>(from, ['lease', 'show', 'db']);
}

/** Of the candidates other than the holder, both would take over. */
async function bothMayTake(): Promise<void> {
  await eventually(
    async () => {
      const { candidates } = await details();
      expect(candidates.filter((row) => row.mayTake).length).toBe(2);
      return true;
    },
    { withinMs: 60_000, everyMs: 250, what: 'both others may take over' },
  );
}

describe('looking', { timeout: 180_000 }, () => {
  it('lease ls and show agree on all hosts', async () => {
    const row = await settled();
    await bothMayTake();
    expect(row.candidates.toSorted()).toEqual(names);
    for (const from of [0, 1, 2]) {
      const shown = await details(from);
      expect(shown).toMatchObject({ holder: row.holder, epoch: row.epoch, services: ['db'] });
      // Asked of the holder, which knows its own time and gate.
      expect(shown.seenFrom).toBe(row.holder);
      expect(shown.gate?.state).toBe('open');
      expect(shown.expiresInMs).toBeGreaterThan(0);
      expect(shown.history.at(-1)).toMatchObject({ epoch: row.epoch, host: row.holder });
      expect(shown.since).not.toBe(null);
    }
  });

  it('env show: three voters, one of which may be lost', async () => {
    const shown = await eventually(
      async () => {
        const data = await cluster.json<EnvDetails>(0, ['env', 'show']);
        expect(data.quorum.voters.filter(({ isReachable }) => isReachable).length).toBe(3);
        return data;
      },
      { withinMs: 60_000, everyMs: 250, what: 'three voters answer' },
    );
    expect(shown.quorum).toMatchObject({
      mode: 'majority',
      needed: 2,
      survives: 1,
      hasQuorum: true,
    });
    expect(shown.planner).not.toBe(null);
    const status = await cluster.trellis(0, ['status', '--redundancy', '--json']);
    const [db] = (status.data as StatusAnswer).exclusive;
    expect(db).toMatchObject({ service: 'db', survives: 1 });
  });

  it('doctor tests the gate for real', async () => {
    const { checks } = await cluster.json<DoctorAnswer>(0, ['doctor']);
    const of = (name: string) => checks.find((row) => row.name === name)?.result;
    expect([of('guard'), of('gate'), of('cgroups'), of('ports')]).toEqual(['ok', 'ok', 'ok', 'ok']);
  });

  it('names that are not there', async () => {
    expect((await cluster.trellis(0, ['lease', 'show', 'nope'])).code).toBe(4);
    expect((await cluster.trellis(0, ['lease', 'switch', 'db', '--to', 'h9', '--yes'])).code).toBe(
      4,
    );
  });
});

describe('moving', { timeout: 180_000 }, () => {
  it('switch, asked of a host that does not hold it, moves it under the next epoch', async () => {
    const before = await settled();
    await bothMayTake();
    const to = names.find((name) => name !== before.holder) ?? '';
    const from = 3 - indexOf(before.holder) - indexOf(to);
    const argv = ['lease', 'switch', 'db', '--to', to, '--yes'];
    const moved = await cluster.json<MoveAnswer>(from, argv);
    expect(moved).toMatchObject({ from: before.holder, to });
    expect(moved.epoch).toBeGreaterThan(before.epoch);
    expect(await settled()).toMatchObject({ holder: to, epoch: moved.epoch });
    const again = await cluster.json<MoveAnswer>(from, argv);
    expect(again).toMatchObject({ from: to, to, epoch: moved.epoch });
  });

  it('without --yes nothing is moved', async () => {
    const before = await settled();
    const refused = await cluster.trellis(0, ['lease', 'switch', 'db']);
    expect(refused.code).toBe(3);
    expect(refused.stderr).toContain('stop db on');
    expect(await settled()).toMatchObject({ holder: before.holder, epoch: before.epoch });
  });

  it('a frozen lease is refused, and moves again afterwards', async () => {
    await settled();
    await cluster.json(0, ['lease', 'freeze', 'db', '--wait']);
    const refused = await cluster.trellis(0, ['lease', 'switch', 'db', '--yes', '--json']);
    expect([refused.code, refused.data]).toMatchObject([3, { error: { code: 'LEASE_FROZEN' } }]);
    expect((await dbRow()).frozen).toBe(true);
    await cluster.json(0, ['lease', 'unfreeze', 'db', '--wait']);
    await bothMayTake();
  });

  it('release: another candidate takes it', async () => {
    const before = await settled();
    await bothMayTake();
    await cluster.json(0, ['lease', 'release', 'db', '--yes']);
    const after = await eventually(
      async () => {
        const row = await settled();
        return row.epoch > before.epoch && row;
      },
      { withinMs: 60_000, everyMs: 200, what: 'it is held under a higher epoch' },
    );
    expect(after.holder).not.toBe(before.holder);
  });

  it('park and unpark keep holder and epoch', async () => {
    const before = await settled();
    await cluster.json(indexOf(before.holder), ['lease', 'park', 'db']);
    await eventually(async () => (await dbRow()).state === 'parked', {
      withinMs: 20_000,
      what: 'it is parked',
    });
    await cluster.json(0, ['lease', 'unpark', 'db']);
    expect(await settled()).toMatchObject({ holder: before.holder, epoch: before.epoch });
  });
});

describe('trellis lock', { timeout: 180_000 }, () => {
  const lock = (index: number, script: string, flags: readonly string[] = []) =>
    cluster.trellis(index, ['lock', 'job', ...flags, '--', '/bin/sh', '-c', script]);

  it('runs the command inside the gate with its epoch, and gives its exit code', async () => {
    const script =
      'echo "$TRELLIS_EPOCH"; cat "$TRELLIS_LEASE_DIR/epoch"; cat /proc/self/cgroup; exit 7';
    const { code, stdout } = await lock(0, script);
    expect(code).toBe(7);
    const [epoch, fromFile, ...groups] = stdout.split('\n');
    expect(Number(epoch)).toBeGreaterThan(0);
    expect(fromFile).toBe(epoch);
    expect(groups.join('\n')).toContain('trellis-x-');
  });

  it('again at once, elsewhere and here, under higher epochs', async () => {
    const epochs: number[] = [];
    for (const index of [1, 1, 0, 2]) {
      const { code, stdout, stderr } = await lock(index, 'echo "$TRELLIS_EPOCH"');
      expect([code, stderr]).toEqual([0, '']);
      epochs.push(Number(stdout));
    }
    expect(epochs).toEqual(epochs.toSorted((a, b) => a - b));
    expect(new Set(epochs).size).toBe(4);
  });

  it('one command at a time, on one host and on several', async () => {
    const script = (index: number) =>
      `echo "in ${index}" >> /tmp/lock-log; sleep 0.3; echo "out ${index}" >> /tmp/lock-log`;
    // Two on one host share a file; the others are told apart by their epochs.
    const runs = await Promise.all(
      [0, 0, 1, 2].map((index) =>
        lock(index, `${script(index)}; echo "$TRELLIS_EPOCH"`, ['--wait', '60s']),
      ),
    );
    expect(runs.map(({ code, stderr }) => [code, stderr.replaceAll(/waiting.*\n/g, '')])).toEqual(
      runs.map(() => [0, '']),
    );
    expect(new Set(runs.map(({ stdout }) => stdout)).size).toBe(4);
    const log = await cluster.bed.host(0).mustExec('cat /tmp/lock-log');
    expect(log.trim().split('\n')).toEqual(['in 0', 'out 0', 'in 0', 'out 0']);
  });

  it('not acquired in time: exit 5, and who has it', async () => {
    const held = lock(0, 'touch /tmp/held; sleep 8');
    await eventually(async () => (await cluster.bed.host(0).exec('test -e /tmp/held')).code === 0, {
      withinMs: 30_000,
    });
    for (const index of [0, 1]) {
      const late = await lock(index, 'echo ran', ['--wait', '1s']);
      expect([late.code, late.stdout]).toEqual([5, '']);
      expect(late.stderr).toContain('LEASE_TIMED_OUT');
    }
    expect((await held).code).toBe(0);
  });

  it('a lost lease: the command is killed in time, exit 1', async () => {
    const host = cluster.bed.host(2);
    const running = lock(2, 'touch /tmp/on; while :; do date +%s%N > /tmp/beat; sleep 0.05; done');
    await eventually(async () => (await host.exec('test -e /tmp/on')).code === 0, {
      withinMs: 30_000,
    });
    await cluster.bed.switch.partition([[2], [0, 1]]);
    try {
      const lost = await running;
      expect(lost.code).toBe(1);
      expect(lost.stderr).toContain('LEASE_LOST');
      const beat = await host.mustExec('cat /tmp/beat');
      expect(await host.mustExec('sleep 0.3; cat /tmp/beat')).toBe(beat);
      const elsewhere = await lock(0, 'echo "$TRELLIS_EPOCH"');
      expect(elsewhere.code).toBe(0);
    } finally {
      await cluster.bed.switch.partition([]);
    }
    await cluster.waitReady(3);
  });
});

describe('alerts and voters', { timeout: 180_000 }, () => {
  it('daemon-down: an alert, and nothing moves [trellis:A41]', async () => {
    const before = await settled();
    const holder = indexOf(before.holder);
    const other = (holder + 1) % 3;
    await cluster.signalDaemon(holder, 'KILL');
    const id = `daemon-down:${before.holder}`;
    await eventually(
      async () =>
        (await cluster.json<AlertRow[]>(other, ['alert', 'ls'])).some((row) => row.id === id),
      { withinMs: 60_000, everyMs: 250, what: 'the alert is listed' },
    );
    expect((await cluster.trellis(other, ['status'])).stdout).toContain(`alert ${id}`);
    await cluster.json(other, ['alert', 'ack', id]);
    expect((await cluster.trellis(other, ['status'])).stdout).not.toContain(`alert ${id}`);
    const told = async (): Promise<number> => {
      const events = await cluster.json<{ kind: string }[]>(other, ['events', '-n', '500']);
      return events.filter(({ kind }) => kind === 'alert.daemon-down').length;
    };
    // One of those who see it tells it, and not the first to see it.
    await eventually(async () => (await told()) > 0, { withinMs: 10_000, what: 'it is told' });
    expect(await told()).toBe(1);
    expect(await cluster.holders('service db')).toMatchObject([
      { index: holder, epoch: before.epoch },
    ]);
    await cluster.startDaemon(holder);
    await cluster.waitReady(3);
    await eventually(
      async () =>
        !(await cluster.json<AlertRow[]>(other, ['alert', 'ls'])).some((row) => row.id === id),
      { withinMs: 60_000, everyMs: 250, what: 'the alert is over' },
    );
  });

  it('env set voters changes them one by one, and back', async () => {
    const voters = async () =>
      (await cluster.json<EnvDetails>(0, ['env', 'show'])).quorum.voters.map(({ host }) => host);
    await cluster.json(0, ['env', 'set', 'voters', 'h1', '--wait', '--timeout', '90s']);
    expect(await voters()).toEqual(['h1']);
    await cluster.json(0, ['env', 'set', 'voters', 'h1,h2,h3', '--wait', '--timeout', '120s']);
    expect((await voters()).toSorted()).toEqual(names);
    await settled();
  });

  it('force needs two confirmations, and is refused while a majority answers', async () => {
    const argv = ['env', 'force-voters', '--voters', 'h1,h2', '--dead', 'h3', '--yes'];
    const refused = await cluster.trellis(0, [...argv, '--confirm', 'prod', '--json']);
    expect([refused.code, refused.data]).toMatchObject([3, { error: { code: 'VOTERS_REFUSED' } }]);
    const once = await cluster.trellis(0, ['lease', 'force-active', 'db', '--yes', '--json']);
    expect([once.code, once.data]).toMatchObject([3, { error: { code: 'CONFIRMATION_NEEDED' } }]);
  });
});
