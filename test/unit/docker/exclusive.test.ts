/** The pure parts of what the docker plugin does with exclusive containers. */
import { describe, expect, test } from 'vitest';
import type { ClusterId, HostId, ObjectId } from '../../../crdt/ids.ts';
import type { DesiredInstance } from '../../../plugins/api.ts';
import { type GateState, type Observed, diff } from '../../../plugins/docker/diff.ts';
import { Gates } from '../../../plugins/docker/gates.ts';
import { containerNameOf, label } from '../../../plugins/docker/labels.ts';
import { toSeenListed } from '../../../plugins/docker/observe.ts';
import { Restarts, restartPauseMsMin, shortRunsMax } from '../../../plugins/docker/restarts.ts';
import { cgroupParentOf, createOptions } from '../../../plugins/docker/spec.ts';

const self = { clusterId: 'c'.repeat(32) as ClusterId, hostId: 'a'.repeat(32) as HostId };
const lease = 'service/prod/00000000000000aa';

const db: DesiredInstance = {
  service: 'db',
  serviceId: '00000000000000aa' as ObjectId,
  slot: '0',
  instance: 'db-0',
  containerName: containerNameOf(self, 'db-0'),
  image: 'i',
  clusterImage: null,
  command: [],
  env: {},
  ports: [],
  resources: {},
  dependsOn: [],
  stopGraceMs: 1_000,
  isEnabled: true,
  restart: 'no',
  exclusive: { lease, gate: 'trellis-x-cc-aa', leaseDir: '/run/l', epoch: null },
  mounts: [{ source: '/srv/db', target: '/data', isReadOnly: false }],
  spec: 's1',
};

function container(state: string, labels: Record<string, string> = {}): Observed {
  return {
    id: 'id',
    names: [db.containerName],
    state,
    labels: {
      [label.cluster]: self.clusterId,
      [label.host]: self.hostId,
      [label.instance]: db.instance,
      [label.spec]: 's1',
      [label.bind]: 'b',
      [label.lease]: lease,
      ...labels,
    },
  };
}

function actions(
  gate: GateState,
  containers: Observed[],
  options: { wanted?: DesiredInstance[]; open?: string[] } = {},
): string[] {
  const wanted = (options.wanted ?? [db]).map((instance) => ({
    instance,
    bind: 'b',
    ...(instance.exclusive === undefined ? {} : { gate }),
  }));
  const isClosed = (name: string): boolean => !(options.open ?? []).includes(name);
  return diff({ self, wanted, keep: new Set(), containers, isClosed }).actions.map(
    ({ kind }) => kind,
  );
}

describe('what is done behind a gate', () => {
  test('[trellis:A41] nothing is started while it is closed, and nothing active is touched', () => {
    expect(actions('closed', [])).toEqual(['create']);
    expect(actions('closed', [container('created')])).toEqual([]);
    expect(actions('closed', [container('exited')])).toEqual([]);
    for (const state of ['running', 'paused', 'restarting'])
      expect(actions('closed', [container(state, { [label.spec]: 'old' })])).toEqual([]);
  });

  test('a passive container is made anew for a new description', () => {
    expect(actions('closed', [container('created', { [label.spec]: 'old' })])).toEqual([
      'recreate',
    ]);
  });

  test('while it is open it is run, and made anew in place', () => {
    expect(actions('open', [container('exited')])).toEqual(['start']);
    expect(actions('open', [container('running')])).toEqual([]);
    expect(actions('open', [container('running', { [label.spec]: 'old' })])).toEqual(['recreate']);
  });

  test('while it rests nothing is started, and what runs goes on', () => {
    expect(actions('resting', [container('exited')])).toEqual([]);
    expect(actions('resting', [container('running')])).toEqual([]);
  });

  test('what is not wanted any more goes when it has ended, or while its gate is open', () => {
    expect(actions('closed', [container('exited')], { wanted: [] })).toEqual(['remove']);
    expect(actions('closed', [container('running')], { wanted: [] })).toEqual([]);
    expect(actions('closed', [container('running')], { wanted: [], open: [lease] })).toEqual([
      'remove',
    ]);
  });

  test('what ran freely and becomes exclusive is replaced at once, the other way round by its old gate', () => {
    const { [label.lease]: _, ...free } = container('running').labels;
    const plain = { ...container('running'), labels: { ...free, [label.spec]: 'old' } };
    expect(actions('closed', [plain])).toEqual(['recreate']);
    const { exclusive: _gate, ...shared } = db;
    const wanted = [{ ...shared, spec: 's2' }];
    expect(actions('closed', [container('running')], { wanted })).toEqual([]);
    expect(actions('closed', [container('running')], { wanted, open: [lease] })).toEqual([
      'recreate',
    ]);
  });
});

describe('starting again', () => {
  const attempt = { epoch: 4, spec: 's1', startPeriodMs: 5_000 };

  test('at once after a long run, with growing pauses after short ones', () => {
    const restarts = new Restarts();
    expect(restarts.dueMs('db-0', attempt, 1_000)).toBeLessThanOrEqual(1_000);
    restarts.started('db-0', attempt, 1_000);
    expect(restarts.dueMs('db-0', attempt, 20_000)).toBe(20_000);
    restarts.started('db-0', attempt, 20_000);
    expect(restarts.dueMs('db-0', attempt, 20_100)).toBe(20_100 + restartPauseMsMin);
    // Asked again before it was started: nothing more has happened.
    expect(restarts.dueMs('db-0', attempt, 20_200)).toBe(20_100 + restartPauseMsMin);
    restarts.started('db-0', attempt, 21_000);
    expect(restarts.dueMs('db-0', attempt, 21_100)).toBe(21_100 + 2 * restartPauseMsMin);
  });

  test('given up after short runs in a row, and tried again under another epoch or description', () => {
    const restarts = new Restarts();
    for (let run = 0, nowMs = 0; run < shortRunsMax; run++, nowMs += 1_000) {
      restarts.started('db-0', attempt, nowMs);
      restarts.dueMs('db-0', attempt, nowMs + 10);
    }
    expect(restarts.dueMs('db-0', attempt, 9_000)).toBeNull();
    expect(restarts.failureOf('db-0', attempt)).toMatch(/3 times within 5000 ms/);
    expect(restarts.failureOf('db-0', { ...attempt, epoch: 5 })).toBeNull();
    expect(restarts.dueMs('db-0', { ...attempt, spec: 's2' }, 9_000)).toBeLessThanOrEqual(9_000);
  });

  test('what the engine refuses is given up at once; what was stopped on purpose has no past', () => {
    const restarts = new Restarts();
    restarts.refused('db-0', attempt, 'no such program');
    expect(restarts.failureOf('db-0', attempt)).toBe('no such program');
    restarts.forget('db-0');
    expect(restarts.dueMs('db-0', attempt, 5)).toBeLessThanOrEqual(5);
  });
});

test('what nobody has told is closed; what was told counts more than the view', () => {
  const gates = new Gates();
  const view = { instances: [{ ...db, exclusive: { ...db.exclusive, epoch: 3 } }] } as never;
  expect(gates.stateOf(lease)).toBe('closed');
  gates.setView(view);
  expect([gates.stateOf(lease), gates.epochOf(lease)]).toEqual(['open', 3]);
  gates.set(new Map([[lease, { epoch: 5, mayStart: false }]]));
  gates.setView(view);
  expect([gates.stateOf(lease), gates.epochOf(lease)]).toEqual(['resting', 5]);
  gates.set(new Map());
  expect(gates.isOpen(lease)).toBe(false);
});

test('a gate is spelled as the cgroup driver wants it', () => {
  expect(cgroupParentOf('trellis-x-1a-2b', 'cgroupfs')).toBe('/trellis-x-1a-2b');
  expect(cgroupParentOf('trellis-x-1a-2b', 'systemd')).toBe(
    String.raw`trellis\x2dx\x2d1a\x2d2b.slice`,
  );
});

test('an exclusive container is made in its gate, with its lease and its directories', () => {
  const options = createOptions(db, {
    view: { ...self, env: 'prod', advertise: '10.0.0.1' },
    network: 'n',
    address: '172.16.0.2',
    hostsFile: '/h',
    imageId: 'sha256:i',
    cgroupParent: '/trellis-x-cc-aa',
  });
  expect(options.HostConfig).toMatchObject({
    CgroupParent: '/trellis-x-cc-aa',
    RestartPolicy: { Name: 'no' },
    Mounts: [
      { Source: '/h', Target: '/etc/hosts', ReadOnly: true },
      { Source: '/run/l', Target: '/run/trellis/lease', ReadOnly: true },
      { Source: '/srv/db', Target: '/data', ReadOnly: false },
    ],
  });
  expect(options.Labels?.[label.lease]).toBe(lease);
});

test('a container is known from the list alone', () => {
  const info = {
    Id: 'id',
    Names: ['/trellis-cc-db-0'],
    Labels: {},
    State: 'running',
    Status: 'Up 3 minutes (health: starting)',
    Image: 'i',
    Created: 10,
    NetworkSettings: { Networks: { n: { IPAMConfig: { IPv4Address: '172.16.0.2' } } } },
  } as never;
  const first = toSeenListed(info, { network: 'n', before: undefined, wallMs: 50_000 });
  expect(first).toMatchObject({
    name: 'trellis-cc-db-0',
    state: 'running',
    isRunning: true,
    address: '172.16.0.2',
    engineHealth: 'starting',
    startedMs: 50_000,
  });
  const later = { network: 'n', before: first, wallMs: 60_000 };
  expect(toSeenListed(info, later).startedMs).toBe(50_000);
  const ended = { ...(info as object), State: 'exited', Status: 'Exited (137) 2 seconds ago' };
  expect(toSeenListed(ended as never, later)).toMatchObject({
    state: 'exited',
    isRunning: false,
    reason: 'EXITED: exit code 137',
    sinceMs: 60_000,
  });
});
