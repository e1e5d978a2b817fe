/** What an older version wrote is read, what this one writes is what it always wrote, and what a newer one adds is kept. */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { applyEdits } from '../../../crdt/apply-file.ts';
import { decode, encode } from '../../../crdt/codec.ts';
import { parseDesiredFile } from '../../../crdt/desired-file.ts';
import { TrellisDocument } from '../../../crdt/document.ts';
import { exportFile } from '../../../crdt/export-file.ts';
import { hex, unhex } from '../../../crdt/ids.ts';
import type { ObjectId } from '../../../crdt/ids.ts';
import type { LeafPut } from '../../../crdt/leaves.ts';
import { open, openAs, seal, signedBytes } from '../../../crdt/records.ts';
import type { AnyRecord } from '../../../crdt/records.ts';
import { buildEnvView } from '../../../crdt/view.ts';
import { defaultConfig } from '../../../daemon/config.ts';
import { systemCrypto } from '../../../daemon/crypto.ts';
import { decodeHello } from '../../../daemon/net/hello.ts';
import type { Storage } from '../../../daemon/ports.ts';
import { Facts } from '../../../daemon/replication/facts.ts';
import { Journal } from '../../../daemon/replication/journal.ts';
import { Roster } from '../../../daemon/replication/roster.ts';
import { decodeMessage, encodeMessage } from '../../../daemon/replication/wire.ts';
import { scanLog } from '../../../daemon/store/framing.ts';
import { joinAnswerSchema } from '../../../daemon/trust/join-wire.ts';
import {
  emptyDocuments,
  golden,
  goldenDoc,
  goldenDocuments,
  goldenKit as kit,
  goldenMessages,
  goldenRecords,
} from './golden.ts';

const v1 = JSON.parse(
  readFileSync(new URL('../../fixtures/golden/v1.json', import.meta.url), 'utf8'),
) as Record<string, string>;

function bytesOf(name: string): Uint8Array {
  const bytes = unhex(v1[name] ?? 'missing');
  if (bytes === null) throw new Error(`no golden bytes of ${name}`);
  return bytes;
}

function named(prefix: string): string[] {
  return Object.keys(v1)
    .filter((name) => name.startsWith(prefix))
    .map((name) => name.slice(prefix.length));
}

describe('golden bytes of version 1', () => {
  test('this version writes the same', () => {
    expect(golden()).toEqual(v1);
  });

  test('every kind of record opens, and its signature holds', () => {
    expect(named('record ').toSorted()).toEqual(Object.keys(goldenRecords()).toSorted());
    const session = openAs('session', bytesOf('record session'))?.record.sessionKey;
    const signers: Record<string, Uint8Array | undefined> = {
      authority: kit.authority.publicKey,
      operator: kit.authority.publicKey,
      member: kit.authority.publicKey,
      login: kit.operator.publicKey,
      fact: kit.host(0).keys.publicKey,
    };
    for (const kind of named('record ').filter((one) => one !== 'session')) {
      const opened = open(bytesOf(`record ${kind}`));
      expect(opened?.record.kind).toBe(kind);
      const key = signers[kind] ?? (session as Uint8Array);
      const { payload, signature } = opened as NonNullable<typeof opened>;
      expect(systemCrypto.verify(key, signedBytes(payload), signature), kind).toBe(true);
    }
    const roster = new Roster(kit.clusterId, systemCrypto);
    for (const kind of ['authority', 'operator', 'session', 'invite', 'member', 'removal'])
      expect(roster.accept(bytesOf(`record ${kind}`)).kind, kind).toBe('added');
  });

  test('every message of the wire is understood', () => {
    const messages = goldenMessages();
    expect(named('message ').toSorted()).toEqual(Object.keys(messages).toSorted());
    for (const type of named('message ')) {
      const { v, c, ...message } = decodeMessage(
        kit.clusterId,
        bytesOf(`message ${type}`),
      ) as unknown as Record<string, unknown>;
      expect([v, c]).toEqual([1, unhex(kit.clusterId)]);
      // Compared as bytes: what came from a key pair may be a Buffer, which is equal but of another class.
      expect(encode(message), type).toEqual(encode(messages[type as keyof typeof messages]));
    }
    expect(decodeHello(bytesOf('hello'))).toMatchObject({ clusterId: kit.clusterId, min: 1 });
  });

  test('the log, a saved document and a saved plan are read back', () => {
    const scan = scanLog(bytesOf('log file'));
    expect([scan.kind, scan.records.map((record) => Buffer.from(record).toString())]).toEqual([
      'clean',
      ['record'],
    ]);
    const journal = new Journal(goldenStorage());
    expect(journal.roster()).toEqual([bytesOf('record authority')]);
    const { byDoc, afterGap } = journal.envelopes(
      (payload) => hex(systemCrypto.sha256(payload)) as never,
      () => true,
    );
    expect(afterGap).toEqual([]);
    expect(byDoc.get(goldenDoc)?.map((entry) => entry.message)).toEqual(['first']);
    const { documents } = goldenDocuments();
    const saved = journal.document(goldenDoc);
    const loaded = new TrellisDocument(saved?.saved ?? null);
    expect(loaded.heads()).toEqual(documents.document(goldenDoc).heads());
    expect(saved?.heads).toEqual(documents.chainHeads(goldenDoc));
    const object = 'aa'.repeat(8) as ObjectId;
    expect(loaded.leaf(object, '/command')).toEqual(['serve', '--port', '80']);
    expect(loaded.leaf(object, '/future/of/a/newer/version')).toBe(3.5);
    expect(journal.plan('prod')?.signed).toEqual(bytesOf('record plan'));
    expect(decode(journal.plan('prod')?.planBytes ?? new Uint8Array())).toMatchObject({ v: 1 });
    expect(journal.addresses()).toEqual([bytesOf('record fact')]);
    expect(journal.damages()).toEqual([]);
  });

  test('a join answer parses', () => {
    const text = Buffer.from(bytesOf('join answer')).toString();
    const answer = joinAnswerSchema.parse(JSON.parse(text));
    expect([answer.clusterId, answer.records.length]).toEqual([kit.clusterId, 4]);
  });
});

describe('unknown fields of a newer peer survive a round trip through this version', () => {
  const future = { future: { colours: ['red', 7, null] }, v: 2 };
  const host = kit.host(0);
  const known = (kind: string) => open(bytesOf(`record ${kind}`))?.record as AnyRecord;
  const newer = (kind: string, keys: { sign: (bytes: Uint8Array) => Uint8Array }) =>
    seal({ ...known(kind), ...future } as AnyRecord, (bytes) => keys.sign(bytes));

  test('records of the roster, in memory and on disk', () => {
    const member = newer('member', kit.authority);
    const roster = new Roster(kit.clusterId, systemCrypto);
    for (const signed of [bytesOf('record authority'), member])
      expect(roster.accept(signed).kind).toBe('added');
    expect([...roster.records().values()]).toContainEqual(member);
    expect(roster.memberEver(host.node)?.record).toMatchObject(future);
    const storage = memoryStorage();
    new Journal(storage).appendRoster(member, () => {});
    expect(new Journal(storage).roster()).toEqual([member]);
  });

  test('envelopes, in memory and on disk', () => {
    const session = kit.namedSession(host, 'golden');
    const envelope = newer('envelope', session.keys);
    const documents = emptyDocuments();
    documents.accept([envelope]);
    const [entry] = documents.missingFrom(goldenDoc, {}, 10);
    expect(entry?.signed).toEqual(envelope);
    const storage = memoryStorage();
    new Journal(storage).appendEnvelope(entry as NonNullable<typeof entry>, () => {});
    const { byDoc } = new Journal(storage).envelopes(
      (payload) => hex(systemCrypto.sha256(payload)) as never,
      () => true,
    );
    expect(byDoc.get(goldenDoc)?.[0]?.signed).toEqual(envelope);
  });

  test('facts and their bodies', () => {
    const other = kit.host(1);
    const facts = new Facts({
      clusterId: kit.clusterId,
      self: other.node,
      keys: other.keys,
      incarnation: 1,
      crypto: systemCrypto,
      config: defaultConfig,
    });
    const fact = seal(
      { ...known('fact'), ...future, body: { name: 'h1', gpu: { count: 2 } } } as AnyRecord,
      (bytes) => host.keys.sign(bytes),
    );
    facts.accept(fact, 0, 0, () => true);
    expect(facts.missingFrom({}).map((stored) => stored.signed)).toEqual([fact]);
    expect(facts.get('host', host.node, 0)?.value).toEqual({ name: 'h1', gpu: { count: 2 } });
  });

  test('messages with more fields are understood, unknown ones counted and dropped', () => {
    const want = goldenMessages().want;
    const more = encodeMessage(kit.clusterId, { ...want, ...future, v: 2 } as never);
    expect(decodeMessage(kit.clusterId, more)).toMatchObject(want);
    const unknown = encodeMessage(kit.clusterId, { t: 'vote', n: 1 } as never);
    expect(decodeMessage(kit.clusterId, unknown)).toEqual({ rejected: 'type' });
  });

  test('leaves and objects that this version does not know, through export, apply and a snapshot', () => {
    const { documents } = goldenDocuments();
    const document = documents.document(goldenDoc);
    const session = kit.namedSession(host, 'newer').session.id;
    const volume = 'cc'.repeat(8) as ObjectId;
    const service = 'aa'.repeat(8) as ObjectId;
    const foreign: LeafPut[] = [
      { object: volume, pointer: '/kind', value: 'volume' },
      { object: volume, pointer: '/name', value: 'data' },
      { object: 'names', pointer: '/volume/data', value: volume },
      { object: service, pointer: '/gpu/count', value: 2 },
      { object: 'settings', pointer: '/weather', value: 'fine' },
    ];
    document.edit(session, 'from a newer version', foreign);
    const view = buildEnvView('prod', document);
    expect(view.problems).toEqual([]);
    const file = { ...exportFile(view) };
    const services = file['services'] as Record<string, Record<string, unknown>>;
    services['site'] = { ...services['site'], image: 'demo/site:2' };
    const parsed = parseDesiredFile(JSON.stringify(file), 'site.yaml');
    if ('errors' in parsed) throw new Error(JSON.stringify(parsed.errors));
    const result = applyEdits({
      file: parsed.ok,
      source: 'golden',
      current: { view, reader: document },
      lastApplied: null,
      options: { prune: true, overwrite: true },
      newId: () => 'dd'.repeat(8) as ObjectId,
    });
    expect(result.edit.puts.map((put) => put.pointer)).toEqual(['/image']);
    document.edit(session, 'apply', result.edit.puts);
    const again = new TrellisDocument(document.save());
    for (const { object, pointer, value } of foreign)
      expect(again.leaf(object, pointer), pointer).toEqual(value);
    expect(again.leaf(service, '/future/of/a/newer/version')).toBe(3.5);
    expect(again.leaf(service, '/image')).toBe('demo/site:2');
  });
});

/** What version 1 left on disk. */
function goldenStorage(): Storage {
  const storage = memoryStorage();
  for (const name of ['roster', 'envelopes'])
    storage.append(name, bytesOf(`log ${name}`), () => {});
  for (const name of named('file ')) storage.writeFile(name, bytesOf(`file ${name}`), () => {});
  return storage;
}

function memoryStorage(): Storage {
  const logs = new Map<string, Uint8Array[]>();
  const files = new Map<string, Uint8Array>();
  return {
    readLog: (log) => ({ records: [...(logs.get(log) ?? [])], damage: null }),
    append: (log, record, synced) => {
      logs.set(log, [...(logs.get(log) ?? []), record]);
      synced();
    },
    rewriteLog: (log, records, synced) => {
      logs.set(log, [...records]);
      synced();
    },
    readFile: (name) => ({ bytes: files.get(name) ?? null, damage: null }),
    writeFile: (name, bytes, synced) => {
      files.set(name, bytes);
      synced();
    },
  };
}

// The codec is the ground under all of it: the same value, the same bytes.
test('encoding is deterministic', () => {
  expect(hex(encode({ b: 1, a: [null, 'x'] }))).toBe(hex(encode({ a: [null, 'x'], b: 1 })));
});
