import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { unhex } from '../../../crdt/ids.ts';
import { decodeLog, encodeBatch } from '../../../daemon/lease/durable.ts';
import { readChainState } from '../../../daemon/lease/fields.ts';
import { goldenFiles } from './golden.ts';
import { sampleRecords } from './messages.ts';

const golden = JSON.parse(
  readFileSync(new URL('../../fixtures/golden/lease-v1.json', import.meta.url), 'utf8'),
) as { files: Record<'log', string> };

function bytesOf(text: string): Uint8Array {
  return unhex(text) ?? new Uint8Array(0);
}

describe('golden bytes of version 1', () => {
  test('this version writes the same', () => {
    expect(goldenFiles()).toEqual(golden.files);
  });

  test('a log is read', () => {
    expect(decodeLog(bytesOf(golden.files.log))).toMatchObject({
      records: sampleRecords,
      damage: null,
    });
  });

  test('the state of the chain is read', () => {
    const state = sampleRecords.find((record) => record.kind === 'chain')?.state;
    expect(readChainState(state)).toEqual(state);
    expect(readChainState({ ...(state as object), v: 2 })).toBeNull();
    expect(readChainState({ ...(state as object), slot: 5 })).toBeNull();
  });
});

describe('a log of another version', () => {
  test('is read up to there when it is newer', () => {
    const newer = encodeBatch([], 2);
    const bytes = Uint8Array.from([...encodeBatch(sampleRecords), ...newer]);
    const goodBytes = bytes.length - newer.length;
    expect(decodeLog(bytes)).toEqual({ records: sampleRecords, damage: 'newer', goodBytes });
  });

  test('with kinds that are not known is read without them', () => {
    const unknown = { kind: 'later', what: 1 } as unknown as (typeof sampleRecords)[0];
    const read = decodeLog(encodeBatch([...sampleRecords, unknown]));
    expect(read).toMatchObject({ records: sampleRecords, damage: null });
  });

  test('with a record that makes no sense is corrupt', () => {
    const wrong = {
      kind: 'epoch',
      name: 'lock/x',
      epoch: -1,
    } as unknown as (typeof sampleRecords)[0];
    expect(decodeLog(encodeBatch([wrong]))).toMatchObject({ records: [], damage: 'corrupt' });
  });
});
