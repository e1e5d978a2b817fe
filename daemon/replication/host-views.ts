/**
 * One host as everybody sees it: member record, what operators set, what it says of itself, and the one liveness.
 * Pure; planner, names, CLI and API all use this and nothing else.
 */
import { compareText } from '../../crdt/codec.ts';
import type { NodeId } from '../../crdt/ids.ts';
import type {
  HostFact,
  HostSettings,
  HostView,
  InventoryFact,
  Liveness,
} from '../../crdt/model.ts';
import type { MemberEntry } from './roster.ts';

export interface HostViewSources {
  readonly members: Iterable<MemberEntry>;
  settings(member: MemberEntry): HostSettings | null;
  fact(topic: string, owner: NodeId): unknown;
  liveness(node: NodeId): Liveness;
}

/**
 * Sorted by name, then id. Two hosts of one name: all but the lowest id get the start of their id appended, as much of it
 * as makes the name one of its own.
 */
export function buildHostViews(sources: HostViewSources): readonly HostView[] {
  const views = [...sources.members].map((member) => buildOne(member, sources));
  const byId = views.toSorted((a, b) => compareText(a.id, b.id));
  const firsts = new Map<string, string>();
  for (const { env, name, id } of byId)
    if (!firsts.has(`${env}/${name}`)) firsts.set(`${env}/${name}`, id);
  const taken = new Set(firsts.keys());
  return byId
    .map((view) => {
      if (firsts.get(`${view.env}/${view.name}`) === view.id) return view;
      const name = twinName(view, (candidate) => taken.has(`${view.env}/${candidate}`));
      taken.add(`${view.env}/${name}`);
      return { ...view, name };
    })
    .toSorted((a, b) => compareText(a.name, b.name) || compareText(a.id, b.id));
}

function twinName(view: HostView, isTaken: (name: string) => boolean): string {
  for (let digits = 4; digits < view.id.length; digits += 4) {
    const name = `${view.name}-${view.id.slice(0, digits)}`;
    if (!isTaken(name)) return name;
  }
  return `${view.name}-${view.id}`;
}

function buildOne(member: MemberEntry, sources: HostViewSources): HostView {
  const settings = sources.settings(member);
  const host = sources.fact('host', member.node) as Partial<HostFact> | null;
  const inventory = sources.fact('inventory', member.node) as Partial<InventoryFact> | null;
  const liveness = sources.liveness(member.node);
  return {
    id: member.host,
    node: member.node,
    name: settings?.name ?? member.record.name,
    env: member.record.env,
    roles: effectiveRoles(member.record.roles, settings?.roles ?? {}),
    meta: { ...member.record.meta, ...settings?.meta },
    liveness: host?.isLeaving === true && liveness !== 'alive' ? 'left' : liveness,
    isDrained: settings?.isDrained === true || host?.isDraining === true,
    capacity: capacityOf(inventory),
    address: addressOf(host?.advertise),
  };
}

/** In digits only: rules and address lines are made of it. */
function addressOf(text: unknown): string | null {
  return typeof text === 'string' && /^[0-9a-f.:]{2,45}$/i.test(text) ? text : null;
}

/** What the invite gave, overridden by operators. */
export function effectiveRoles(
  given: readonly string[],
  overrides: Readonly<Record<string, boolean>>,
): readonly string[] {
  const roles = new Set(given.filter((role) => overrides[role] !== false));
  for (const [role, isOn] of Object.entries(overrides)) if (isOn) roles.add(role);
  return [...roles].toSorted(compareText);
}

/** Memory in steps of 64 MiB: the total that a kernel reports moves a little with every update of it. */
function capacityOf(inventory: Partial<InventoryFact> | null): HostView['capacity'] {
  const cpu = inventory?.cpu?.count;
  const memoryBytes = inventory?.memory?.totalBytes;
  if (!isAmount(cpu) || !isAmount(memoryBytes)) return null;
  const step = 64 << 20;
  return { cpu, memoryBytes: Math.floor(memoryBytes / step) * step };
}

function isAmount(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0;
}
