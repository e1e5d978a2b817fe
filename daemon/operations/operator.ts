/** Operators on this host: unlocking a key, forgetting it, and who is acting. */
import { z } from 'zod';
import { nameSchema } from '../../crdt/records.ts';
import { asClusterError, ClusterError } from '../errors.ts';
import type { EditSession } from '../node-api.ts';
import type { Clock } from '../ports.ts';
import { LoginThrottle } from '../trust/limits.ts';
import { define, envParam, params } from './common.ts';
import type { ClusterAccess, Lifecycle } from './lifecycle.ts';
import type { Operation } from './operation.ts';

export interface OperatorDeps {
  readonly lifecycle: Lifecycle;
  readonly clock: Clock;
  /** Of the HTTPS API (`api/tokens.ts`). */
  readonly tokens: TokenIssuer;
}

export interface TokenIssuer {
  /** A bearer token for as long as the session lives. */
  issue(session: EditSession): string;
  /** Ends every token of the session. */
  revoke(session: EditSession): void;
}

export function operatorOperations(deps: OperatorDeps): readonly Operation[] {
  return [login(deps), logout(deps), whoami()];
}

function login({ lifecycle, clock, tokens }: OperatorDeps): Operation {
  const throttle = new LoginThrottle(() => clock.monotonicMs());
  return define({
    group: 'operator',
    command: 'login',
    summary:
      'unlock an operator’s key for at most 12 hours: on this host, or over HTTPS for a bearer token',
    access: 'public',
    isMutation: true,
    params: params({
      ...envParam,
      operator: nameSchema.optional(),
      passphrase: z.string().min(1).max(1_024),
    }),
    run: async ({ caller }, given) => {
      const cluster = access(lifecycle);
      const isRemote = caller.via !== 'socket';
      const from = {
        address: isRemote ? (caller.address ?? 'unknown') : null,
        operator: given.operator ?? '',
      };
      throttle.enter(from);
      const session = await cluster
        .login({
          operator: given.operator ?? null,
          passphrase: given.passphrase,
          isKept: !isRemote,
        })
        .catch((error: unknown) => {
          // Only a wrong passphrase counts against whoever tries.
          if (asClusterError(error).code !== 'LOGIN_REFUSED') throttle.refund(from);
          throw error;
        });
      throttle.succeeded(from);
      return { ...describe(session), ...(isRemote ? { token: tokens.issue(session) } : {}) };
    },
  });
}

function logout({ lifecycle, tokens }: OperatorDeps): Operation {
  return define({
    group: 'operator',
    command: 'logout',
    summary: 'forget the unlocked key on this host, or end this bearer token',
    access: 'viewer',
    isMutation: true,
    params: params({ ...envParam, operator: nameSchema.optional() }),
    run: async ({ caller }, given) => {
      const cluster = access(lifecycle);
      if (caller.via === 'socket')
        return { operators: await cluster.logout(given.operator ?? null) };
      const { session } = caller;
      if (session === null) throw new ClusterError('LOGIN_REQUIRED', { action: 'logout' });
      if (caller.via === 'https') {
        tokens.revoke(session);
        cluster.sessions.close(session.id);
      }
      return { operators: [session.operator] };
    },
  });
}

function whoami(): Operation {
  return define({
    group: 'operator',
    command: 'whoami',
    summary: 'who is logged in, and until when',
    access: 'viewer',
    isMutation: false,
    params: params({ ...envParam }),
    run: async ({ caller: { session, via } }) =>
      session === null
        ? { operator: null, session: null, expiresAt: null, via }
        : { ...describe(session), via },
  });
}

function describe(session: EditSession): { operator: string; session: string; expiresAt: string } {
  return {
    operator: session.operator,
    session: session.id,
    expiresAt: new Date(session.expiresAtWallMs).toISOString(),
  };
}

function access(lifecycle: Lifecycle): ClusterAccess {
  const cluster = lifecycle.cluster();
  if (cluster === null) throw new ClusterError('NOT_INITIALISED');
  return cluster;
}
