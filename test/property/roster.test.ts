/** Who is who must not depend on the order in which a host heard of it. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { hex } from '../../crdt/ids.ts';
import { consentBytes, seal } from '../../crdt/records.ts';
import type { AnyRecord, SignedBytes } from '../../crdt/records.ts';
import type { KeyPair } from '../../daemon/ports.ts';
import { Roster } from '../../daemon/replication/roster.ts';
import { ClusterKit } from '../cluster-kit.ts';
import { SimCrypto } from '../sim/sim-crypto.ts';

const crypto = new SimCrypto();
const kit = new ClusterKit(crypto);
const head = { v: 1, clusterId: kit.clusterId };
const hosts = Array.from({ length: 7 }, (_, index) => kit.host(index));
const [founder] = hosts;
if (founder === undefined) throw new Error('there is a founder');
const login = kit.session(founder);
const inviteId = 'ab'.repeat(16);

function signed(record: AnyRecord, keys: KeyPair): SignedBytes {
  return seal(record, (bytes) => keys.sign(bytes));
}

/** A chain of admissions, more hosts than uses, removals by themselves and by a session, operators replaced. */
const records: readonly SignedBytes[] = [
  kit.authorityRecord,
  kit.operatorRecord,
  login.record,
  kit.member(founder),
  signed(
    {
      ...head,
      kind: 'invite',
      id: inviteId,
      session: login.session.id,
      codeHash: 'c'.repeat(64),
      env: 'prod',
      roles: [],
      uses: 3,
      expiresAt: 1,
    },
    login.keys,
  ),
  ...hosts.slice(1).map((host, index) => {
    const by = hosts[index];
    if (by === undefined) throw new Error('somebody admits');
    const { publicKey } = host.keys;
    const consent = host.keys.sign(
      consentBytes({ clusterId: kit.clusterId, hostId: host.host, hostKey: publicKey }),
    );
    const member: AnyRecord = {
      ...head,
      kind: 'member',
      hostKey: publicKey,
      hostId: index === 4 ? founder.host : host.host,
      name: host.name,
      env: 'prod',
      roles: [],
      meta: {},
      invite: inviteId,
      admittedBy: by.keys.publicKey,
      consent:
        index === 4
          ? host.keys.sign(
              consentBytes({ clusterId: kit.clusterId, hostId: founder.host, hostKey: publicKey }),
            )
          : consent,
      admittedAt: 0,
    };
    return signed(member, by.keys);
  }),
  ...[2, 5].map((index) => {
    const host = hosts[index] ?? founder;
    const by = index === 2 ? 'self' : login.session.id;
    return signed(
      { ...head, kind: 'removal', subject: 'member', id: host.node, by, reason: '' },
      index === 2 ? host.keys : login.keys,
    );
  }),
  ...[1, 2, 2].map((seq, index) =>
    signed(
      {
        ...head,
        kind: 'operator',
        publicKey: kit.operator.publicKey,
        name: `admin-${index}`,
        seq,
        isFirst: false,
        signedBy: login.session.id,
      },
      login.keys,
    ),
  ),
];

function described(roster: Roster): unknown {
  return [
    roster.digest(),
    [...roster.members()].map(([node, entry]) => [node, entry.hash]),
    roster.quarantined().map((entry) => entry.hash),
    roster.operatorByKey(hex(kit.operator.publicKey))?.name,
    roster.isFirstOperator(hex(kit.operator.publicKey)),
  ];
}

const inOrder = new Roster(kit.clusterId, crypto);
for (const record of records) inOrder.accept(record);

test('any order of arrival, with repetitions and damaged copies, gives the same roster', () => {
  expect(inOrder.records().size).toBe(records.length);
  const order = fc.shuffledSubarray([...records, ...records], {
    minLength: 2 * records.length,
    maxLength: 2 * records.length,
  });
  fc.assert(
    fc.property(order, fc.array(fc.nat(records.length - 1), { maxLength: 5 }), (arrivals, bad) => {
      const roster = new Roster(kit.clusterId, crypto);
      const hashes = new Set<string>();
      arrivals.forEach((record, at) => {
        const damaged = Uint8Array.from(record);
        damaged[(at * 7) % damaged.length] = 0;
        if (bad.includes(at)) roster.accept(damaged);
        const outcome = roster.accept(record);
        if (outcome.kind === 'added') for (const hash of outcome.hashes) hashes.add(hash);
      });
      // Whoever persists what `accept` names persists everything.
      expect([...hashes].toSorted()).toEqual([...inOrder.records().keys()].toSorted());
      expect(described(roster)).toEqual(described(inOrder));
      // Only damaged copies can still wait: for somebody who does not exist.
      expect(roster.parkedCount()).toBeLessThanOrEqual(new Set(bad).size);
    }),
    { numRuns: 200 },
  );
});
