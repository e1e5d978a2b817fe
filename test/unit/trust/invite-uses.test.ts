/** Several members that admit with one invitation: their rosters apart, a lease between them, and calls that may not arrive. */
import { beforeEach, describe, expect, test } from 'vitest';
import { hex } from '../../../crdt/ids.ts';
import type { NodeId } from '../../../crdt/ids.ts';
import { consentBytes } from '../../../crdt/records.ts';
import type { SignedBytes } from '../../../crdt/records.ts';
import { systemClock } from '../../../daemon/clock.ts';
import { asClusterError, ClusterError } from '../../../daemon/errors.ts';
import type { Hold, WithLease } from '../../../daemon/lease-hold.ts';
import type { Clock } from '../../../daemon/ports.ts';
import { silentLog } from '../../../daemon/logger.ts';
import type { PeerNetwork } from '../../../daemon/net/peer-network.ts';
import { InviteVoters } from '../../../daemon/trust/invite-uses.ts';
import { usesOf } from '../../../daemon/trust/invites.ts';
import { Admission } from '../../../daemon/trust/join-server.ts';
import type { RosterAccess } from '../../../daemon/trust/roster-access.ts';
import { newCluster, newHost, rosterOf } from './cluster.ts';
import type { TestCluster, TestHost } from './cluster.ts';

type Handler = Parameters<PeerNetwork['onCall']>[0];

let cluster: TestCluster;
/** What its code is; one use. */
let invite: ReturnType<TestCluster['invite']>;
let members: Member[];
/** 'a>b' by place: what does not arrive. */
let cut: Set<string>;
let isHeld: boolean;
let waitedMs: number;
/** Rosters that had the use when the lease was given back. */
let knownAtRelease: number[];

/** Its time passes by waiting. */
const hurried: Clock = {
  monotonicMs: () => waitedMs,
  wallMs: () => waitedMs,
  setTimer: (delayMs, fire) => {
    const waiting = setImmediate(() => {
      waitedMs += delayMs;
      fire();
    });
    return { cancel: () => clearImmediate(waiting) };
  },
};

class Member {
  readonly host: TestHost;
  readonly node: NodeId;
  readonly roster: RosterAccess;
  readonly admission: Admission;
  /** Null: as many voters as there are members. */
  voters: 'all' | 'none' | 'unheard' = 'all';
  /** The lease goes after this many questions of whether it is held. */
  assertsMax = Infinity;
  handle: Handler | null = null;

  constructor(host: TestHost, records: readonly SignedBytes[]) {
    this.host = host;
    this.node = hex(host.keys.publicKey) as NodeId;
    this.roster = rosterOf(cluster.founding.clusterId, records);
    const keep = (record: SignedBytes): Promise<void> => {
      const { kind } = this.roster.add(record);
      return kind === 'added' || kind === 'known'
        ? Promise.resolve()
        : Promise.reject(new ClusterError('JOIN_REFUSED', { reason: kind, todo: '' }));
    };
    this.admission = new Admission({
      roster: this.roster,
      hostKeys: host.keys,
      issuingKeyPem: cluster.founding.certificates.keyPem,
      peers: () => [{ node: this.node, addresses: [] }],
      admit: keep,
      onAttempt: () => {},
      clock: systemClock,
      log: silentLog,
    });
    const uses = new InviteVoters({
      env: 'prod',
      self: this.node,
      withLease: this.#withLease,
      net: {
        call: (node, request) => this.#call(node, request),
        onCall: (handle) => void (this.handle = handle),
      },
      roster: this.roster,
      voters: () => (this.voters === 'none' ? null : members.map(({ node }) => node)),
      keep,
      clock: hurried,
      log: silentLog,
    });
    uses.serve();
    this.admission.agreeThrough(uses);
  }

  hears(other: Member): boolean {
    const [a, b] = [members.indexOf(this), members.indexOf(other)];
    return !cut.has(`${a}>${b}`) && !cut.has(`${b}>${a}`);
  }

  join(host = newHost()): Promise<unknown> {
    const { clusterId } = cluster.founding;
    const consent = host.keys.sign(
      consentBytes({ clusterId, hostId: host.hostId, hostKey: host.keys.publicKey }),
    );
    const body = {
      v: 1,
      code: invite.code,
      hostKey: hex(host.keys.publicKey),
      hostId: host.hostId,
      consent: Buffer.from(consent).toString('base64'),
      name: 'new',
      roles: [],
      meta: {},
      addresses: [],
    };
    return this.admission.join(body, '127.0.0.1');
  }

  /** One at a time; another is waited for, as long as it takes. */
  readonly #withLease: WithLease = async (name, _options, work) => {
    const near = members.filter((other) => this.hears(other));
    if (this.voters === 'unheard' || near.length * 2 <= members.length)
      throw new ClusterError('NO_QUORUM', { env: 'prod', reason: 'cut off' });
    while (isHeld) await new Promise((resolve) => setImmediate(resolve));
    isHeld = true;
    let asserts = 0;
    const assertHeld = (): void => {
      if (++asserts > this.assertsMax) throw new ClusterError('LEASE_LOST', { name, reason: '' });
    };
    const { signal } = new AbortController();
    const hold: Hold = { name, epoch: 1, signal, assertHeld };
    try {
      return await work(hold);
    } finally {
      knownAtRelease.push(members.filter(({ roster }) => usesOf(roster, invite.id) > 0).length);
      isHeld = false;
    }
  };

  async #call(node: NodeId, request: Uint8Array): Promise<Uint8Array> {
    const to = members.find((other) => other.node === node);
    await new Promise((resolve) => setImmediate(resolve));
    if (to?.handle == null || !this.hears(to))
      throw new ClusterError('HOST_UNREACHABLE', { host: node, state: 'cut off', ago: 'now' });
    return to.handle(this.node, request, new AbortController().signal);
  }
}

beforeEach(async () => {
  cluster = await newCluster();
  const founders = cluster.admission();
  const others = [newHost(), newHost()];
  const first = cluster.invite({ uses: 2 });
  invite = first;
  members = [];
  cut = new Set();
  isHeld = false;
  waitedMs = 0;
  knownAtRelease = [];
  for (const host of others) await joinOne(founders, host, first.code);
  invite = cluster.invite({ uses: 1 });
  const records = [...cluster.roster.records().values()];
  members = [cluster.host, ...others].map((host) => new Member(host, inOrder(records)));
});

/** Those that others are judged by come first. */
function inOrder(records: readonly SignedBytes[]): readonly SignedBytes[] {
  const first = cluster.founding.records;
  const isFirst = (record: SignedBytes): boolean =>
    first.some((one) => Buffer.from(one).equals(Buffer.from(record)));
  return [...first, ...records.filter((record) => !isFirst(record))];
}

async function joinOne(admission: Admission, host: TestHost, code: string): Promise<void> {
  const { clusterId } = cluster.founding;
  const consent = host.keys.sign(
    consentBytes({ clusterId, hostId: host.hostId, hostKey: host.keys.publicKey }),
  );
  await admission.join(
    {
      v: 1,
      code,
      hostKey: hex(host.keys.publicKey),
      hostId: host.hostId,
      consent: Buffer.from(consent).toString('base64'),
      name: 'member',
      roles: [],
      meta: {},
      addresses: [],
    },
    '127.0.0.1',
  );
}

/** 'joined', or the code with which it failed. */
async function outcomes(joins: readonly Promise<unknown>[]): Promise<string[]> {
  const settled = await Promise.allSettled(joins);
  return settled
    .map((one) => (one.status === 'fulfilled' ? 'joined' : asClusterError(one.reason).code))
    .toSorted();
}

const at = (index: number): Member => members[index] as Member;

describe('[trellis:H8] one use', () => {
  test('asked of two members at the same moment: one host joins', async () => {
    expect(await outcomes([at(0).join(), at(1).join()])).toEqual(['INVITE_REFUSED', 'joined']);
    expect(knownAtRelease.every((count) => count >= 2)).toBe(true);
  });

  test('of members that cannot hear each other, but each a majority', async () => {
    cut.add('0>1');
    expect(await outcomes([at(0).join(), at(1).join()])).toEqual(['INVITE_REFUSED', 'joined']);
    expect(await outcomes([at(2).join()])).toEqual(['INVITE_REFUSED']);
  });

  test('by one host that asks two members: it joins once', async () => {
    const host = newHost();
    expect(await outcomes([at(0).join(host), at(1).join(host)])).toEqual(['joined', 'joined']);
    const records = members.map(({ roster }) =>
      roster
        .membersEver()
        .flatMap(({ record, hash }) => (record.invite === invite.id ? [hash] : [])),
    );
    expect(new Set(records.flat()).size).toBe(1);
  });

  test('that a voter knows of, by a member that is not known here, is used up', async () => {
    // Another host, admitted by the third, which alone knows it, admits on.
    const far = newHost();
    const used = invite;
    invite = cluster.invite({ uses: 1 });
    for (const member of members) member.roster.add(invite.record);
    cut = new Set(['2>0', '2>1']);
    at(2).voters = 'none';
    await at(2).join(far);
    const alone = new Member(far, inOrder([...at(2).roster.records().values()]));
    alone.voters = 'none';
    invite = used;
    for (const member of [alone, ...members]) member.roster.add(invite.record);
    await alone.join();
    for (const record of alone.roster.records().values()) at(2).roster.add(record);
    cut.clear();
    cut.add('0>1');
    expect(await outcomes([at(0).join()])).toEqual(['INVITE_REFUSED']);
  });
});

test('a voter whose daemon answers a second later is asked again [trellis:H8]', async () => {
  const handles = members.map(({ handle }) => handle);
  for (const member of members.slice(1)) member.handle = null;
  const first = at(0).join();
  while (waitedMs < 1_000) await new Promise((resolve) => setImmediate(resolve));
  for (const [index, handle] of handles.entries()) at(index).handle = handle;
  await first;
  expect(knownAtRelease.every((count) => count >= 2)).toBe(true);
  expect(await outcomes([at(1).join()])).toEqual(['INVITE_REFUSED']);
});

describe('alone', () => {
  test.each(['none', 'unheard'] as const)(
    'without a majority (%s) each member decides',
    async (voters) => {
      cut = new Set(['0>1', '0>2', '1>2']);
      for (const member of members) member.voters = voters;
      expect(await outcomes([at(0).join(), at(1).join()])).toEqual(['joined', 'joined']);
    },
  );

  test('where voters’ daemons do not answer though their guards do', async () => {
    for (const member of members.slice(1)) member.handle = null;
    expect(await outcomes([at(0).join()])).toEqual(['joined']);
    expect(await outcomes([at(0).join()])).toEqual(['INVITE_REFUSED']);
  });
});

test('a lease that goes before the record is made: another member is asked, and nothing was used', async () => {
  at(0).assertsMax = 0;
  const host = newHost();
  expect(await outcomes([at(0).join(host)])).toEqual(['BUSY']);
  expect(usesOf(at(0).roster, invite.id)).toBe(0);
  expect(await outcomes([at(1).join(host)])).toEqual(['joined']);
});

test('what members ask of each other is these two things', async () => {
  const handle = at(0).handle as Handler;
  const { signal } = new AbortController();
  for (const bytes of [new Uint8Array([0xf6]), new Uint8Array([0x01])])
    await expect(handle(at(1).node, bytes, signal)).rejects.toMatchObject({ code: 'INVALID' });
});
