/** Two who know the same edits list the same conflicts, in whatever order they learnt of them. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { ObjectId } from '../../crdt/ids.ts';
import type { LeafPut } from '../../crdt/leaves.ts';
import { pickPointer } from '../../crdt/conflicts.ts';
import type { SignedBytes } from '../../crdt/records.ts';
import { defaultConfig } from '../../daemon/config.ts';
import { Documents } from '../../daemon/replication/documents.ts';
import { ClusterKit } from '../cluster-kit.ts';
import { SimCrypto } from '../sim/sim-crypto.ts';

const crypto = new SimCrypto();
const kit = new ClusterKit(crypto);
const doc = 'env/prod';
const objects = ['a', 'b'].map((digit) => digit.repeat(16) as ObjectId);
const pointers = ['/image', '/env/DB'];
const sessions = [0, 1, 2].map(() => kit.session(kit.host(0)));
const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

function replica(): Documents {
  return new Documents({
    clusterId: kit.clusterId,
    crypto,
    config: defaultConfig,
    log: silent,
    sessionKey: (id) => sessions.find((one) => one.session.id === id)?.keys.publicKey ?? null,
    mayWrite: () => true,
    onAdded: () => {},
    onEquivocation: () => {},
  });
}

type Step =
  | { kind: 'edit'; by: number; object: number; pointer: number; value: LeafPut['value'] }
  | { kind: 'pick'; by: number; value: LeafPut['value'] }
  | { kind: 'meet'; from: number; to: number };

const value = fc.constantFrom<LeafPut['value']>(null, 1, 2, 'x', true, ['a']);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('edit' as const),
      by: fc.nat(2),
      object: fc.nat(1),
      pointer: fc.nat(1),
      value,
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('pick' as const), by: fc.nat(2), value }) },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant('meet' as const), from: fc.nat(2), to: fc.nat(2) }),
  },
);

function write(documents: Documents, by: number, puts: readonly LeafPut[]): SignedBytes | null {
  const session = sessions[by];
  if (session === undefined) return null;
  const made = documents.create({
    doc,
    edit: { message: 'random', puts },
    session: session.session.id,
    sign: (bytes) => session.keys.sign(bytes),
    wallMs: 0,
  });
  return made?.entry.signed ?? null;
}

/** What a history leaves, and every envelope of it. */
function play(steps: readonly Step[]): { peers: Documents[]; all: SignedBytes[] } {
  const peers = sessions.map(replica);
  const all: SignedBytes[] = [];
  // Ids are never used by two: the objects are there before anybody disagrees about them.
  const puts = objects.map((object): LeafPut => ({ object, pointer: '/kind', value: 'service' }));
  const base = peers[0] === undefined ? null : write(peers[0], 0, puts);
  if (base !== null) all.push(base);
  for (const peer of peers) peer.accept(all);
  let number = 0;
  for (const one of steps) {
    if (one.kind === 'meet') {
      const [from, to] = [peers[one.from], peers[one.to]];
      if (from !== undefined && from !== to) to?.accept(from.entries(doc).map((e) => e.signed));
      continue;
    }
    const peer = peers[one.by];
    if (peer === undefined) continue;
    const puts: LeafPut[] = [];
    if (one.kind === 'edit') {
      const object = objects[one.object];
      if (object !== undefined)
        puts.push({ object, pointer: pointers[one.pointer] ?? '', value: one.value });
    } else {
      const [open] = peer.openConflicts(doc);
      if (open === undefined) continue;
      const { container, pointer } = open.ref;
      const picked = pickPointer(peer.conflictId(doc, open.ref));
      puts.push({ object: container, pointer, value: one.value });
      puts.push({ object: 'settings', pointer: picked, value: ++number });
    }
    const signed = write(peer, one.by, puts);
    if (signed !== null) all.push(signed);
  }
  return { peers, all };
}

function described(documents: Documents): unknown {
  const document = documents.document(doc);
  return [
    documents.openConflicts(doc),
    document.heads(),
    objects.map((object) => [...document.leaves(object)]),
    documents.chainHeads(doc),
  ];
}

test('conflicts are a function of the set of edits, not of the order of arrival [trellis:E5]', () => {
  let conflictsSeen = 0;
  fc.assert(
    fc.property(
      fc.array(step, { minLength: 4, maxLength: 30 }),
      fc.infiniteStream(fc.nat(1_000)),
      (steps, numbers) => {
        const { peers, all } = play(steps);
        const random = (): number => numbers.next().value as number;
        for (const peer of peers) peer.accept(all);
        const [first] = peers.map(described);
        conflictsSeen += peers[0]?.openConflicts(doc).length ?? 0;
        for (const peer of peers.slice(1)) expect(described(peer)).toEqual(first);

        // One by one in any order, all at once, and from a disk with a snapshot taken on the way.
        const oneByOne = replica();
        const shuffled = all
          .map((signed) => ({ signed, at: random() }))
          .toSorted((a, b) => a.at - b.at);
        let snapshot: ReturnType<Documents['snapshot']> | null = null;
        shuffled.forEach(({ signed }, at) => {
          oneByOne.accept([signed]);
          if (at === shuffled.length >> 1) snapshot = oneByOne.snapshot(doc);
        });
        expect(described(oneByOne)).toEqual(first);
        const atOnce = replica();
        atOnce.accept(shuffled.map(({ signed }) => signed));
        expect(described(atOnce)).toEqual(first);
        for (const saved of [snapshot, null]) {
          const restored = replica();
          restored.restore(doc, oneByOne.entries(doc), saved);
          expect(described(restored)).toEqual(first);
        }
      },
    ),
    { numRuns: 150 },
  );
  expect(conflictsSeen).toBeGreaterThan(20);
});
