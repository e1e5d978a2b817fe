/** Commands that make, enter, leave and unlock a cluster. */
import type { Command, Flag } from './spec.ts';

export const waitFlags: readonly Flag[] = [
  { name: 'wait', kind: 'boolean', summary: 'return only when all live members have it' },
  {
    name: 'timeout',
    kind: 'duration',
    value: 'TIME',
    param: 'timeoutMs',
    summary: 'give up waiting after this long; default 120s',
  },
];

const passphraseFile: Flag = {
  name: 'passphrase-file',
  kind: 'string',
  value: 'FILE',
  summary: 'read the passphrase from the first line of FILE (0600)',
  complete: 'file',
};

const roleFlag: Flag = {
  name: 'role',
  kind: 'strings',
  value: 'R',
  param: 'roles',
  summary: 'role of the host; may be repeated',
  complete: 'role',
};

const metaFlag: Flag = {
  name: 'meta',
  kind: 'pairs',
  value: 'K=V',
  summary: 'metadata of the host, for `placement.where`; may be repeated',
};

export const clusterCommands: readonly Command[] = [
  {
    words: ['daemon'],
    section: 'cluster',
    summary: 'run the daemon in the foreground',
    about: 'Ends on SIGTERM; containers go on running without it.',
    flags: [
      { name: 'state', kind: 'string', value: 'DIR', summary: 'state directory', complete: 'file' },
      { name: 'listen', kind: 'strings', value: '/ip4/…/tcp/P', summary: 'peers connect here' },
      { name: 'advertise', kind: 'string', value: 'IP', summary: 'where members reach this host' },
      { name: 'api', kind: 'string', value: 'ADDR:PORT', summary: 'HTTPS API' },
      { name: 'lease-listen', kind: 'string', value: 'ADDR:PORT', summary: 'guards of leases' },
      { name: 'no-guard', kind: 'boolean', summary: 'start no guard of leases' },
      { name: 'no-hosts-file', kind: 'boolean', summary: 'leave /etc/hosts alone' },
      {
        name: 'auto-init',
        kind: 'boolean',
        summary: 'make a cluster of one if it belongs to none',
      },
      { name: 'log-level', kind: 'string', value: 'LEVEL', summary: 'debug, info, warn or error' },
    ],
    examples: ['trellis daemon', 'trellis daemon --state /srv/t2 --listen /ip4/0.0.0.0/tcp/7450'],
    handler: () => import('./handlers/daemon.ts'),
  },
  {
    words: ['init'],
    section: 'cluster',
    summary: 'make a new cluster of one on this host',
    about:
      'The passphrase of the first operator is asked for, read from a file, or generated and shown once. ' +
      'The recovery key is shown once too: keep it away from the cluster.',
    flags: [
      { name: 'name', kind: 'string', value: 'N', summary: 'name of the cluster' },
      {
        name: 'operator',
        kind: 'string',
        value: 'NAME',
        summary: 'first operator; default: admin',
      },
      {
        name: 'host-name',
        kind: 'string',
        value: 'H',
        summary: 'name of this host; default: its own',
      },
      roleFlag,
      metaFlag,
      passphraseFile,
      {
        name: 'recovery-file',
        kind: 'string',
        value: 'FILE',
        summary: 'write the recovery key to FILE instead of showing it',
        complete: 'file',
      },
    ],
    examples: ['trellis init --name shop', 'trellis init --name shop --env prod --operator ada'],
    call: 'cluster/init',
    handler: () => import('./handlers/init.ts'),
  },
  {
    words: ['invite'],
    section: 'cluster',
    summary: 'print one line that makes a new host a member',
    about:
      'The line works on a bare machine without internet. It holds a secret code: send it privately.',
    flags: [
      roleFlag,
      { name: 'uses', kind: 'integer', value: 'N', summary: 'hosts it may admit; default 1' },
      { name: 'ttl', kind: 'duration', value: 'TIME', param: 'ttlMs', summary: 'default 1h' },
      { name: 'host-name', kind: 'string', value: 'H', summary: 'name of the new host' },
      { name: 'addr', kind: 'strings', value: 'IP', param: 'addrs', summary: 'address of a peer' },
      {
        name: 'form',
        kind: 'string',
        value: 'FORM',
        summary: 'curl (default), openssl (no curl there) or cloud-init (user data)',
      },
      metaFlag,
    ],
    examples: [
      'trellis invite --role web',
      'trellis invite --uses 10 --ttl 4h --json',
      'trellis invite --role web --form cloud-init > user-data',
    ],
    call: 'invite/create',
    view: 'invite',
  },
  {
    words: ['invite', 'ls'],
    section: 'cluster',
    summary: 'list invitations',
    examples: ['trellis invite ls'],
    call: 'invite/ls',
    view: 'inviteLs',
  },
  {
    words: ['invite', 'revoke'],
    section: 'cluster',
    summary: 'make an invitation worthless',
    positionals: [{ name: 'ID', param: 'id', complete: 'invite' }],
    examples: ['trellis invite revoke 3f2a9c'],
    call: 'invite/revoke',
    view: 'inviteRevoke',
  },
  {
    words: ['join'],
    section: 'cluster',
    summary: 'make this host a member of a cluster',
    about:
      'The code is read from --code-file, else from TRELLIS_CODE, else from standard input; never from the command line. ' +
      'The line that `trellis invite` printed, or its --json, may stand for the code and then brings peers and certificate along.',
    flags: [
      {
        name: 'code-file',
        kind: 'string',
        value: 'F',
        summary: 'file with the code, or with what `trellis invite` printed',
        complete: 'file',
      },
      {
        name: 'peer',
        kind: 'strings',
        value: 'ADDR:PORT',
        param: 'peers',
        summary: 'HTTPS API of a member; may be repeated',
      },
      {
        name: 'ca-file',
        kind: 'string',
        value: 'F',
        summary: 'certificate of the cluster, PEM',
        complete: 'file',
      },
      { name: 'name', kind: 'string', value: 'H', param: 'hostName', summary: 'name of this host' },
      roleFlag,
      metaFlag,
    ],
    examples: [
      'trellis join --code-file invite.json',
      'trellis join --peer 10.0.0.1:8443 --ca-file ca.pem --code-file code',
    ],
    call: 'cluster/join',
    handler: () => import('./handlers/join.ts'),
  },
  {
    words: ['leave'],
    section: 'cluster',
    summary: 'leave the cluster politely and remove all it left on this host',
    flags: [{ name: 'force', kind: 'boolean', summary: 'also when no member can be told' }],
    examples: ['trellis leave', 'trellis leave --yes'],
    call: 'cluster/leave',
    view: 'leave',
    confirm: async (run) => (await import('./confirm.ts')).whatLeaveLoses(run),
  },
  {
    words: ['login'],
    section: 'cluster',
    summary: "unlock an operator's key on this host for at most 12 hours",
    flags: [
      {
        name: 'operator',
        kind: 'string',
        value: 'NAME',
        summary: 'default: the only one there is',
      },
      passphraseFile,
    ],
    examples: ['trellis login', 'trellis login --operator ada --passphrase-file pass'],
    call: 'operator/login',
    handler: () => import('./handlers/login.ts'),
  },
  {
    words: ['logout'],
    section: 'cluster',
    summary: 'forget the unlocked key on this host',
    flags: [{ name: 'operator', kind: 'string', value: 'NAME', summary: 'default: all' }],
    examples: ['trellis logout'],
    call: 'operator/logout',
    view: 'logout',
  },
  {
    words: ['whoami'],
    section: 'cluster',
    summary: 'who is logged in on this host, and until when',
    examples: ['trellis whoami', 'trellis whoami --json'],
    call: 'operator/whoami',
    view: 'whoami',
  },
];
