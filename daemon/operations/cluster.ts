/** Making, entering and leaving a cluster, inviting others, and what this host is. */
import { z } from 'zod';
import { hostname } from 'node:os';
import { isIP } from 'node:net';
import { isAbsolute } from 'node:path';
import { nameSchema, seal } from '../../crdt/records.ts';
import type { HostFact } from '../../crdt/model.ts';
import { ClusterError } from '../errors.ts';
import type { EditSession } from '../node-api.ts';
import { dnsLabelOf } from '../trust/identity.ts';
import {
  invitationForms,
  inviteState,
  inviteTtlMsMax,
  inviteUsesMax,
  makeInvite,
  usesOf,
} from '../trust/invites.ts';
import type { InvitationForm } from '../trust/invites.ts';
import { define, envParam, nodeOf, params, sessionOf } from './common.ts';
import type { ClusterAccess, Lifecycle } from './lifecycle.ts';
import type { Operation, OperationContext } from './operation.ts';

/** Peers named in one line for a new host: tried in turn. */
const commandPeersMax = 5;
const apiPortDefault = 8443;
const joinTimeLimitMs = 300_000;

export interface ClusterDeps {
  readonly lifecycle: Lifecycle;
  /** `bootstrap/join-script.ts`. */
  readonly renderInvitation: (
    target: {
      readonly caPem: string;
      /** 'address:port'. */
      readonly peers: readonly string[];
      readonly clusterName: string;
      readonly code: string;
    },
    form: InvitationForm,
  ) => string;
}

const dnsName = nameSchema.describe('lower-case letters, digits and -, at most 63');
const roles = z.array(nameSchema).max(64).default([]);
const meta = z.record(z.string().min(1).max(63), z.string().max(1_000)).default({});

export function clusterOperations(deps: ClusterDeps): readonly Operation[] {
  return [
    init(deps),
    join(deps),
    leave(deps),
    info(deps),
    inviteCreate(deps),
    inviteList(deps),
    inviteRevoke(deps),
  ];
}

function init({ lifecycle }: ClusterDeps): Operation {
  return define({
    group: 'cluster',
    command: 'init',
    summary: 'make a new cluster of one on this host',
    access: 'public',
    isSocketOnly: true,
    isMutation: true,
    timeLimitMs: joinTimeLimitMs,
    params: params({
      name: dnsName,
      env: nameSchema.default('default'),
      operator: nameSchema.default('admin'),
      passphrase: z.string().max(1_024).optional(),
      hostName: nameSchema.optional(),
      roles,
      meta,
      recoveryFile: z.string().max(4_000).refine(isAbsolute, 'must be an absolute path').optional(),
    }),
    run: async (context, given) => {
      refuseMember(lifecycle);
      return lifecycle.init(
        {
          name: given.name,
          env: given.env,
          operator: given.operator,
          passphrase: given.passphrase ?? null,
          hostName: given.hostName ?? dnsLabelOf(hostname()),
          roles: given.roles,
          meta: given.meta,
          recoveryFile: given.recoveryFile ?? null,
        },
        context,
      );
    },
  });
}

function join({ lifecycle }: ClusterDeps): Operation {
  return define({
    group: 'cluster',
    command: 'join',
    summary: 'make this host a member of a cluster, with an invitation code',
    access: 'public',
    isSocketOnly: true,
    isMutation: true,
    timeLimitMs: joinTimeLimitMs,
    params: params({
      ...envParam,
      peers: z
        .array(z.string().min(1).max(300), 'a bare code needs a member: --peer ADDR:PORT')
        .min(1, 'name a member with --peer ADDR:PORT')
        .max(32),
      caPem: z
        .string('a bare code needs the cluster’s certificate: --ca-file F')
        .min(1, 'give the cluster’s certificate with --ca-file')
        .max(20_000),
      code: z.string().min(1).max(200),
      hostName: nameSchema.optional(),
      roles,
      meta,
    }),
    run: async (context, given) => {
      refuseMember(lifecycle);
      return lifecycle.join(
        {
          peers: given.peers.map((peer) => withPort(peer, apiPortDefault)),
          caPem: given.caPem,
          code: given.code,
          hostName: given.hostName ?? dnsLabelOf(hostname()),
          roles: given.roles,
          meta: given.meta,
        },
        context,
      );
    },
  });
}

function leave({ lifecycle }: ClusterDeps): Operation {
  return define({
    group: 'cluster',
    command: 'leave',
    summary: 'leave the cluster politely and remove all it left on this host',
    access: 'local',
    isMutation: true,
    timeLimitMs: joinTimeLimitMs,
    params: params({ ...envParam, force: z.boolean().default(false) }),
    run: async (context, given) => {
      access(lifecycle);
      return lifecycle.leave({ isForced: given.force }, context);
    },
  });
}

function info({ lifecycle }: ClusterDeps): Operation {
  return define({
    group: 'cluster',
    command: 'info',
    summary: 'this host: who it is, where, in which cluster',
    access: 'viewer',
    isMutation: false,
    params: params({ ...envParam }),
    run: async (context) => {
      const { host } = lifecycle;
      const cluster = lifecycle.cluster();
      if (cluster === null) return { isMember: false, ...host };
      const { node } = cluster;
      const self = node.hosts().find(({ id }) => id === node.self.host);
      const fact = node.fact('host', node.self.node)?.value as HostFact | undefined;
      const members = node.members();
      return {
        isMember: true,
        ...host,
        clusterId: node.clusterId,
        clusterName: node.clusterName,
        env: node.env,
        host: { id: node.self.host, node: node.self.node, name: self?.name ?? null },
        roles: self?.roles ?? [],
        addresses: fact?.addresses ?? [],
        advertise: fact?.advertise ?? self?.address ?? null,
        api: cluster.apiPeers()[0] ?? null,
        peerPort: fact?.peerPort ?? null,
        isReady: fact?.isReady ?? false,
        engine: fact?.engine ?? null,
        members: {
          total: members.length,
          alive: members.filter(({ liveness }) => liveness === 'alive').length,
        },
        operator: context.caller.session?.operator ?? null,
      };
    },
  });
}

function inviteCreate({ lifecycle, renderInvitation }: ClusterDeps): Operation {
  return define({
    group: 'invite',
    command: 'create',
    summary: 'one line that makes a new host a member',
    access: 'operator',
    isMutation: true,
    params: params({
      ...envParam,
      roles,
      uses: z.int().min(1).max(inviteUsesMax).default(1),
      ttlMs: z.int().min(1_000).max(inviteTtlMsMax, 'at most 30 days').default(3_600_000),
      hostName: nameSchema.optional(),
      form: z.enum(invitationForms, `one of ${invitationForms.join(', ')}`).default('curl'),
      addrs: z.array(z.string().min(1).max(300)).max(32).default([]),
      meta,
    }),
    run: async (context, given) => {
      const cluster = access(lifecycle);
      const node = nodeOf(context, given);
      if (given.hostName !== undefined && given.uses > 1) {
        throw new ClusterError('INVALID', {
          reason: 'hostName names one host, uses allows several',
        });
      }
      const { session, sign } = signer(cluster, context, 'inviting a host');
      const made = makeInvite({
        clusterId: node.clusterId,
        session: session.id,
        sign,
        env: node.env,
        roles: given.roles,
        uses: given.uses,
        ttlMs: given.ttlMs,
        nowWallMs: context.clock.wallMs(),
        ...(given.hostName === undefined ? {} : { hostName: given.hostName }),
        ...(Object.keys(given.meta).length === 0 ? {} : { meta: given.meta }),
      });
      publish(cluster, made.record);
      const peers = peersOf(cluster, given.addrs);
      const caPem = cluster.caPem;
      return {
        id: made.id,
        command: renderInvitation(
          { caPem, peers, clusterName: node.clusterName, code: made.code },
          given.form,
        ),
        expiresAt: new Date(made.expiresAtWallMs).toISOString(),
        code: made.code,
        caPem,
        peers,
        env: node.env,
        roles: given.roles,
        uses: given.uses,
      };
    },
  });
}

function inviteList({ lifecycle }: ClusterDeps): Operation {
  return define({
    group: 'invite',
    command: 'ls',
    summary: 'list invitations',
    access: 'viewer',
    isMutation: false,
    params: params({ ...envParam }),
    run: async (context) => {
      const { roster } = access(lifecycle);
      return roster
        .invites()
        .toSorted((a, b) => b.expiresAt - a.expiresAt)
        .map((record) => ({
          id: record.id,
          env: record.env,
          roles: record.roles,
          uses: record.uses,
          used: usesOf(roster, record.id),
          expiresAt: new Date(record.expiresAt).toISOString(),
          state: inviteState(roster, record, context.clock.wallMs()),
          hostName: record.hostName ?? null,
          meta: record.meta ?? {},
        }));
    },
  });
}

function inviteRevoke({ lifecycle }: ClusterDeps): Operation {
  return define({
    group: 'invite',
    command: 'revoke',
    summary: 'make an invitation worthless',
    access: 'operator',
    isMutation: true,
    params: params({
      ...envParam,
      id: z.string().min(4).max(32).describe('the id or its beginning'),
    }),
    run: async (context, given) => {
      const cluster = access(lifecycle);
      const { roster, node } = cluster;
      const found = roster.invites().filter(({ id }) => id.startsWith(given.id));
      const invite = found[0];
      if (invite === undefined)
        throw new ClusterError('NOT_FOUND', {
          kind: 'invitation',
          name: given.id,
          list: 'trellis invite ls',
        });
      if (found.length > 1) {
        throw new ClusterError('AMBIGUOUS', {
          name: given.id,
          kind: 'invitation',
          choices: found.map(({ id }) => id),
        });
      }
      if (roster.isRemoved('invite', invite.id) !== null) return { id: invite.id };
      const { session, sign } = signer(cluster, context, 'revoking an invitation');
      const { clusterId } = node;
      const reason = `revoked by ${session.operator}`;
      publish(
        cluster,
        seal(
          {
            kind: 'removal',
            v: 1,
            clusterId,
            subject: 'invite',
            id: invite.id,
            by: session.id,
            reason,
          },
          sign,
        ),
      );
      return { id: invite.id };
    },
  });
}

function refuseMember(lifecycle: Lifecycle): void {
  const cluster = lifecycle.cluster();
  if (cluster !== null)
    throw new ClusterError('ALREADY_MEMBER', { cluster: cluster.node.clusterName });
}

function access(lifecycle: Lifecycle): ClusterAccess {
  const cluster = lifecycle.cluster();
  if (cluster === null) throw new ClusterError('NOT_INITIALISED');
  return cluster;
}

function signer(
  cluster: ClusterAccess,
  context: OperationContext,
  action: string,
): { session: EditSession; sign: (bytes: Uint8Array) => Uint8Array } {
  const session = sessionOf(context, action);
  return { session, sign: (bytes) => cluster.sessions.sign(session.id, bytes) };
}

function publish(cluster: ClusterAccess, record: Uint8Array): void {
  const added = cluster.roster.add(record);
  if (added.kind !== 'parked' && added.kind !== 'rejected') return;
  throw new ClusterError('CONFLICT', {
    reason: `the record was refused here: ${added.reason}`,
    todo: 'log in again',
  });
}

/** Those asked for, then this host, then other live members. */
function peersOf(cluster: ClusterAccess, addrs: readonly string[]): readonly string[] {
  const known = cluster.apiPeers();
  const port = Number(/:(\d+)$/.exec(known[0] ?? '')?.[1] ?? apiPortDefault);
  return [...new Set([...addrs.map((address) => withPort(address, port)), ...known])].slice(
    0,
    commandPeersMax,
  );
}

/** 'address' becomes 'address:8443'; a bare IPv6 address gets its brackets. */
function withPort(peer: string, port: number): string {
  if (isIP(peer) === 6) return `[${peer}]:${port}`;
  return /:\d+$/.test(peer) ? peer : `${peer}:${port}`;
}
