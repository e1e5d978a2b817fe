/** Views of hosts and roles. */
import type { EditAnswer, HostDetails, HostRow, RoleRow } from '../operations/answers.ts';
import { ago, pairs, size, state, table } from './layout.ts';
import type { Style } from './terminal.ts';
import type { Views } from './views.ts';
import { editedText, instanceTable } from './view-parts.ts';

/** The parts of an inventory that people want first; all of it is in --json. */
interface Inventory {
  os?: { name?: string };
  kernel?: { release?: string };
  cpu?: { count?: number; model?: string };
  memory?: { totalBytes?: number };
}

export const hostViews: Views = {
  hostLs: (rows: readonly HostRow[], { style }) =>
    table(
      ['NAME', 'STATE', 'ROLES', 'ADDRESS', 'VERSION', 'SEEN', 'META'],
      rows.map((row) => [
        row.isSelf ? style.bold(row.name) : row.name,
        hostState(row, style),
        row.roles.join(','),
        row.addresses[0] ?? '',
        row.version ?? '',
        row.isSelf ? 'here' : ago(row.lastSeenMs),
        metaText(row.meta),
      ]),
      style,
    ),
  hostShow: (host: HostDetails, { style }) => {
    const inventory = (host.inventory ?? {}) as Inventory;
    const text = pairs(
      [
        ['name', host.name],
        ['state', hostState(host, style)],
        ['frozen', host.frozen ? 'yes: it takes nothing exclusive by itself' : ''],
        ['id', host.id],
        ['key', host.node],
        ['environment', host.env],
        ['roles', host.roles.join(', ')],
        ['meta', metaText(host.meta)],
        ['addresses', host.addresses.join(', ')],
        ['version', host.version ?? ''],
        ['engine', host.engine ?? ''],
        ['last seen', host.isSelf ? 'this host' : ago(host.lastSeenMs)],
        ['system', systemText(inventory)],
        ['processors', [inventory.cpu?.count, inventory.cpu?.model].filter(Boolean).join(' x ')],
        ['memory', sizeOrNothing(inventory.memory?.totalBytes)],
      ],
      style,
    );
    return host.instances.length === 0 ? text : `${text}\n${instanceTable(host.instances, style)}`;
  },
  hostRescan: (data: { host: string }) => `inventory of ${data.host} is taken anew`,
  hostWait: (data: { host: string; state: string; waitedMs: number }) =>
    `${data.host} is ${data.state} (${(data.waitedMs / 1000).toFixed(1)} s)`,
  roleLs: (rows: readonly RoleRow[], { style }) =>
    table(
      ['ROLE', 'HOSTS', 'MINIMUM', 'DEDICATED', 'SERVICES'],
      rows.map((row) => [
        row.exists ? row.name : `${row.name} (not created)`,
        hostCount(row, style),
        row.minHosts === 0 ? '' : String(row.minHosts),
        row.dedicated ? 'yes' : '',
        row.services.join(','),
      ]),
      style,
    ) || 'no roles',
  roleShow: (row: RoleRow, { style }) =>
    pairs(
      [
        ['role', row.name],
        ['hosts', `${row.hosts.join(', ')} (${row.live} alive)`],
        ['minimum', String(row.minHosts)],
        ['dedicated', row.dedicated ? 'yes' : 'no'],
        ['services', row.services.join(', ')],
      ],
      style,
    ),
  edited: (data: EditAnswer, { style }) => editedText(data, style),
};

function hostState(row: HostRow, style: Style): string {
  return `${state(row.state, style)}${row.spare ? style.dim(' (spare)') : ''}`;
}

function hostCount(row: RoleRow, style: Style): string {
  const text = `${row.live}/${row.hosts.length}`;
  return row.live < row.minHosts ? style.bad(text) : text;
}

function metaText(meta: HostRow['meta']): string {
  return Object.entries(meta)
    .map(([key, value]) => `${key}=${value}`)
    .join(' ');
}

function systemText(inventory: Inventory): string {
  const { release } = inventory.kernel ?? {};
  const kernel = release === undefined ? '' : `kernel ${release}`;
  return [inventory.os?.name ?? '', kernel].filter(Boolean).join(', ');
}

function sizeOrNothing(bytes: number | undefined): string {
  return bytes === undefined ? '' : size(bytes);
}
