/**
 * What `trellis lock` has to know before it speaks with the guard itself: the daemon is not on the way of a lease that a
 * command runs under, so that the daemon's death neither ends nor delays it.
 */
import { z } from 'zod';
import { compareText } from '../../crdt/codec.ts';
import { hex } from '../../crdt/ids.ts';
import type { ObjectId } from '../../crdt/ids.ts';
import { systemCrypto } from '../crypto.ts';
import type { LeaseDesired } from '../lease/guard-api.ts';
import { guardApiVersion } from '../lease/guard-api.ts';
import { leaseByCommand } from '../lease-hold.ts';
import type { NodeApi } from '../node-api.ts';
import { gateOf } from '../plan/leases.ts';
import { define, envParam, hostNames, nodeOf, params } from './common.ts';
import type { Operation } from './operation.ts';
import type { HostTools } from './tools.ts';

const gateDigits = 11;

export interface LockTicket {
  /** Where the guard of this host listens; root only. */
  readonly socket: string;
  readonly guardApiVersion: number;
  readonly lease: LeaseDesired;
  /** Names of the hosts, for what the guard says of them. */
  readonly hosts: Readonly<Record<string, string>>;
}

export function lockOperations(tools: HostTools): readonly Operation[] {
  return [
    define({
      group: 'lock',
      command: 'prepare',
      summary: 'what a command under a lease has to tell the guard',
      access: 'local',
      isMutation: true,
      isSocketOnly: true,
      params: params({
        ...envParam,
        name: z
          .string()
          .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/, 'letters, digits, dots, dashes; at most 63')
          .describe('name of the lock'),
        profile: z.enum(['fast', 'wan', 'fenced']).default('fast'),
      }),
      run: (context, given): Promise<LockTicket> => {
        const node = nodeOf(context, given);
        const lease = lockLease(node, given);
        const hosts = Object.fromEntries(hostNames(node));
        const socket = tools.guardSocket();
        return Promise.resolve({ socket, guardApiVersion, lease, hosts });
      },
    }),
  ];
}

export function lockLease(
  node: NodeApi,
  given: { readonly name: string; readonly profile: LeaseDesired['profile'] },
): LeaseDesired {
  const hosts = node
    .hosts()
    .filter(({ env, liveness }) => env === node.env && liveness !== 'left')
    .map(({ id }) => id)
    .toSorted(compareText);
  const digest = hex(systemCrypto.sha256(new TextEncoder().encode(given.name)));
  return leaseByCommand({
    name: `lock/${given.name}`,
    title: `lock ${given.name}`,
    profile: given.profile,
    self: node.self.host,
    hosts,
    // Objects are hex digits only: the letter keeps the two apart.
    gate: gateOf(
      node.clusterId.slice(0, 8),
      `l${digest.slice(0, gateDigits)}` as ObjectId,
      node.self.host,
    ),
  });
}
