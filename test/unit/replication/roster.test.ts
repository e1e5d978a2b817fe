import { describe, expect, test } from 'vitest';
import { encode } from '../../../crdt/codec.ts';
import { hex } from '../../../crdt/ids.ts';
import type { NodeId } from '../../../crdt/ids.ts';
import { consentBytes, seal } from '../../../crdt/records.ts';
import type { AnyRecord, SignedBytes } from '../../../crdt/records.ts';
import type { KeyPair } from '../../../daemon/ports.ts';
import { Roster } from '../../../daemon/replication/roster.ts';
import { ClusterKit } from '../../cluster-kit.ts';
import type { KitHost } from '../../cluster-kit.ts';
import { SimCrypto } from '../../sim/sim-crypto.ts';

const crypto = new SimCrypto();
const kit = new ClusterKit(crypto);
const head = { v: 1, clusterId: kit.clusterId };
const founder = kit.host(0);
const login = kit.session(founder);
const inviteId = 'ab'.repeat(16);

function signed(record: AnyRecord, keys: KeyPair): SignedBytes {
  return seal(record, (bytes) => keys.sign(bytes));
}

function invite(uses: number, changes: object = {}): SignedBytes {
  return signed(
    {
      ...head,
      kind: 'invite',
      id: inviteId,
      session: login.session.id,
      codeHash: 'c'.repeat(64),
      env: 'prod',
      roles: ['web'],
      uses,
      expiresAt: 1,
      ...changes,
    },
    login.keys,
  );
}

/** `host` admitted by `by` under the invite. */
function admitted(host: KitHost, by: KitHost, changes: object = {}): SignedBytes {
  const consent = host.keys.sign(
    consentBytes({ clusterId: kit.clusterId, hostId: host.host, hostKey: host.keys.publicKey }),
  );
  return signed(
    {
      ...head,
      kind: 'member',
      hostKey: host.keys.publicKey,
      hostId: host.host,
      name: host.name,
      env: 'prod',
      roles: ['web'],
      meta: {},
      invite: inviteId,
      admittedBy: by.keys.publicKey,
      consent,
      admittedAt: 1,
      ...changes,
    },
    by.keys,
  );
}

function removal(
  id: string,
  options: { by?: string; keys: KeyPair; subject?: 'member' | 'operator' },
): SignedBytes {
  const { by = 'self', keys, subject = 'member' } = options;
  return signed({ ...head, kind: 'removal', subject, id, by, reason: 'test' }, keys);
}

function operatorAgain(changes: object, keys: KeyPair): SignedBytes {
  return signed(
    {
      ...head,
      kind: 'operator',
      publicKey: kit.operator.publicKey,
      name: 'admin',
      seq: 1,
      isFirst: false,
      ...changes,
    },
    keys,
  );
}

function rosterOf(...records: readonly SignedBytes[]): Roster {
  const roster = new Roster(kit.clusterId, crypto);
  for (const record of records) roster.accept(record);
  return roster;
}

const base = [kit.authorityRecord, kit.operatorRecord, login.record, kit.member(founder)];

describe('roster', () => {
  test('a record whose issuers come later is parked and taken as soon as they are here', () => {
    const roster = new Roster(kit.clusterId, crypto);
    const late = admitted(kit.host(1), founder);
    const backwards = [late, ...[...base, invite(1)].toReversed()];
    const outcomes = backwards.map((record) => roster.accept(record).kind);
    expect(outcomes).toEqual(['parked', 'parked', 'parked', 'parked', 'parked', 'added']);
    expect(roster.parkedCount()).toBe(0);
    expect(roster.digest()).toBe(rosterOf(...base, invite(1), late).digest());
    expect([...roster.members().keys()]).toEqual([founder.node, kit.host(1).node].toSorted());
  });

  test('what arrives completes chains of any depth, and the outcome names all of it', () => {
    const roster = rosterOf(...base.slice(1));
    const outcome = roster.accept(kit.authorityRecord);
    expect(outcome.kind === 'added' ? outcome.hashes.length : 0).toBe(4);
  });

  test('forged, foreign and replayed records are refused', () => {
    const stranger = kit.host(9);
    const other = new ClusterKit(crypto, { label: 'other' });
    const roster = rosterOf(...base, invite(5));
    const before = roster.digest();
    const forged = [
      admitted(kit.host(1), founder, { admittedBy: kit.host(2).keys.publicKey }),
      signed(
        {
          ...head,
          kind: 'authority',
          publicKey: stranger.keys.publicKey,
          name: 'x',
          caCertificate: new Uint8Array(),
        },
        stranger.keys,
      ),
      operatorAgain({}, stranger.keys),
      operatorAgain({ isFirst: true, signedBy: login.session.id }, login.keys),
      admitted(kit.host(1), founder, { consent: new Uint8Array(64) }),
      admitted(kit.host(1), founder, { env: 'test' }),
      admitted(kit.host(1), founder, { roles: ['web', 'vault'] }),
      admitted(kit.host(1), founder, { invite: undefined }),
      removal(founder.node, { keys: stranger.keys }),
      removal(hex(kit.operator.publicKey), { keys: founder.keys, subject: 'operator' }),
      other.authorityRecord,
      other.member(other.host(0)),
      encode('nothing'),
      new Uint8Array(70_000),
    ];
    for (const record of forged)
      expect(['rejected', 'parked']).toContain(roster.accept(record).kind);
    expect(
      forged.map((record) => roster.accept(record).kind).filter((kind) => kind === 'added'),
    ).toEqual([]);
    expect(roster.accept(base[3] as SignedBytes).kind).toBe('known');
    expect(roster.digest()).toBe(before);
    expect(roster.members().size).toBe(1);
  });

  test('a session after the end of its login, and one of a foreign login, are refused', () => {
    const short = kit.session(founder, { expiresAtWallMs: 5 });
    const roster = rosterOf(...base);
    expect(roster.accept(short.record).kind).toBe('added');
    const other = new ClusterKit(crypto, { label: 'other' });
    expect(roster.accept(other.session(other.host(0)).record).kind).toBe('rejected');
  });

  test('more hosts than the invite has uses: the highest hashes are kept out, the same everywhere', () => {
    const joining = [1, 2, 3, 4].map((index) => admitted(kit.host(index), founder));
    const one = rosterOf(...base, invite(2), ...joining);
    const two = rosterOf(...joining.toReversed(), invite(2), ...base);
    expect(one.members().size).toBe(3);
    expect(one.quarantined()).toHaveLength(2);
    expect([...two.members().keys()]).toEqual([...one.members().keys()]);
    const kept = [...one.members().values()].filter((entry) => entry.node !== founder.node);
    for (const entry of one.quarantined())
      for (const other of kept) expect(entry.hash > other.hash).toBe(true);
    // A removed host has used its place: another does not slip in.
    const first = kept[0]?.node ?? '';
    one.accept(removal(first, { by: login.session.id, keys: login.keys }));
    expect(one.members().size).toBe(2);
    expect(one.quarantined()).toHaveLength(2);
  });

  test('a host that claims the id of another is kept out; a founder never is', () => {
    const twin: KitHost = { ...kit.host(1), host: founder.host };
    const roster = rosterOf(...base, invite(5), admitted(twin, founder));
    expect([...roster.members().keys()]).toEqual([founder.node]);
    expect(roster.quarantined().map((entry) => entry.node)).toEqual([twin.node]);
  });

  test('a host removes itself, a session removes any; a new key of the same host is let in then', () => {
    const roster = rosterOf(
      ...base,
      invite(5),
      admitted(kit.host(1), founder),
      admitted(kit.host(2), founder),
    );
    expect(roster.accept(removal(kit.host(1).node, { keys: kit.host(1).keys })).kind).toBe('added');
    expect(
      roster.accept(removal(kit.host(2).node, { by: login.session.id, keys: login.keys })).kind,
    ).toBe('added');
    expect([...roster.members().keys()]).toEqual([founder.node]);
    expect(roster.memberEver(kit.host(1).node)).not.toBeNull();
    const again: KitHost = { ...kit.host(3), host: kit.host(1).host };
    roster.accept(admitted(again, founder));
    expect(roster.members().has(again.node)).toBe(true);
  });

  test('an operator record is replaced by the highest seq in any order', () => {
    const records = [2, 1, 3].map((seq) =>
      operatorAgain({ seq, name: `name-${seq}`, signedBy: login.session.id }, login.keys),
    );
    for (const order of [records, records.toReversed()]) {
      const roster = rosterOf(...base, ...order);
      expect(roster.operatorByKey(hex(kit.operator.publicKey))?.name).toBe('name-3');
    }
  });

  test('who the authority named first operator stays so, whatever records follow', () => {
    const roster = rosterOf(
      ...base,
      operatorAgain({ seq: 9, signedBy: login.session.id }, login.keys),
    );
    expect(roster.isFirstOperator(hex(kit.operator.publicKey))).toBe(true);
    expect(roster.isFirstOperator(hex(founder.keys.publicKey))).toBe(false);
  });

  test('what waits is bounded, and a forged twin of a waiting record is no harm in the end', () => {
    const roster = new Roster(kit.clusterId, crypto);
    for (let index = 0; index < 2_100; index++)
      roster.accept(removal(hex(crypto.sha256(encode(index))), { keys: founder.keys }));
    expect(roster.parkedCount()).toBe(2_000);
    const genuine = admitted(kit.host(1), founder);
    roster.accept(genuine);
    const forged = Uint8Array.from(genuine);
    forged[forged.length - 1] = (forged.at(-1) ?? 0) ^ 1;
    roster.accept(forged);
    for (const record of [...base, invite(1)]) roster.accept(record);
    roster.accept(genuine);
    expect(roster.members().has(kit.host(1).node as NodeId)).toBe(true);
  });
});
