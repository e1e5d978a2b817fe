/** Laws of the docker plugin's decisions, over arbitrary engines. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { ClusterId, HostId, ObjectId } from '../../crdt/ids.ts';
import type { DesiredInstance } from '../../plugins/api.ts';
import { type Action, type Observed, type Wanted, diff } from '../../plugins/docker/diff.ts';
import { containerNameOf, isOurs, label } from '../../plugins/docker/labels.ts';

const self = { clusterId: 'c'.repeat(32) as ClusterId, hostId: 'a'.repeat(32) as HostId };
const instances = ['web-0', 'web-1', 'db-0', 'cache-0'];
const states = ['created', 'running', 'paused', 'restarting', 'removing', 'exited', 'dead'];

const wantedOf = (
  instance: string,
  options: { spec: string; isEnabled: boolean; bind: string },
): Wanted => ({
  bind: options.bind,
  instance: {
    service: instance.split('-')[0] ?? '',
    serviceId: '00' as ObjectId,
    slot: '0',
    instance,
    containerName: containerNameOf(self, instance),
    image: 'i',
    clusterImage: null,
    command: [],
    env: {},
    ports: [],
    resources: {},
    dependsOn: [],
    stopGraceMs: 1,
    isEnabled: options.isEnabled,
    restart: 'unless-stopped',
    spec: options.spec,
  } satisfies DesiredInstance,
});

const arbWanted = fc
  .uniqueArray(
    fc.record({
      instance: fc.constantFrom(...instances),
      spec: fc.constantFrom('s1', 's2'),
      bind: fc.constantFrom('b1', 'b2'),
      isEnabled: fc.boolean(),
    }),
    { selector: ({ instance }) => instance },
  )
  .map((list) => list.map(({ instance, ...options }) => wantedOf(instance, options)));

const arbLabels = fc.record(
  {
    [label.cluster]: fc.constantFrom<string>(
      self.clusterId,
      self.clusterId,
      self.clusterId,
      'other',
    ),
    [label.host]: fc.constantFrom<string>(self.hostId, self.hostId, self.hostId, 'other'),
    [label.instance]: fc.constantFrom(...instances, 'gone-0'),
    [label.spec]: fc.constantFrom('s1', 's2'),
    [label.bind]: fc.constantFrom('b1', 'b2'),
  },
  { requiredKeys: [] },
) as fc.Arbitrary<Record<string, string>>;

const arbContainers = fc
  .uniqueArray(
    fc.record({
      name: fc.constantFrom(
        ...instances.map((instance) => containerNameOf(self, instance)),
        containerNameOf(self, 'gone-0'),
        'foreign',
        'copy',
      ),
      labels: arbLabels,
      state: fc.constantFrom(...states),
    }),
    { selector: ({ name }) => name },
  )
  .map((list): Observed[] =>
    list.map(({ name, labels, state }) => ({ id: `id-${name}`, names: [name], labels, state })),
  );

const arbKeep = fc
  .uniqueArray(fc.constantFrom(...instances, 'gone-0'), { maxLength: 2 })
  .map((list) => new Set(list));
const arbInput = fc.record({ wanted: arbWanted, containers: arbContainers, keep: arbKeep });

/** What the engine would list after the action was done as it should be. */
function perform(containers: readonly Observed[], action: Action): Observed[] {
  const without = (id: string): Observed[] => containers.filter((container) => container.id !== id);
  const fresh = ({ instance, bind }: Wanted): Observed => ({
    id: `new-${instance.instance}`,
    names: [instance.containerName],
    labels: {
      [label.cluster]: self.clusterId,
      [label.host]: self.hostId,
      [label.instance]: instance.instance,
      [label.spec]: instance.spec,
      [label.bind]: bind,
    },
    state: instance.isEnabled ? 'running' : 'created',
  });
  switch (action.kind) {
    case 'create':
      return [...containers, fresh(action.wanted)];
    case 'recreate':
      return [...without(action.container.id), fresh(action.wanted)];
    case 'start':
    case 'unpause':
      return [...without(action.container.id), { ...action.container, state: 'running' }];
    case 'stop':
      return [...without(action.container.id), { ...action.container, state: 'exited' }];
    case 'remove':
      return without(action.container.id);
  }
}

const containerOf = (action: Action): Observed | null =>
  action.kind === 'create' ? null : action.container;

test('[trellis:P6] done once, there is nothing more to do', () => {
  fc.assert(
    fc.property(arbInput, ({ wanted, containers, keep }) => {
      const { actions } = diff({ self, wanted, keep, containers });
      const after = actions.reduce(perform, containers);
      expect(diff({ self, wanted, keep, containers: after }).actions).toEqual([]);
    }),
  );
});

test('[trellis:R5] nothing foreign and nothing kept is ever touched', () => {
  fc.assert(
    fc.property(arbInput, ({ wanted, containers, keep }) => {
      const { actions, foreign } = diff({ self, wanted, keep, containers });
      for (const action of actions) {
        const container = containerOf(action);
        if (container !== null) {
          expect(isOurs(container.labels, self)).toBe(true);
          expect(keep.has(container.labels[label.instance] ?? '')).toBe(false);
        }
        const instance =
          action.kind === 'remove'
            ? action.container.labels[label.instance]
            : action.wanted.instance.instance;
        expect(keep.has(instance ?? '')).toBe(false);
      }
      for (const { container } of foreign) expect(isOurs(container.labels, self)).toBe(false);
    }),
  );
});

test('[trellis:R2] what fits and runs is left alone; every wanted instance is dealt with exactly once', () => {
  fc.assert(
    fc.property(arbInput, ({ wanted, containers, keep }) => {
      const { actions, foreign } = diff({ self, wanted, keep, containers });
      const touched = actions.map(containerOf).filter((container) => container !== null);
      expect(new Set(touched.map(({ id }) => id)).size).toBe(touched.length);
      for (const one of wanted) {
        const { instance } = one;
        if (keep.has(instance.instance)) continue;
        const container = containers.find(({ names }) => names.includes(instance.containerName));
        const mine = actions.filter((action) => action.kind !== 'remove' && action.wanted === one);
        const isForeign = foreign.some((obstacle) => obstacle.wanted === one);
        expect(mine.length + (isForeign ? 1 : 0)).toBeLessThanOrEqual(1);
        const isFit =
          container !== undefined &&
          isOurs(container.labels, self) &&
          container.labels[label.instance] === instance.instance &&
          container.labels[label.spec] === instance.spec &&
          container.labels[label.bind] === one.bind &&
          container.state === 'running' &&
          instance.isEnabled;
        if (isFit)
          expect([
            ...mine,
            ...actions.filter((action) => containerOf(action)?.id === container.id),
          ]).toEqual([]);
        if (container === undefined) expect(mine.map(({ kind }) => kind)).toEqual(['create']);
      }
    }),
  );
});

test('what is ours and not wanted goes; what somebody made by hand for an instance that is not ours stays', () => {
  fc.assert(
    fc.property(arbInput, ({ wanted, containers, keep }) => {
      const { actions } = diff({ self, wanted, keep, containers });
      const removed = new Set(
        actions.flatMap((action) => (action.kind === 'remove' ? [action.container.id] : [])),
      );
      const names = new Map(
        wanted.map(({ instance }) => [instance.instance, instance.containerName]),
      );
      for (const { id, labels, names: own, state } of containers) {
        const instance = labels[label.instance] ?? '';
        if (!isOurs(labels, self) || keep.has(instance) || state === 'removing') continue;
        const isWanted = [...names.values()].some((name) => own.includes(name));
        const isByHand = !names.has(instance) && !own.includes(containerNameOf(self, instance));
        expect(removed.has(id)).toBe(!isWanted && !isByHand);
      }
    }),
  );
});
