/**
 * What every Storage must do, run on the files of production and on the simulator's disk, so that the two cannot drift
 * apart. The caller gives a harness; `settle` lets outstanding writes finish.
 */
import { describe, expect, test } from 'vitest';
import type { Storage } from '../../daemon/ports.ts';

export interface StorageHarness {
  /** The storage of one run of a daemon. The second call ends the earlier run cleanly. */
  open(): Promise<Storage>;
  /** Resolves when every callback that is due has fired. */
  settle(): Promise<void>;
  /** Between runs: puts garbage behind the last record. */
  tearTail(log: string): Promise<void>;
  /** Between runs: changes one byte inside the record with this index. */
  damageRecord(log: string, index: number): Promise<void>;
  /** Between runs: changes one byte of a file written with writeFile. */
  damageFile(name: string): Promise<void>;
  /** While true, writes fail as on a full disk. */
  setFull(isFull: boolean): Promise<void>;
  close(): Promise<void>;
}

const record = (text: string): Uint8Array => new TextEncoder().encode(text);
const texts = (records: readonly Uint8Array[]): string[] =>
  records.map((bytes) => new TextDecoder().decode(bytes));

export function describeStorage(name: string, makeHarness: () => Promise<StorageHarness>): void {
  const withHarness = (body: (harness: StorageHarness) => Promise<void>) => async () => {
    const harness = await makeHarness();
    try {
      await body(harness);
    } finally {
      await harness.close();
    }
  };

  /** Appends and returns what each `synced` was told, in the order of the calls back. */
  const appendAll = async (
    harness: StorageHarness,
    storage: Storage,
    log: string,
    records: readonly string[],
  ): Promise<[string, boolean][]> => {
    const told: [string, boolean][] = [];
    for (const text of records) {
      storage.append(log, record(text), (error) => told.push([text, error === undefined]));
    }
    expect(told, 'synced never fires inside the call').toEqual([]);
    await harness.settle();
    return told;
  };

  describe(`Storage: ${name}`, () => {
    test(
      'a new log and a new file are empty and undamaged',
      withHarness(async (harness) => {
        const storage = await harness.open();
        expect(storage.readLog('env/prod')).toEqual({ records: [], damage: null });
        expect(storage.readFile('plan')).toEqual({ bytes: null, damage: null });
      }),
    );

    test(
      'appended records come back after a restart, oldest first, logs apart',
      withHarness(async (harness) => {
        const storage = await harness.open();
        const told = await appendAll(harness, storage, 'env/prod', ['a', 'b', '', 'c']);
        expect(told).toEqual([
          ['a', true],
          ['b', true],
          ['', true],
          ['c', true],
        ]);
        await appendAll(harness, storage, 'env', ['other']);
        const again = await harness.open();
        expect(texts(again.readLog('env/prod').records)).toEqual(['a', 'b', '', 'c']);
        expect(texts(again.readLog('env').records)).toEqual(['other']);
        await appendAll(harness, again, 'env/prod', ['d']);
        const third = (await harness.open()).readLog('env/prod');
        expect(texts(third.records)).toEqual(['a', 'b', '', 'c', 'd']);
        expect(third.damage).toBeNull();
      }),
    );

    test(
      'the caller may change its buffer after the call',
      withHarness(async (harness) => {
        const storage = await harness.open();
        const log = record('log');
        const file = record('file');
        storage.append('l', log, () => {});
        storage.writeFile('f', file, () => {});
        log.fill(0);
        file.fill(0);
        await harness.settle();
        const again = await harness.open();
        expect(texts(again.readLog('l').records)).toEqual(['log']);
        expect(again.readFile('f').bytes).toEqual(record('file'));
      }),
    );

    test(
      'rewriteLog replaces everything before it and nothing after it',
      withHarness(async (harness) => {
        const storage = await harness.open();
        const told: string[] = [];
        storage.append('l', record('old'), () => told.push('append'));
        storage.rewriteLog('l', [record('x'), record('y')], () => told.push('rewrite'));
        storage.append('l', record('z'), () => told.push('append after'));
        await harness.settle();
        expect(told).toEqual(['append', 'rewrite', 'append after']);
        expect(texts((await harness.open()).readLog('l').records)).toEqual(['x', 'y', 'z']);
      }),
    );

    test(
      'writeFile: the latest call wins and every call is answered',
      withHarness(async (harness) => {
        const storage = await harness.open();
        let answers = 0;
        for (let i = 0; i < 20; i++) storage.writeFile('f', record(`v${i}`), () => answers++);
        expect(answers).toBe(0);
        await harness.settle();
        expect(answers).toBe(20);
        expect((await harness.open()).readFile('f')).toEqual({
          bytes: record('v19'),
          damage: null,
        });
      }),
    );

    test(
      'a torn tail is cut off and said, and the log goes on',
      withHarness(async (harness) => {
        await appendAll(harness, await harness.open(), 'l', ['a', 'b']);
        await harness.tearTail('l');
        const storage = await harness.open();
        const { records, damage } = storage.readLog('l');
        expect(texts(records)).toEqual(['a', 'b']);
        expect(damage).toMatchObject({ name: 'l', kind: 'torn-tail', setAside: null });
        await appendAll(harness, storage, 'l', ['c']);
        const after = (await harness.open()).readLog('l');
        expect(texts(after.records)).toEqual(['a', 'b', 'c']);
        expect(after.damage).toBeNull();
      }),
    );

    test(
      'a changed byte costs its own record, never an earlier one, and is said',
      withHarness(async (harness) => {
        await appendAll(harness, await harness.open(), 'l', ['first', 'second', 'third']);
        await harness.damageRecord('l', 1);
        const storage = await harness.open();
        const { records, damage } = storage.readLog('l');
        const kept = texts(records);
        // Whether what comes after the damage is found again is not promised.
        expect(kept.slice(0, 2)).toEqual(kept.length === 1 ? ['first'] : ['first', 'third']);
        expect(damage).toMatchObject({ name: 'l', kind: 'corrupt' });
        expect(damage?.setAside).not.toBeNull();
        await appendAll(harness, storage, 'l', ['fourth']);
        const after = (await harness.open()).readLog('l');
        expect(texts(after.records)).toEqual([...kept, 'fourth']);
        expect(after.damage).toBeNull();
      }),
    );

    test(
      'a damaged file is set aside, said once, and can be written again',
      withHarness(async (harness) => {
        const storage = await harness.open();
        storage.writeFile('f', record('value'), () => {});
        await harness.settle();
        await harness.damageFile('f');
        const again = await harness.open();
        const { bytes, damage } = again.readFile('f');
        expect(bytes).toBeNull();
        expect(damage).toMatchObject({ name: 'f', kind: 'corrupt' });
        again.writeFile('f', record('new'), () => {});
        await harness.settle();
        expect((await harness.open()).readFile('f')).toEqual({
          bytes: record('new'),
          damage: null,
        });
      }),
    );

    test(
      'full disk: the record is refused, nothing of it is kept, and writing works again when there is room',
      withHarness(async (harness) => {
        const storage = await harness.open();
        await appendAll(harness, storage, 'l', ['kept']);
        await harness.setFull(true);
        expect(await appendAll(harness, storage, 'l', ['refused'.repeat(1_000)])).toEqual([
          ['refused'.repeat(1_000), false],
        ]);
        let failure: Error | undefined;
        storage.writeFile('f', new Uint8Array(10_000), (error) => (failure = error));
        await harness.settle();
        expect(failure).toBeDefined();
        await harness.setFull(false);
        expect(await appendAll(harness, storage, 'l', ['later'])).toEqual([['later', true]]);
        const again = await harness.open();
        expect(again.readLog('l').damage).toBeNull();
        expect(texts(again.readLog('l').records)).toEqual(['kept', 'later']);
        expect(again.readFile('f').bytes).toBeNull();
      }),
    );
  });
}
