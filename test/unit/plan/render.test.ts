import { describe, expect, test } from 'vitest';
import type { ClusterId } from '../../../crdt/ids.ts';
import type { Placement, Role, Service } from '../../../crdt/model.ts';
import type { ServiceSpec } from '../../../crdt/service-leaves.ts';
import { servicesToPlan } from '../../../daemon/plan/inputs.ts';
import { eligibilityOf } from '../../../daemon/plan/eligibility.ts';
import { renderView } from '../../../daemon/plan/render.ts';
import type { LiveInstance, RenderInput } from '../../../daemon/plan/render.ts';
import {
  hostId,
  hostOf,
  inputsOf,
  roleOf,
  serviceId,
  serviceOf,
  sha256,
  storageOf,
} from '../../property/plan/plan-arbitraries.ts';

const http = [{ name: 'http', container: 80 }];

function placementOf(service: Service, slot = '0'): Placement {
  return { service: service.id, serviceName: service.name, slot, host: hostId(0) };
}

function live(service: string, host: number, more: Partial<LiveInstance> = {}): LiveInstance {
  return {
    service,
    slot: String(host),
    host: hostId(host),
    hostAddress: `10.0.0.${host}`,
    address: `172.31.0.${host + 2}`,
    isRunning: true,
    isHealthy: true,
    isSuspect: false,
    isDead: false,
    isPlanned: true,
    ...more,
  };
}

function view(specs: Partial<ServiceSpec>[], more: Partial<RenderInput> = {}) {
  const services = specs.map((spec, n) => serviceOf(n, spec));
  const numbers = services.flatMap((service) =>
    service.ports.map((port, i) => [`${service.name}/${port.name}`, 20_000 + i] as const),
  );
  return renderView({
    clusterId: 'c'.repeat(32) as ClusterId,
    env: 'prod',
    self: { id: hostId(0), name: 'h0', meta: { dc: 'east' }, advertise: '10.0.0.0' },
    placements: services.map((service) => placementOf(service)),
    inputs: inputsOf(services, [hostOf(0), hostOf(1)], { numbers }),
    storage: [],
    keep: [],
    live: [],
    held: new Map(),
    holders: new Map(),
    leaseRoot: '/run/t/guard/lease',
    reach: () => null,
    sha256,
    ...more,
  });
}

describe('what a host is given to run', () => {
  test('templates become names, numbers and metadata', () => {
    const env = {
      URL: 'http://{{services.s1.host}}:{{services.s1.ports.http}}/',
      HERE: '{{host.name}}/{{host.meta.dc}}/{{host.meta.none}}',
      FORMAT: '{{.Names}}',
    };
    const [, consumer] = view([
      { env, command: ['run', '{{services.s1.host}}'], dependsOn: [{ service: 's1' }] },
      { ports: http },
    ]).instances;
    expect(consumer).toMatchObject({
      instance: 's0-0',
      containerName: 'trellis-cccccccc-s0-0',
      env: { URL: 'http://s1.prod.internal:20000/', HERE: 'h0/east/', FORMAT: '{{.Names}}' },
      command: ['run', 's1.prod.internal'],
      restart: 'unless-stopped',
    });
  });

  test('dependencies start first, circles do not hang', () => {
    const order = (specs: Partial<ServiceSpec>[]) =>
      view(specs).instances.map((one) => one.service);
    expect(
      order([{ dependsOn: [{ service: 's1' }] }, { dependsOn: [{ service: 's2' }] }, {}]),
    ).toEqual(['s2', 's1', 's0']);
    expect(
      order([{ dependsOn: [{ service: 's1' }] }, { dependsOn: [{ service: 's0' }] }]),
    ).toHaveLength(2);
  });

  test('[trellis:R5] the spec changes with what shapes the container and with nothing else', () => {
    const spec = (more: Partial<ServiceSpec>, input: Partial<RenderInput> = {}) =>
      view([{ ports: http, ...more }], input).instances[0]?.spec;
    const base = spec({});
    expect(spec({ isEnabled: false })).toBe(base);
    expect(spec({ count: { perRole: { min: 3, max: 3 } } })).toBe(base);
    expect(spec({ stopGraceMs: 1 })).toBe(base);
    expect(spec({}, { live: [live('s0', 1)] })).toBe(base);
    for (const more of [
      { image: 'j' },
      { env: { A: '1' } },
      { command: ['x'] },
      { restarts: 1 },
      { resources: { cpu: 1 } },
    ]) {
      expect(spec(more)).not.toBe(base);
    }
  });

  test('an address restarts its consumer only where onChange says so', () => {
    const render = (onChange: 'restart' | 'none', host: number) => {
      const env = { AT: '{{services.s1.address}}' };
      const specs = [{ env, dependsOn: [{ service: 's1', onChange }] }, {}];
      return view(specs, { live: [live('s1', host)] }).instances.find(
        (one) => one.service === 's0',
      );
    };
    expect(render('restart', 1)?.env).toEqual({ AT: '10.0.0.1' });
    expect(render('restart', 1)?.spec).not.toBe(render('restart', 2)?.spec);
    expect(render('none', 1)?.spec).toBe(render('none', 2)?.spec);
  });
});

describe('where a service is reached', () => {
  const routeOf = (instances: LiveInstance[]) =>
    view([{ ports: http }], { live: instances }).routes[0]?.ports[0];

  test('containers here, advertised addresses elsewhere, sorted', () => {
    const route = routeOf([live('s0', 2), live('s0', 1), live('s0', 0)]);
    expect(route).toMatchObject({
      number: 20_000,
      container: 80,
      local: ['172.31.0.2'],
      remote: ['10.0.0.1', '10.0.0.2'],
    });
  });

  test('[trellis:R8] a suspected host gets no traffic while another is there', () => {
    const suspected = live('s0', 2, { isSuspect: true });
    expect(routeOf([suspected, live('s0', 1)])?.remote).toEqual(['10.0.0.1']);
    expect(routeOf([suspected])?.remote).toEqual(['10.0.0.2']);
  });

  test('[trellis:R3] a dead host gets traffic only where nothing else is: perhaps only its daemon died', () => {
    const dead = live('s0', 2, { isDead: true });
    expect(routeOf([dead, live('s0', 1, { isHealthy: false, isPlanned: false })])?.remote).toEqual([
      '10.0.0.1',
    ]);
    expect(routeOf([dead])?.remote).toEqual(['10.0.0.2']);
  });

  test('the way in is open before others are told to use it [coreos:A31]', () => {
    const coming = live('s0', 0, { isRunning: false, isHealthy: false });
    const route = routeOf([coming, live('s0', 1)]);
    expect([route?.local, route?.remote, route?.inbound]).toEqual([
      [],
      ['10.0.0.1'],
      ['172.31.0.2'],
    ]);
    const unwell = live('s0', 0, { isHealthy: false });
    expect(routeOf([unwell, live('s0', 1)])?.inbound).toEqual(['172.31.0.2']);
  });

  test('healthy before unwell, planned before successors, anything before nothing', () => {
    const remote = (...instances: LiveInstance[]) => routeOf(instances)?.remote;
    expect(remote(live('s0', 1), live('s0', 2, { isHealthy: false }))).toEqual(['10.0.0.1']);
    expect(remote(live('s0', 1), live('s0', 2, { isPlanned: false }))).toEqual(['10.0.0.1']);
    expect(
      remote(live('s0', 1, { isHealthy: false }), live('s0', 2, { isPlanned: false })),
    ).toEqual(['10.0.0.2']);
    expect(remote(live('s0', 1, { isHealthy: false }))).toEqual(['10.0.0.1']);
    expect(remote()).toEqual([]);
  });
});

describe('what runs under a lease', () => {
  const lease = `service/prod/${serviceId(0)}`;
  const spec = { isExclusive: true as const, ports: http };
  const held = (epoch: number) => ({ held: new Map([[lease, epoch]]) });
  const said = (host: number, epoch: number) => ({
    holders: new Map([[lease, { host: hostId(host), epoch }]]),
  });

  test('[trellis:P8] waits in its gate until the lease is held here', () => {
    const gate = `trellis-x-cccccccc-${serviceId(0).slice(0, 12)}-${hostId(0).slice(0, 6)}`;
    expect(view([spec]).instances[0]).toMatchObject({
      // It is started when its gate opens, which is before a view can say that the lease is held.
      isEnabled: true,
      restart: 'no',
      exclusive: { lease, gate, leaseDir: `/run/t/guard/lease/${gate}`, epoch: null },
    });
    expect(view([spec], held(5)).instances[0]).toMatchObject({
      isEnabled: true,
      exclusive: { epoch: 5 },
    });
    expect(view([{ ...spec, isEnabled: false }], held(5)).instances[0]).toMatchObject({
      isEnabled: false,
      exclusive: { epoch: 5 },
    });
    const plain = view([{ ports: http }]).instances[0];
    expect(plain).toMatchObject({ restart: 'unless-stopped', isEnabled: true });
    expect(plain).not.toHaveProperty('exclusive');
    expect(plain).not.toHaveProperty('mounts');
  });

  test('[trellis:R5] the spec knows lease and gate, not the epoch', () => {
    const specOf = (more: Partial<RenderInput>) => view([spec], more).instances[0]?.spec;
    expect(specOf(held(5))).toBe(specOf({}));
    expect(specOf(held(6))).toBe(specOf(said(1, 9)));
    expect(specOf({ leaseRoot: '/elsewhere' })).not.toBe(specOf({}));
    expect(view([{ ports: http }]).instances[0]?.spec).not.toBe(specOf({}));
  });

  test('[trellis:P8] traffic goes to the holder of the highest epoch and to nobody else', () => {
    const all = [live('s0', 0), live('s0', 1), live('s0', 2)];
    const to = (more: Partial<RenderInput>) => {
      const route = view([spec], { live: all, ...more }).routes[0]?.ports[0];
      return [route?.local, route?.remote, route?.inbound];
    };
    const here = '172.31.0.2';
    expect(to({})).toEqual([[], [], []]);
    expect(to(said(1, 4))).toEqual([[], ['10.0.0.1'], []]);
    // What was said of us counts only while our own guard holds it.
    expect(to(said(0, 4))).toEqual([[], [], []]);
    expect(to(held(4))).toEqual([[here], [], [here]]);
    expect(to({ ...held(5), ...said(1, 4) })).toEqual([[here], [], [here]]);
    expect(to({ ...held(4), ...said(1, 5) })).toEqual([[], ['10.0.0.1'], []]);
    const stopped = [live('s0', 1, { isRunning: false }), live('s0', 2)];
    expect(to({ live: stopped, ...said(1, 4) })).toEqual([[], [], []]);
    const gone = [live('s0', 1, { isDead: true, isHealthy: false }), live('s0', 2)];
    expect(to({ live: gone, ...said(1, 4) })).toEqual([[], ['10.0.0.1'], []]);
  });

  test('[trellis:P20] its address is the holder’s', () => {
    const env = { AT: '{{services.s0.address}}' };
    const consumer = { env, dependsOn: [{ service: 's0', onChange: 'restart' as const }] };
    const all = [live('s0', 1), live('s0', 2)];
    const addressAt = (more: Partial<RenderInput>) =>
      view([spec, consumer], { live: all, ...more }).instances.find((one) => one.service === 's1')
        ?.env['AT'];
    expect(addressAt(said(2, 1))).toBe('10.0.0.2');
    expect(addressAt({})).toBe('s0.prod.internal');
  });

  test('[trellis:P36] what follows storage has its lease, its directory and its holder', () => {
    const storage = [storageOf(0), storageOf(1, { isExclusive: false })];
    const services = [serviceOf(0, { follows: 'd0' }), serviceOf(1, { follows: 'd1' })];
    const name = `storage/prod/${storageOf(0).id}`;
    const render = (more: Partial<RenderInput>) =>
      view([], {
        storage,
        inputs: inputsOf(services, [hostOf(0)], { storage }),
        placements: services.map((service) => placementOf(service)),
        reach: (host) => ({ address: host === hostId(1) ? '10.0.0.1' : '', apiPort: 8443 }),
        ...more,
      });
    const mount = (path: string) => [{ source: path, target: path, isReadOnly: false }];
    const { instances, storage: mine } = render({ held: new Map([[name, 3]]) });
    expect(instances).toMatchObject([
      { instance: 's0-0', exclusive: { lease: name, epoch: 3 }, mounts: mount('/srv/d0') },
      { instance: 's1-0', restart: 'unless-stopped', mounts: mount('/srv/d1') },
    ]);
    expect(instances[1]).not.toHaveProperty('exclusive');
    expect(mine).toMatchObject([
      { name: 'd0', lease: name, epoch: 3, active: null },
      { name: 'd1', lease: null, epoch: null, active: null },
    ]);
    const passive = render({ holders: new Map([[name, { host: hostId(1), epoch: 4 }]]) });
    expect(passive.storage?.[0]).toMatchObject({
      epoch: null,
      active: { host: hostId(1), address: '10.0.0.1', apiPort: 8443, epoch: 4 },
    });
    expect(view([{}])).not.toHaveProperty('storage');
  });
});

test('a service that cannot be read stays as the plan has it, until its name is another’s', () => {
  const [readable, poisoned] = [serviceOf(0, {}), serviceOf(1, {})];
  const problems = [{ kind: 'poison' as const, object: poisoned.id, detail: '' }];
  const names = (services: Service[], committed: Service[]) =>
    servicesToPlan(
      { services: new Map(services.map((one) => [one.name, one])), problems },
      committed,
    ).map((one) => one.id);
  expect(names([readable], [readable, poisoned])).toEqual([readable.id, poisoned.id]);
  expect(names([readable], [readable])).toEqual([readable.id]);
  expect(names([readable, serviceOf(5, { name: 's1' })], [readable, poisoned])).not.toContain(
    poisoned.id,
  );
});

test('a dedicated host carries no other role, in failover as in the plan', () => {
  const roles: Role[] = [roleOf('lb', { isDedicated: true })];
  const host = hostOf(0, { roles: ['lb', 'web'] });
  expect(eligibilityOf(roles)(serviceOf(0, {}), host)).toBe(false);
  expect(eligibilityOf(roles)(serviceOf(0, { role: 'lb' }), host)).toBe(true);
  expect(eligibilityOf([])(serviceOf(0, {}), host)).toBe(true);
});
