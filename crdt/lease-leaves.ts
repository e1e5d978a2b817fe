/**
 * How something exclusive is held and which hosts it prefers, as leaves; services and storage share them:
 *
 * | leaf | value |
 * |---|---|
 * | /placement/policy /placement/hosts /placement/key | hosts is one atomic list of names |
 * | /placement/where/<key> | string |
 * | /lease/profile /lease/onLoss /lease/fence /lease/fenceCommand | fenceCommand is one atomic list |
 * | /lease/lockDelayMs /lease/onDaemonDown /lease/preemptAfterMs | absent preemptAfterMs: never |
 * | /lease/frozen | set by commands, never by files |
 */
import type { LeafSet, Reading } from './leaf-reading.ts';
import type { LeaseSettings, PlacementPolicy, Service } from './model.ts';

export type Placement = Service['placement'];
export type PlacementSpec = Partial<Placement>;
export type LeaseSpec = Partial<LeaseSettings>;

export const leaseDefaults: LeaseSettings = Object.freeze({
  profile: 'fast',
  onLoss: 'stop',
  fence: 'none',
  fenceCommand: [],
  lockDelayMs: 0,
  onDaemonDown: 'stay',
  preemptAfterMs: null,
  isFrozen: false,
});

export const placementDefault: Placement = Object.freeze({ policy: 'spread', where: {} });

export const leaseChoices = Object.freeze({
  profile: ['fast', 'wan', 'fenced'],
  onLoss: ['stop', 'freeze', 'keep'],
  fence: ['none', 'panic', 'watchdog', 'command'],
  onDaemonDown: ['stay', 'move'],
} as const);

/** For work that may run twice there are the first two; the others put candidates for a lease in order. */
export const policies: readonly PlacementPolicy[] = [
  'spread',
  'pack',
  'order',
  'load',
  'score',
  'sticky',
  'pinned',
  'location',
];

/** What `hosts` and `key` are for. */
export const policiesWithHosts: readonly PlacementPolicy[] = ['order', 'pinned'];
export const policiesWithKey: readonly PlacementPolicy[] = ['score', 'location'];

/** Parts of a pattern. */
export const leaseFileLeaves =
  'lease/(profile|onLoss|fence|fenceCommand|lockDelayMs|onDaemonDown|preemptAfterMs)';
export const placementFileLeaves = 'placement/(policy|hosts|key|where/[^/]+)';

export function leaseToLeaves(leaves: LeafSet, lease: LeaseSpec | undefined): void {
  if (lease === undefined) return;
  const fields = ['profile', 'onLoss', 'fence', 'lockDelayMs', 'onDaemonDown', 'preemptAfterMs'];
  leaves.setAll(['lease'], lease, fields);
  const { fenceCommand = [] } = lease;
  if (fenceCommand.length > 0) leaves.set('/lease/fenceCommand', fenceCommand);
  if (lease.isFrozen === true) leaves.set('/lease/frozen', true);
}

export function placementToLeaves(leaves: LeafSet, placement: PlacementSpec | undefined): void {
  leaves.setAll(['placement'], placement, ['policy', 'hosts', 'key']);
  const where = placement?.where ?? {};
  leaves.setAll(['placement', 'where'], where, Object.keys(where));
}

/** Undefined when nothing but defaults was set, so that saying a default is no difference. */
export function leaseOf(read: Reading): LeaseSettings | undefined {
  const lease: LeaseSettings = {
    profile: read.oneOf('/lease/profile', leaseChoices.profile) ?? leaseDefaults.profile,
    onLoss: read.oneOf('/lease/onLoss', leaseChoices.onLoss) ?? leaseDefaults.onLoss,
    fence: read.oneOf('/lease/fence', leaseChoices.fence) ?? leaseDefaults.fence,
    fenceCommand: read.texts('/lease/fenceCommand') ?? leaseDefaults.fenceCommand,
    lockDelayMs: read.number('/lease/lockDelayMs') ?? leaseDefaults.lockDelayMs,
    onDaemonDown:
      read.oneOf('/lease/onDaemonDown', leaseChoices.onDaemonDown) ?? leaseDefaults.onDaemonDown,
    preemptAfterMs: read.number('/lease/preemptAfterMs') ?? leaseDefaults.preemptAfterMs,
    isFrozen: read.flag('/lease/frozen') ?? leaseDefaults.isFrozen,
  };
  if (lease.fence === 'command' && lease.fenceCommand.length === 0)
    read.missing('/lease/fenceCommand');
  if (lease.fence === 'watchdog' && lease.profile !== 'fenced')
    read.refuse('/lease/fence is watchdog, which needs /lease/profile fenced');
  return saysMore(lease) || lease.isFrozen ? lease : undefined;
}

/** Does it differ from the defaults? A freeze is no opinion on the rest. */
export function saysMore(settings: LeaseSettings): boolean {
  const { isFrozen: _, fenceCommand, ...plain } = settings;
  return (
    fenceCommand.length > 0 ||
    Object.entries(plain).some(
      ([field, value]) => leaseDefaults[field as keyof LeaseSettings] !== value,
    )
  );
}

/** `hosts` and `key` that belong to another policy are left over from a concurrent edit and ignored. */
export function placementOf(read: Reading): Placement {
  const policy = read.oneOf('/placement/policy', policies) ?? placementDefault.policy;
  const hosts = read.texts('/placement/hosts');
  const key = read.text('/placement/key');
  return {
    policy,
    where: read.textMap('placement', 'where'),
    ...(hosts !== undefined && policiesWithHosts.includes(policy) ? { hosts } : {}),
    ...(key !== undefined && policiesWithKey.includes(policy) ? { key } : {}),
  };
}

/** `where` restricts, it does not order. */
export function isPlacementSaid({ policy, hosts, key }: Placement): boolean {
  return policy !== placementDefault.policy || hosts !== undefined || key !== undefined;
}
