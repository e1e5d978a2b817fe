import * as A from '@automerge/automerge';
import { describe, expect, test } from 'vitest';
import { decodeChange, genesisHash, TrellisDocument } from '../../../crdt/document.ts';
import type { ObjectId, SessionId } from '../../../crdt/ids.ts';

const actor = 'ab'.repeat(16) as SessionId;
const object = 'a'.repeat(16) as ObjectId;

type Loose = Record<string, Record<string, unknown>>;

/** One change by somebody who does not use our code. */
function foreignChange(edit: (draft: Loose) => void): Uint8Array {
  const own = new TrellisDocument(null);
  own.edit(actor, 'base', [{ object, pointer: '/name', value: 'site' }]);
  let doc = A.load<Loose>(own.save(), { actor: 'cd'.repeat(16) });
  doc = A.change(doc, { time: 0 }, edit);
  const change = A.getLastLocalChange(doc);
  if (change === undefined) throw new Error('nothing changed');
  return change;
}

describe('the shape of a document', () => {
  test.each<[string, (draft: Loose) => void]>([
    ['deleting an object', (draft) => delete draft['objects']?.[object]],
    [
      'deleting a leaf',
      (draft) => delete (draft['objects'] as Record<string, Loose>)[object]?.['/name'],
    ],
    ['deleting a container', (draft) => delete draft['settings']],
    ['replacing a container', (draft) => void (draft['settings'] = {})],
    ['collaborative text', (draft) => void ((draft['settings'] as Loose)['/a'] = 'text' as never)],
    ['a list', (draft) => void ((draft['settings'] as Loose)['/a'] = [1] as never)],
    ['a map in a map', (draft) => void ((draft['settings'] as Loose)['/a'] = {})],
    ['an object of another name', (draft) => void ((draft['objects'] as Loose)['x'] = {})],
    [
      'a scalar in place of an object',
      (draft) => void ((draft['objects'] as Loose)[object] = 1 as never),
    ],
    ['a leaf without a pointer', (draft) => void ((draft['settings'] as Loose)['a'] = 1 as never)],
    ['a leaf at the root', (draft) => void (draft['/x'] = 1 as never)],
    [
      'a counter',
      (draft) => {
        (draft['settings'] as Loose)['/a'] = new A.Counter(1) as never;
        (draft['settings'] as unknown as Record<string, A.Counter>)['/a']?.increment(2);
      },
    ],
  ])('refuses %s', (_, edit) => {
    expect(decodeChange(foreignChange(edit))).toBeNull();
  });

  test('takes what edits make: objects and scalar leaves', () => {
    const change = foreignChange((draft) => {
      (draft['settings'] as Loose)['/a'] = new A.ImmutableString('x') as never;
      (draft['objects'] as Loose)['b'.repeat(16)] = {};
    });
    expect(
      decodeChange(change)
        ?.ops.map((op) => op.action)
        .toSorted(),
    ).toEqual(['makeMap', 'set']);
  });

  test('refuses bytes with anything before, after or besides one change', () => {
    const document = new TrellisDocument(null);
    const made = document.edit(actor, 'm', [{ object, pointer: '/a', value: 1 }]);
    const change = made?.change ?? new Uint8Array();
    expect(decodeChange(change)?.deps).toEqual([genesisHash]);
    expect(decodeChange(Uint8Array.from([...change, ...change]))).toBeNull();
    expect(decodeChange(Uint8Array.from([...change, 0]))).toBeNull();
    expect(decodeChange(Uint8Array.from([0, ...change]))).toBeNull();
    expect(decodeChange(document.save())).toBeNull();
    expect(decodeChange(new Uint8Array())).toBeNull();
  });

  test('a refused change leaves the document usable', () => {
    const document = new TrellisDocument(null);
    document.edit(actor, 'm', [{ object, pointer: '/a', value: 1 }]);
    expect(() => document.apply([Uint8Array.from([1, 2, 3])])).toThrow();
    expect(document.leaf(object, '/a')).toBe(1);
    expect(document.edit(actor, 'm', [{ object, pointer: '/a', value: 2 }])).not.toBeNull();
  });

  test('every kind of leaf comes back as it was written; null is absent', () => {
    const document = new TrellisDocument(null);
    const values = [true, false, 0, -1.5, '', 'text', [], ['a', 1, { b: null }]];
    document.edit(
      actor,
      'm',
      values.map((value, at) => ({ object, pointer: `/${at}`, value })),
    );
    document.edit(actor, 'm', [{ object, pointer: '/gone', value: 1 }]);
    document.edit(actor, 'm', [{ object, pointer: '/gone', value: null }]);
    const again = new TrellisDocument(document.save());
    expect([...again.leaves(object).values()]).toEqual(values);
    expect(again.leaf(object, '/gone')).toBeNull();
    expect(again.leaf(object, 'toString')).toBeNull();
    expect(again.edit(actor, 'm', [{ object, pointer: '/5', value: 'text' }])).toBeNull();
  });

  test('an object is found by the change that created it, also after others came', () => {
    const document = new TrellisDocument(null);
    const ids = ['b', 'c'].map((digit) => digit.repeat(16) as ObjectId);
    for (const id of ids) {
      const made = document.edit(actor, 'm', [{ object: id, pointer: '/a', value: 1 }]);
      const ops = decodeChange(made?.change ?? new Uint8Array())?.ops ?? [];
      const created = ops.find((op) => op.action === 'makeMap');
      expect(document.containerOfOp(created?.id ?? '')).toBe(id);
    }
    expect(document.containerOfOp(`99@${actor}`)).toBeNull();
  });
});
