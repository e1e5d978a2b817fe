/** A founded cluster in memory, with the daemon's own roster: what trust's tests start from. */
import type { ClusterId, HostId } from '../../../crdt/ids.ts';
import type { SignedBytes } from '../../../crdt/records.ts';
import { systemClock } from '../../../daemon/clock.ts';
import { keyPairFromSeed, systemCrypto } from '../../../daemon/crypto.ts';
import { silentLog } from '../../../daemon/logger.ts';
import type { KeyPair } from '../../../daemon/ports.ts';
import { systemRandom } from '../../../daemon/random.ts';
import { Roster } from '../../../daemon/replication/roster.ts';
import { foundCluster } from '../../../daemon/trust/authority.ts';
import type { Founding } from '../../../daemon/trust/authority.ts';
import { randomHostId } from '../../../daemon/trust/identity.ts';
import { makeInvite } from '../../../daemon/trust/invites.ts';
import type { MadeInvite } from '../../../daemon/trust/invites.ts';
import { Admission } from '../../../daemon/trust/join-server.ts';
import type { JoinAttempt } from '../../../daemon/trust/join-server.ts';
import { SessionKeeper } from '../../../daemon/trust/login.ts';
import type { EditSession } from '../../../daemon/node-api.ts';
import type { RosterAccess } from '../../../daemon/trust/roster-access.ts';

export const passphrase = 'violet-anchor-9-mustard-lamp';

export interface TestHost {
  readonly seed: Uint8Array;
  readonly keys: KeyPair;
  readonly hostId: HostId;
}

export interface TestCluster {
  readonly founding: Founding;
  readonly host: TestHost;
  readonly roster: RosterAccess;
  readonly keeper: SessionKeeper;
  readonly session: EditSession;
  readonly attempts: JoinAttempt[];
  invite(changes?: Partial<Parameters<typeof makeInvite>[0]>): MadeInvite;
  admission(options?: {
    admit?: (record: SignedBytes) => Promise<void>;
    host?: TestHost;
  }): Admission;
}

export function newHost(): TestHost {
  const seed = systemRandom.bytes(32);
  return { seed, keys: keyPairFromSeed(seed), hostId: randomHostId() };
}

/** The real roster with `add`, as the daemon hands it out. */
export function rosterOf(clusterId: ClusterId, records: readonly SignedBytes[]): RosterAccess {
  const roster = new Roster(clusterId, systemCrypto);
  const access: RosterAccess = {
    authority: () => roster.authority(),
    operators: () => roster.operators(),
    session: (id) => roster.session(id),
    invites: () => roster.invites(),
    membersEver: () => roster.membersEver(),
    isRemoved: (subject, id) => roster.isRemoved(subject, id),
    records: () => roster.records(),
    add: (signed) => {
      const outcome = roster.accept(signed);
      return outcome.kind === 'added' || outcome.kind === 'known'
        ? { kind: outcome.kind }
        : outcome;
    },
  };
  for (const record of records) {
    const added = access.add(record);
    if (added.kind !== 'added')
      throw new Error(`${added.kind}: ${'reason' in added ? added.reason : ''}`);
  }
  return access;
}

export async function newCluster(name = 'shop'): Promise<TestCluster> {
  const host = newHost();
  const founding = await foundCluster({
    name,
    env: 'prod',
    operator: 'ada',
    passphrase,
    hostKeySeed: host.seed,
    hostId: host.hostId,
    hostName: 'h1',
    roles: [],
    meta: {},
    nowWallMs: Date.now(),
  });
  const { clusterId } = founding;
  const roster = rosterOf(clusterId, founding.records);
  const keeper = new SessionKeeper({ clusterId, host: host.hostId, wallMs: Date.now });
  const opened = keeper.open(founding.login, { isKept: true });
  roster.add(opened.record);
  const attempts: JoinAttempt[] = [];
  return {
    founding,
    host,
    roster,
    keeper,
    session: opened.session,
    attempts,
    invite: (changes) => {
      const made = makeInvite({
        clusterId,
        session: opened.session.id,
        sign: (bytes) => keeper.sign(opened.session.id, bytes),
        env: 'prod',
        roles: ['web'],
        uses: 1,
        ttlMs: 60_000,
        nowWallMs: Date.now(),
        ...changes,
      });
      roster.add(made.record);
      return made;
    },
    admission: ({ admit, host: by = host } = {}) =>
      new Admission({
        roster,
        hostKeys: by.keys,
        issuingKeyPem: founding.certificates.keyPem,
        peers: () => [{ node: Buffer.from(by.keys.publicKey).toString('hex'), addresses: [] }],
        admit:
          admit ??
          (async (record) => {
            const added = roster.add(record);
            if (added.kind !== 'added') throw new Error(JSON.stringify(added));
          }),
        onAttempt: (attempt) => attempts.push(attempt),
        clock: systemClock,
        log: silentLog,
      }),
  };
}
