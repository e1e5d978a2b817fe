import { describe, expect, test } from 'vitest';
import type { HostId, ObjectId } from '../../../crdt/ids.ts';
import type { LeafPut } from '../../../crdt/leaves.ts';
import { encode, decode } from '../../../crdt/codec.ts';
import { seal } from '../../../crdt/records.ts';
import type { EnvelopeRecord } from '../../../crdt/records.ts';
import { defaultConfig } from '../../../daemon/config.ts';
import { systemCrypto } from '../../../daemon/crypto.ts';
import { Documents } from '../../../daemon/replication/documents.ts';
import type { Entry } from '../../../daemon/replication/documents.ts';
import { ClusterKit } from '../../cluster-kit.ts';
import type { KitSession } from '../../cluster-kit.ts';

const env = 'env/prod';
const kit = new ClusterKit(systemCrypto);
const host = kit.host(0);
const object = 'a'.repeat(16) as ObjectId;

const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

class Peer {
  readonly documents: Documents;
  readonly sessions: Map<string, KitSession>;
  readonly equivocations: string[] = [];
  isAllowed: boolean | null = true;

  constructor(sessions: readonly KitSession[]) {
    this.sessions = new Map(sessions.map((one) => [one.session.id as string, one]));
    this.documents = new Documents({
      clusterId: kit.clusterId,
      crypto: systemCrypto,
      config: defaultConfig,
      log: silent,
      sessionKey: (id) => this.sessions.get(id)?.keys.publicKey ?? null,
      mayWrite: () => this.isAllowed,
      onAdded: () => {},
      onEquivocation: (session) => this.equivocations.push(session),
    });
  }

  edit(by: KitSession, puts: readonly LeafPut[], picks: string[] = []): Entry {
    const made = this.documents.create({
      doc: env,
      edit: {
        message: 'test',
        puts: [
          ...puts,
          ...picks.map((id) => ({
            object: 'settings' as const,
            pointer: `/picks/${id}`,
            value: 'x',
          })),
        ],
      },
      session: by.session.id,
      sign: (bytes) => by.keys.sign(bytes),
      wallMs: 1,
    });
    if (made === null) throw new Error('nothing changed');
    return made.entry;
  }

  state(): string {
    return JSON.stringify([
      this.documents.document(env).heads(),
      [...this.documents.document(env).leaves(object)],
    ]);
  }
}

const put = (pointer: string, value: LeafPut['value']): LeafPut => ({ object, pointer, value });

describe('documents', () => {
  test('concurrent edits of different leaves are both kept in any order of arrival [trellis:E5]', () => {
    const [s1, s2] = [kit.session(host), kit.session(host)];
    const a = new Peer([s1, s2]);
    const b = new Peer([s1, s2]);
    const first = a.edit(s1, [put('/kind', 'service'), put('/image', 'x:1')]);
    b.documents.accept([first.signed]);
    const fromA = a.edit(s1, [put('/image', 'x:2')]);
    const fromB = b.edit(s2, [put('/command', ['a', 'b'])]);
    a.documents.accept([fromB.signed]);
    b.documents.accept([fromA.signed]);
    expect(a.state()).toBe(b.state());
    expect(a.documents.document(env).leaf(object, '/command')).toEqual(['a', 'b']);
    expect(a.documents.document(env).leaf(object, '/image')).toBe('x:2');
    expect(a.documents.openConflicts(env)).toEqual([]);
  });

  test('the same leaf on both sides: one value everywhere, the conflict listed until somebody picks [trellis:E5]', () => {
    const [s1, s2] = [kit.session(host), kit.session(host)];
    const a = new Peer([s1, s2]);
    const b = new Peer([s1, s2]);
    b.documents.accept([a.edit(s1, [put('/image', 'x:1')]).signed]);
    const fromA = a.edit(s1, [put('/image', 'x:2')]);
    const fromB = b.edit(s2, [put('/image', 'x:3')]);
    a.documents.accept([fromB.signed]);
    b.documents.accept([fromA.signed]);
    expect(a.state()).toBe(b.state());
    const [open] = a.documents.openConflicts(env);
    expect(open?.ops).toHaveLength(2);
    expect(b.documents.openConflicts(env)).toEqual(a.documents.openConflicts(env));

    // An edit by somebody who did not look makes Automerge forget; we do not.
    const blind = a.edit(s1, [put('/image', 'x:4')]);
    b.documents.accept([blind.signed]);
    expect(b.documents.openConflicts(env)).toHaveLength(1);
    expect(b.documents.openConflicts(env)).toEqual(a.documents.openConflicts(env));

    const id = a.documents.conflictId(env, { container: object, pointer: '/image' });
    const pick = b.edit(s2, [put('/image', 'x:4')], [id]);
    a.documents.accept([pick.signed]);
    expect(a.documents.openConflicts(env)).toEqual([]);
    expect(b.documents.openConflicts(env)).toEqual([]);
  });

  test.each<[string, LeafPut['value'], LeafPut['value']]>([
    ['text', 'x', 'y'],
    ['numbers', 1, 2.5],
    ['switches', true, false],
    ['lists', ['a'], ['b', 'c']],
    ['absence', null, 'x'],
  ])(
    'writing the value in force again is a write like any other, and settles nothing but what was picked: %s [trellis:E5]',
    (_, one, other) => {
      const [s1, s2] = [kit.session(host), kit.session(host)];
      for (const isFirstInForce of [true, false]) {
        const [a, b] = [new Peer([s1, s2]), new Peer([s1, s2])];
        b.documents.accept([a.edit(s1, [put('/x', 'before')]).signed]);
        const fromA = a.edit(s1, [put('/x', isFirstInForce ? one : other)]);
        const fromB = b.edit(s2, [put('/x', isFirstInForce ? other : one)]);
        a.documents.accept([fromB.signed]);
        b.documents.accept([fromA.signed]);
        const value = a.documents.document(env).leaf(object, '/x');
        const blind = a.edit(s1, [put('/x', value), put('/y', 1)]);
        b.documents.accept([blind.signed]);
        expect(b.state()).toBe(a.state());
        expect(b.documents.openConflicts(env)).toHaveLength(1);
        expect(b.documents.openConflicts(env)).toEqual(a.documents.openConflicts(env));
        const id = a.documents.conflictId(env, { container: object, pointer: '/x' });
        b.documents.accept([a.edit(s1, [put('/x', value)], [id]).signed]);
        a.documents.accept([b.edit(s2, [put('/y', 2)]).signed]);
        for (const peer of [a, b]) {
          expect(peer.documents.openConflicts(env)).toEqual([]);
          expect(peer.documents.document(env).leaf(object, '/x')).toEqual(value);
        }
        expect(a.state()).toBe(b.state());
      }
    },
  );

  test('two who pick at the same time: what they disagree on stays listed, their picking itself is no conflict', () => {
    const [s1, s2] = [kit.session(host), kit.session(host)];
    const [a, b] = [new Peer([s1, s2]), new Peer([s1, s2])];
    b.documents.accept([a.edit(s1, [put('/image', 'x:1')]).signed]);
    const id = a.documents.conflictId(env, { container: object, pointer: '/image' });
    const round = (valueA: string, valueB: string, picks: string[]) => {
      const fromA = a.edit(s1, [put('/image', valueA)], picks);
      const fromB = b.edit(s2, [put('/image', valueB)], picks);
      a.documents.accept([fromB.signed]);
      b.documents.accept([fromA.signed]);
      expect(a.state()).toBe(b.state());
      expect(b.documents.openConflicts(env)).toEqual(a.documents.openConflicts(env));
      return a.documents.openConflicts(env).map(({ ref }) => ref.pointer);
    };
    expect(round('x:2', 'x:3', [])).toEqual(['/image']);
    expect(round('x:2', 'x:3', [id])).toEqual(['/image']);
    b.documents.accept([a.edit(s1, [put('/image', 'x:2')], [id]).signed]);
    for (const peer of [a, b]) expect(peer.documents.openConflicts(env)).toEqual([]);
  });

  test('a third peer that gets everything at once, in reverse, sees the same conflict', () => {
    const [s1, s2] = [kit.session(host), kit.session(host)];
    const a = new Peer([s1, s2]);
    const b = new Peer([s1, s2]);
    const base = a.edit(s1, [put('/image', 'x:1')]);
    b.documents.accept([base.signed]);
    const fromA = a.edit(s1, [put('/image', 'x:2')]);
    const fromB = b.edit(s2, [put('/image', 'x:3')]);
    a.documents.accept([fromB.signed]);
    const later = a.edit(s1, [put('/image', 'x:5')]);
    const c = new Peer([s1, s2]);
    c.documents.accept([later.signed, fromB.signed, fromA.signed, base.signed]);
    expect(c.state()).toBe(a.state());
    expect(c.documents.openConflicts(env)).toEqual(a.documents.openConflicts(env));
    expect(c.documents.openConflicts(env)).toHaveLength(1);
  });

  test('what is early is parked and never lost: unknown session, missing grant, missing cause', () => {
    const s1 = kit.session(host);
    const a = new Peer([s1]);
    const entries = [1, 2, 3].map((n) => a.edit(s1, [put('/n', n)]));
    const b = new Peer([]);
    b.documents.accept(entries.toReversed().map((entry) => entry.signed));
    expect(b.documents.parkedCount()).toBe(3);
    b.isAllowed = null;
    b.sessions.set(s1.session.id, s1);
    b.documents.retry();
    expect(b.documents.parkedCount()).toBe(3);
    b.isAllowed = true;
    b.documents.retry();
    expect(b.documents.parkedCount()).toBe(0);
    expect(b.state()).toBe(a.state());
  });

  test('a changed byte, a wrong actor and an author without the right never reach the document', () => {
    const [s1, s2] = [kit.session(host), kit.session(host)];
    const a = new Peer([s1, s2]);
    const good = a.edit(s1, [put('/image', 'x:1')]);
    const b = new Peer([s1, s2]);
    for (let at = 0; at < good.signed.length; at += 7) {
      const bad = Uint8Array.from(good.signed);
      bad[at] = (bad[at] ?? 0) ^ 1;
      b.documents.accept([bad]);
    }
    expect(b.documents.document(env).leaves(object).size).toBe(0);

    const [payload] = decode(good.signed) as [Uint8Array, Uint8Array];
    const record = { ...(decode(payload) as EnvelopeRecord), session: s2.session.id };
    b.documents.accept([seal(record, (bytes) => s2.keys.sign(bytes))]);
    expect(b.documents.document(env).leaves(object).size).toBe(0);

    b.isAllowed = false;
    b.documents.accept([good.signed]);
    expect(b.documents.document(env).leaves(object).size).toBe(0);
    b.isAllowed = true;
    expect(b.documents.accept([good.signed])).toEqual(['parked']);
    expect(b.state()).toBe(a.state());
  });

  test('two different edits under one number suspend the session, visibly', () => {
    const s1 = kit.session(host);
    const [a, b] = [new Peer([s1]), new Peer([s1])];
    const one = a.edit(s1, [put('/image', 'x:1')]);
    const two = b.edit(s1, [put('/image', 'x:2')]);
    expect(a.documents.accept([two.signed])).toEqual(['rejected']);
    expect(a.equivocations).toEqual([s1.session.id]);
    expect(a.documents.accept([one.signed])).toEqual(['known']);
  });

  test('unknown fields of a newer peer are kept in the bytes that are passed on', () => {
    const s1 = kit.session(host);
    const a = new Peer([s1]);
    const entry = a.edit(s1, [put('/image', 'x:1'), put('/x-new/of/later', 'kept')]);
    const [payload] = decode(entry.signed) as [Uint8Array, Uint8Array];
    const newer = encode({ ...(decode(payload) as object), v: 7, later: { nested: [1, 2] } });
    const signed = seal(decode(newer) as EnvelopeRecord, (bytes) => s1.keys.sign(bytes));
    const b = new Peer([s1]);
    b.documents.accept([signed]);
    const kept = b.documents.entries(env)[0];
    expect(kept?.signed).toEqual(signed);
    expect(b.documents.document(env).leaf(object, '/x-new/of/later')).toBe('kept');
  });

  test('restoring from own entries and a saved document gives the same state and the same conflicts', () => {
    const [s1, s2] = [kit.session(host), kit.session(host)];
    const [a, b] = [new Peer([s1, s2]), new Peer([s1, s2])];
    const fromA = a.edit(s1, [put('/image', 'x:2')]);
    a.documents.accept([b.edit(s2, [put('/image', 'x:3')]).signed]);
    void fromA;
    const snapshot = a.documents.snapshot(env);
    a.edit(s1, [put('/later', true)]);
    for (const saved of [snapshot, null]) {
      const c = new Peer([s1, s2]);
      c.documents.restore(env, a.documents.entries(env), saved);
      expect(c.state()).toBe(a.state());
      expect(c.documents.openConflicts(env)).toEqual(a.documents.openConflicts(env));
    }
  });

  test('an edit that could not be made durable is taken back', () => {
    const s1 = kit.session(host);
    const a = new Peer([s1]);
    a.edit(s1, [put('/image', 'x:1')]);
    const before = a.state();
    const lost = a.edit(s1, [put('/image', 'x:2')]);
    expect(a.documents.rollBack(lost)).toEqual([lost]);
    expect(a.state()).toBe(before);
  });

  test('what others of this host built on a lost edit goes with it, and nothing else', () => {
    const [s1, s2, s3] = [kit.session(host), kit.session(host), kit.session(host)];
    const a = new Peer([s1, s2, s3]);
    const elsewhere = new Peer([s1, s2, s3]);
    const early = a.edit(s2, [put('/a', 1)]);
    const waiting = [elsewhere.edit(s3, [put('/x', 1)]), elsewhere.edit(s3, [put('/x', 2)])];
    a.documents.accept(waiting.slice(1).map((entry) => entry.signed));
    const lost = a.edit(s1, [put('/b', 1)]);
    const after = a.edit(s2, [put('/c', 1)]);
    expect(a.documents.rollBack(lost)).toEqual([lost, after]);
    expect(a.documents.entries(env)).toEqual([early]);
    expect(a.documents.document(env).leaf(object, '/c')).toBeNull();
    expect(a.documents.parkedCount()).toBe(1);
  });

  test('a snapshot that does not fit is given up for the log', () => {
    const s1 = kit.session(host);
    const a = new Peer([s1]);
    a.edit(s1, [put('/image', 'x:1')]);
    const snapshot = { saved: Uint8Array.from([1, 2, 3]), conflicts: null };
    const b = new Peer([s1]);
    expect(() => b.documents.restore(env, a.documents.entries(env), snapshot)).toThrow();
    b.documents.restore(env, a.documents.entries(env), null);
    expect(b.state()).toBe(a.state());
  });

  test('what waits is bounded in bytes, too', () => {
    const s1 = kit.session(host);
    const [payload] = decode(new Peer([s1]).edit(s1, [put('/a', 1)]).signed) as [Uint8Array];
    const one = decode(payload) as EnvelopeRecord;
    const b = new Peer([]);
    for (let seq = 1; seq <= 40; seq++) {
      const record = { ...one, seq, change: new Uint8Array(1_900_000) };
      b.documents.accept([seal(record, () => new Uint8Array(64))]);
    }
    expect(b.documents.parkedCount()).toBeGreaterThan(20);
    expect(b.documents.parkedCount()).toBeLessThan(37);
  });
});

test('host ids of the kit are distinct', () => {
  const ids = new Set<HostId>([0, 1, 2].map((index) => kit.host(index).host));
  expect(ids.size).toBe(3);
});
