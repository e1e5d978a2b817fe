/** Views of init, invite, join, leave, login and their like. */
import { pairs, table, when } from './layout.ts';
import type { Views } from './views.ts';

interface InitData {
  clusterId: string;
  name: string;
  env: string;
  operator: string;
  hostName: string;
  passphrase?: string;
  recovery?: string;
  recoveryFile?: string;
}

interface InviteData {
  id: string;
  command: string;
  expiresAt: string | number;
}

interface InviteRow {
  id: string;
  env: string;
  roles: readonly string[];
  uses: number;
  used?: number;
  expiresAt: string | number;
  state?: string;
}

export const clusterViews: Views = {
  init: (data: InitData, { style }) => {
    const lines = [`Cluster ${style.bold(data.name)} is made; this host is ${data.hostName}.`];
    lines.push(
      pairs(
        [
          ['cluster', data.clusterId],
          ['environment', data.env],
          ['operator', `${data.operator}, logged in here`],
          ['recovery key', data.recoveryFile === undefined ? '' : `in ${data.recoveryFile}`],
        ],
        style,
      ).trimEnd(),
    );
    if (data.passphrase !== undefined) {
      lines.push('', style.warn('Passphrase, shown only now:'), `  ${data.passphrase}`);
    }
    if (data.recovery !== undefined) {
      lines.push('', style.warn('Recovery key, shown only now; keep it away from the cluster:'));
      lines.push(data.recovery.trimEnd());
    }
    lines.push('', 'Next: `trellis invite` prints the line for another host.');
    return lines.join('\n');
  },
  invite: (data: InviteData, { style }) => {
    const note = `invitation ${data.id}, valid until ${time(data.expiresAt)}`;
    // User data goes into a file: what we add must be a comment there.
    if (data.command.startsWith('#cloud-config')) return `${data.command}# ${note}`;
    return `${data.command}\n\n${style.dim(note)}`;
  },
  inviteLs: (rows: readonly InviteRow[], { style }) =>
    table(
      ['ID', 'ENV', 'ROLES', 'USED', 'EXPIRES', 'STATE'],
      rows.map((row) => [
        row.id,
        row.env,
        row.roles.join(','),
        `${row.used ?? '?'}/${row.uses}`,
        time(row.expiresAt),
        row.state ?? '',
      ]),
      style,
    ) || 'no invitations',
  inviteRevoke: (data: { id: string }) => `invitation ${data.id} is revoked`,
  join: (data: { name: string; hostName: string; env: string; roles: readonly string[] }) =>
    `${data.hostName} is a member of ${data.name}, environment ${data.env}, ` +
    (data.roles.length === 0 ? 'without roles' : `roles ${data.roles.join(', ')}`),
  leave: (data: { name: string; toldPeers?: number }) =>
    `left ${data.name}; ${data.toldPeers ?? 0} members know`,
  login: (data: { operator: string; expiresAt: string | number }) =>
    `${data.operator} is logged in until ${time(data.expiresAt)}`,
  logout: (data: { operators?: readonly string[] }) => {
    const names = data.operators ?? [];
    return names.length === 0 ? 'nobody was logged in' : `logged out: ${names.join(', ')}`;
  },
  whoami: (data: { operator?: string | null; expiresAt?: string | number | null }) =>
    data.operator === null || data.operator === undefined
      ? 'nobody is logged in here; run `trellis login`'
      : `${data.operator}, until ${time(data.expiresAt ?? '')}`,
};

/** ISO text or Unix milliseconds. */
function time(at: string | number): string {
  return when(typeof at === 'number' ? new Date(at).toISOString() : at);
}
