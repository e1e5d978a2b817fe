import { describe, expect, test } from 'vitest';
import type { ClusterId, Hash, HostId, NodeId, SessionId } from '../../../crdt/ids.ts';
import type {
  EnvView,
  HostView,
  InstanceFact,
  Liveness,
  Plan,
  PlanInputs,
  Service,
  Storage,
} from '../../../crdt/model.ts';
import type { ServiceSpec } from '../../../crdt/service-leaves.ts';
import { defaultConfig } from '../../../daemon/config.ts';
import type { CommittedPlan, FactEntry } from '../../../daemon/node-api.ts';
import type { Holder } from '../../../daemon/plan/leases.ts';
import { noLeases, Planning } from '../../../daemon/plan/planning.ts';
import { reportedInstances } from '../../../daemon/plan/reported.ts';
import { SimCrypto } from '../../sim/sim-crypto.ts';
import { hostId, serviceOf, storageOf } from '../../property/plan/plan-arbitraries.ts';

const ids = [0, 1, 2, 3].map(hostId).toSorted();
const [lowest, second, third] = ids as [HostId, HostId, HostId];
const nodeOf = (id: HostId): NodeId => `${id}${id}` as NodeId;
const perRole = (n: number) => ({ count: { perRole: { min: n, max: n } } });

function hostView(id: HostId, changes: Partial<HostView> = {}): HostView {
  return {
    id,
    node: nodeOf(id),
    name: `h${ids.indexOf(id)}`,
    env: 'prod',
    roles: ['web'],
    meta: {},
    liveness: 'alive',
    isDrained: false,
    capacity: { cpu: 4, memoryBytes: 2 ** 32 },
    address: '10.0.0.1',
    ...changes,
  };
}

function instance(of: Service, changes: Partial<InstanceFact> = {}): InstanceFact {
  return {
    service: of.name,
    serviceId: of.id,
    slot: '0',
    instance: `${of.name}-0`,
    containerId: 'c',
    address: '172.18.0.2',
    state: 'running',
    health: 'none',
    image: of.image,
    spec: '',
    ports: [],
    sinceMs: 0,
    restarts: 0,
    ...changes,
  };
}

class World {
  hosts: HostView[];
  services: readonly Service[];
  autoApply: EnvView['autoApply'] = 'safe';
  committed: CommittedPlan | null = null;
  isMergePending = false;
  isRefusing = false;
  isDiskFull = false;
  /** Of this host's planner lease. */
  planEpoch: number | null = 3;
  readonly held = new Map<string, number>();
  readonly holders = new Map<string, Holder>();
  storage: readonly Storage[] = [];
  facts: FactEntry[] = [];
  readonly commits: { inputs: PlanInputs; plan: Plan; planEpoch: number }[] = [];
  readonly events: string[] = [];
  readonly planning: Planning;

  constructor(services: readonly Service[], self: HostId = lowest) {
    this.services = services;
    this.hosts = [hostView(lowest), hostView(second)];
    this.planning = new Planning({
      clusterId: 'ab'.repeat(16) as ClusterId,
      config: defaultConfig,
      crypto: new SimCrypto(),
      self,
      env: () => 'prod',
      envView: () => ({
        env: 'prod',
        roles: new Map(),
        services: new Map(this.services.map((one) => [one.name, one])),
        hosts: new Map(),
        images: new Map(),
        numbers: new Map(),
        storage: new Map(this.storage.map((one) => [one.name, one])),
        autoApply: this.autoApply,
        voters: null,
        isFrozen: false,
        problems: [],
      }),
      hosts: () => this.hosts,
      committed: () => this.committed,
      isMergePending: () => this.isMergePending,
      isRefusing: () => this.isRefusing,
      facts: () => this.facts,
      hasLivePeer: () => true,
      hasGateway: () => true,
      leases: {
        ...noLeases,
        held: () => this.held,
        holders: () => this.holders,
        plannerLease: () => this.planEpoch,
      },
      reach: (host) => ({ address: `10.0.0.${ids.indexOf(host)}`, apiPort: 8443 }),
      commit: (proposal) => {
        this.commits.push(proposal);
        if (this.isDiskFull) return;
        this.commit(proposal.inputs, proposal.plan);
      },
      emit: (event) => this.events.push(event.kind),
    });
    const inputs = this.planning.inputs();
    this.commit(inputs, this.planning.compute(inputs));
  }

  commit(inputs: PlanInputs, plan: Plan): void {
    const pointerHash = `${this.commits.length}`.padStart(64, '0') as Hash;
    const pointer = {
      env: 'prod',
      planEpoch: 0,
      seq: 1,
      inputHash: pointerHash,
      inputBlob: pointerHash,
      blob: pointerHash,
      author: { session: '' as SessionId },
      after: '' as const,
      past: [],
      decided: null,
      heads: {},
    };
    this.committed = { pointer, pointerHash, plan, inputs, isAccepted: true };
  }

  /** Lets the quiet time pass; how many plans were committed meanwhile. */
  quiet(fromMs = 0): number {
    const before = this.commits.length;
    for (const atMs of [fromMs, fromMs + 1_999, fromMs + 2_000, fromMs + 10_000])
      this.planning.evaluate(atMs);
    return this.commits.length - before;
  }

  live(id: HostId, liveness: Liveness): void {
    this.hosts = this.hosts.map((host) => (host.id === id ? { ...host, liveness } : host));
  }

  report(owner: HostId, instances: readonly unknown[]): void {
    this.facts = this.facts.filter((fact) => fact.owner !== nodeOf(owner));
    this.facts.push({
      owner: nodeOf(owner),
      topic: 'docker',
      ageMs: 0,
      value: { engine: { state: 'ok' }, instances },
    });
  }

  places(): readonly string[] {
    const { placements = [] } = this.committed?.plan ?? {};
    return placements.map((one) => `${one.serviceName}-${one.slot}@${ids.indexOf(one.host)}`);
  }
}

describe('automatic planning', () => {
  test('a new host is planned after a quiet moment, with the services of the committed plan', () => {
    const everywhere = { count: { perHost: { min: 1, max: 1 } } };
    const world = new World([serviceOf(0, everywhere)]);
    expect(world.quiet()).toBe(0);
    world.services = [serviceOf(0, { ...everywhere, image: 'edited' })];
    world.hosts = [...world.hosts, hostView(third)];
    world.planning.evaluate(20_000);
    expect(world.planning.nextDeadlineMs()).toBe(22_000);
    world.planning.evaluate(21_999);
    expect(world.commits).toHaveLength(0);
    world.planning.evaluate(22_000);
    expect(world.commits).toHaveLength(1);
    expect(world.committed?.inputs.services.map((one) => one.image)).toEqual(['i']);
    expect(world.places()).toHaveLength(3);
    expect(world.quiet(30_000)).toBe(0);
  });

  test('a role that is given brings instances of it, one taken away removes them [trellis:P9]', () => {
    const everywhere = serviceOf(0, { count: { perHost: { min: 1, max: 1 } } });
    const world = new World([everywhere]);
    world.hosts = [...world.hosts, hostView(third, { roles: [] })];
    expect(world.quiet()).toBe(0);
    world.hosts = world.hosts.map((host) => ({ ...host, roles: ['web'] }));
    expect(world.quiet(20_000)).toBe(1);
    expect(world.places()).toHaveLength(3);
    world.hosts = world.hosts.map((host) => (host.id === second ? { ...host, roles: [] } : host));
    expect(world.quiet(40_000)).toBe(1);
    expect(world.places()).toHaveLength(2);
    expect(world.events).toEqual(['plan.automatic', 'plan.automatic']);
  });

  test('a drain moves what may move; each change starts the quiet time anew', () => {
    const world = new World([serviceOf(0, { ...perRole(2), relocatable: 'yes' })]);
    world.hosts = world.hosts.map((host) => ({ ...host, isDrained: host.id === second }));
    world.planning.evaluate(0);
    world.hosts = world.hosts.map((host) => ({ ...host, meta: { rack: 'b' } }));
    world.planning.evaluate(1_900);
    world.planning.evaluate(3_800);
    expect(world.commits).toHaveLength(0);
    world.planning.evaluate(3_900);
    expect(world.commits).toHaveLength(1);
    expect(new Set(world.committed?.plan.placements.map((one) => one.host))).toEqual(
      new Set([lowest]),
    );
  });

  test('a plan that could not be committed is tried again a minute later', () => {
    const world = new World([serviceOf(0, { count: { perHost: { min: 1, max: 1 } } })]);
    world.hosts = [...world.hosts, hostView(third)];
    world.isDiskFull = true;
    expect(world.quiet()).toBe(1);
    expect(world.planning.nextDeadlineMs()).toBe(62_000);
    world.isDiskFull = false;
    world.planning.evaluate(61_999);
    expect(world.places()).toHaveLength(2);
    world.planning.evaluate(62_000);
    expect(world.places()).toHaveLength(3);
    expect(world.quiet(70_000)).toBe(0);
  });

  test('liveness alone commits nothing: that is failover', () => {
    const world = new World([serviceOf(0, perRole(4))]);
    for (const [at, liveness] of (['suspect', 'dead', 'alive'] as const).entries()) {
      world.live(second, liveness);
      expect(world.quiet(20_000 * (at + 1))).toBe(0);
    }
  });

  test('[trellis:P8] the holder of the planner lease commits under its epoch, and nobody else', () => {
    const other = new World([serviceOf(0, { count: { perHost: { min: 1, max: 1 } } })], second);
    other.hosts = [...other.hosts, hostView(third)];
    other.planEpoch = null;
    expect(other.quiet()).toBe(0);
    other.live(lowest, 'dead');
    expect(other.quiet(20_000)).toBe(0);
    other.planEpoch = 7;
    expect(other.quiet(40_000)).toBe(1);
    expect(other.commits[0]?.planEpoch).toBe(7);
    other.planEpoch = null;
    other.hosts = [...other.hosts, hostView(ids[3] as HostId)];
    expect(other.quiet(60_000)).toBe(0);
    // Who refuses a plan is the only one who knows: it keeps the highest epoch it has heard of.
    other.isRefusing = true;
    expect(other.quiet(80_000)).toBe(1);
    expect(other.commits[1]?.planEpoch).toBe(0);
  });

  test('after two operators the merged document is planned, also where places stay the same', () => {
    const world = new World([serviceOf(0, perRole(1))]);
    world.services = [serviceOf(0, perRole(1)), serviceOf(1, perRole(1))];
    expect(world.quiet()).toBe(0);
    world.isMergePending = true;
    expect(world.quiet(20_000)).toBeGreaterThanOrEqual(1);
    expect(world.committed?.inputs.services.map((one) => one.name)).toEqual(['s0', 's1']);
  });

  test('autoApply off leaves everything to people, and without any plan there is nothing to follow', () => {
    const world = new World([serviceOf(0, { count: { perHost: { min: 1, max: 1 } } })]);
    world.hosts = [...world.hosts, hostView(third)];
    world.autoApply = 'off';
    world.isMergePending = true;
    expect(world.quiet()).toBe(0);
    world.autoApply = 'safe';
    world.committed = null;
    expect(world.quiet(20_000)).toBe(0);
    expect(world.planning.view('10.0.0.1', 0)).toBeNull();
  });
});

describe('instances that move', () => {
  test('stay until their successor is healthy, and two minutes at most', () => {
    const site = serviceOf(0, perRole(1));
    const world = new World([site]);
    const plan = world.committed?.plan as Plan;
    const moved = { ...plan, placements: plan.placements.map((one) => ({ ...one, host: second })) };
    world.commit(world.committed?.inputs as PlanInputs, moved);
    world.report(lowest, [instance(site)]);
    world.planning.evaluate(0);
    expect(world.planning.keep(0)).toEqual(['s0-0']);
    world.report(second, [instance(site, { health: 'starting' })]);
    expect(world.planning.keep(1_000)).toEqual(['s0-0']);
    expect(world.planning.keep(119_999)).toEqual(['s0-0']);
    expect(world.planning.keep(120_000)).toEqual([]);
    world.report(second, [instance(site, { health: 'healthy' })]);
    expect(world.planning.keep(121_000)).toEqual([]);
  });
});

describe('what is exclusive', () => {
  const lease = `service/prod/${serviceOf(0, {}).id}`;
  const db = (more: Partial<ServiceSpec> = {}) => serviceOf(0, { isExclusive: true, ...more });
  const states = (world: World) =>
    world.planning
      .view('10.0.0.9', 0)
      ?.instances.map(({ instance, exclusive }) => [instance, exclusive?.epoch ?? null]);

  test('[trellis:P8] is made ready on every candidate, and runs where the lease is held', () => {
    for (const self of [lowest, second]) {
      const world = new World([db()], self);
      expect(world.places()).toHaveLength(1);
      world.planning.evaluate(0);
      expect(states(world)).toEqual([['s0-0', null]]);
      world.holders.set(lease, { host: self, epoch: 4 });
      expect(states(world)).toEqual([['s0-0', null]]);
      world.held.set(lease, 4);
      expect(states(world)).toEqual([['s0-0', 4]]);
    }
  });

  test('[trellis:P8] no death moves it without its lease, and the effective place is the holder', () => {
    const world = new World([db()], second);
    const home = world.planning.effective()[0]?.host;
    const elsewhere = home === lowest ? second : lowest;
    world.live(lowest, 'dead');
    for (const at of [0, 10_000, 600_000]) world.planning.evaluate(at);
    expect(world.planning.own().map(({ host }) => host)).toEqual([second]);
    expect(states(world)).toEqual([['s0-0', null]]);
    expect(world.events).toEqual([]);
    world.report(second, [instance(db())]);
    expect(world.planning.effective()[0]?.host).toBe(home);
    world.holders.set(lease, { host: elsewhere, epoch: 2 });
    expect(world.planning.effective()[0]?.host).toBe(elsewhere);
    expect(world.planning.keep(0)).toEqual([]);
  });

  test('a host that loses the role keeps it ready only while it holds it', () => {
    const world = new World([db()], second);
    world.hosts = [hostView(lowest), hostView(second, { roles: [] })];
    const inputs = world.planning.inputs();
    world.commit(inputs, world.planning.compute(inputs));
    world.planning.evaluate(0);
    expect(world.planning.own()).toEqual([]);
    world.held.set(lease, 1);
    expect(world.planning.evaluate(1)).toBe(true);
    expect(world.planning.own()).toHaveLength(1);
  });

  test('[trellis:P36] storage is given to those who may have it active, with its holder', () => {
    const world = new World([db({ follows: 'd0' })], second);
    world.storage = [storageOf(0), storageOf(1, { role: 'other' })];
    const inputs = world.planning.inputs();
    world.commit(inputs, world.planning.compute(inputs));
    world.planning.evaluate(0);
    const name = `storage/prod/${storageOf(0).id}`;
    world.holders.set(name, { host: lowest, epoch: 3 });
    const view = () => world.planning.view('10.0.0.9', 0);
    expect(view()?.storage).toMatchObject([
      {
        id: storageOf(0).id,
        name: 'd0',
        driver: 'local',
        path: '/srv/d0',
        lease: name,
        epoch: null,
        active: { host: lowest, address: '10.0.0.0', apiPort: 8443, epoch: 3 },
      },
    ]);
    world.held.set(name, 4);
    expect(view()?.storage?.[0]).toMatchObject({ epoch: 4, active: null });
    expect(view()?.instances[0]).toMatchObject({
      isEnabled: true,
      exclusive: { lease: name, epoch: 4 },
      mounts: [{ source: '/srv/d0', target: '/srv/d0', isReadOnly: false }],
    });
  });

  test('what decides leases is what was committed, with hosts as alive as they are', () => {
    const world = new World([db()]);
    world.hosts = [...world.hosts, hostView(third)];
    expect(world.planning.leaseInputs()?.hosts).toHaveLength(2);
    const before = world.planning.leaseInputs();
    expect(world.planning.leaseInputs()).toBe(before);
    world.live(second, 'dead');
    expect(world.planning.leaseInputs()?.hosts.map(({ isAlive }) => isAlive)).toEqual([
      true,
      false,
    ]);
  });

  test('[trellis:P5] storage that went while a service follows it stays as it was committed', () => {
    const world = new World([db({ follows: 'd0' })]);
    world.storage = [storageOf(0)];
    const inputs = world.planning.inputs();
    world.commit(inputs, world.planning.compute(inputs));
    world.storage = [];
    expect(world.planning.desired().storage).toEqual([storageOf(0)]);
    world.services = [db({ follows: 'd0', image: 'new' })];
    expect(world.planning.desired().services[0]?.image).toBe('i');
    world.services = [db({ follows: 'gone' })];
    expect(world.planning.desired().services[0]?.follows).toBe('d0');
    world.services = [serviceOf(7, { follows: 'gone' })];
    expect(world.planning.desired()).toMatchObject({ services: [] });
    expect(world.planning.desired()).not.toHaveProperty('storage');
  });

  test('a freeze changes no plan', () => {
    const world = new World([db({ lease: { profile: 'wan' } })]);
    const before = world.planning.desired();
    world.services = [db({ lease: { profile: 'wan', isFrozen: true } })];
    expect(world.planning.desired()).toEqual(before);
    world.services = [db({ lease: { isFrozen: true } })];
    expect(world.planning.desired().services[0]).not.toHaveProperty('lease');
  });
});

describe('what hosts report', () => {
  const site = serviceOf(0, perRole(1));

  test.each<[string, unknown]>([
    ['nothing', null],
    ['a number', 5],
    ['no list', { instances: 'x' }],
    ['holes', { instances: [null, undefined, 5, 'x', []] }],
    ['an instance without a slot', { instances: [{ ...instance(site), slot: undefined }] }],
    ['an unknown state', { instances: [{ ...instance(site), state: 'flying' }] }],
    ['an unknown health', { instances: [{ ...instance(site), health: 7 }] }],
  ])('%s is as if it had not been said, and ends no daemon', (_, value) => {
    expect(reportedInstances(value)).toEqual([]);
    const world = new World([site]);
    world.facts = [{ owner: nodeOf(second), topic: 'docker', ageMs: 0, value }];
    world.planning.evaluate(0);
    expect(world.planning.view('10.0.0.1', 0)).not.toBeNull();
    expect(world.planning.keep(0)).toEqual([]);
    expect(world.planning.effective()).toHaveLength(1);
  });

  test('an address is digits or none', () => {
    const addressOf = (address: unknown): unknown =>
      reportedInstances({ instances: [{ ...instance(site), address }] })[0]?.address;
    expect(addressOf('172.18.0.2')).toBe('172.18.0.2');
    expect(addressOf('fd00::2')).toBe('fd00::2');
    for (const bad of ['172.18.0.256', '1.2.3', 'host', '10.0.0.1\n-A INPUT', '10.0.0.1 ', 5, null])
      expect(addressOf(bad)).toBeNull();
  });

  test('of a dead host says nothing about now; the effective place of its slot is where it runs', () => {
    const world = new World([site], third);
    world.hosts = [hostView(lowest), hostView(second), hostView(third)];
    const plan = world.committed?.plan as Plan;
    const placements = plan.placements.map((one) => ({ ...one, host: lowest }));
    world.commit(world.committed?.inputs as PlanInputs, { ...plan, placements });
    world.live(lowest, 'dead');
    world.report(lowest, [instance(site)]);
    expect(world.planning.effective()[0]?.host).toBe(lowest);
    world.report(second, [instance(site)]);
    expect(world.planning.effective()[0]?.host).toBe(second);
  });
});
