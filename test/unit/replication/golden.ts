/**
 * Golden bytes: one of everything that is stored or sent, made from fixed keys and times, so that every run gives the
 * same. `test/fixtures/golden/v1.json` holds what the first version wrote; later versions must read it, and a change of what is written must be
 * meant. `node test/unit/replication/golden.ts` prints what this version writes; a new file is kept beside the old ones.
 */
import { encode } from '../../../crdt/codec.ts';
import { hex } from '../../../crdt/ids.ts';
import type { Hash, ObjectId } from '../../../crdt/ids.ts';
import { seal } from '../../../crdt/records.ts';
import type { AnyRecord, RecordKind, SignedBytes } from '../../../crdt/records.ts';
import { roleToLeaves, serviceToLeaves } from '../../../crdt/service-leaves.ts';
import { defaultConfig } from '../../../daemon/config.ts';
import { systemCrypto } from '../../../daemon/crypto.ts';
import { silentLog } from '../../../daemon/logger.ts';
import { encodeHello } from '../../../daemon/net/hello.ts';
import { plan } from '../../../daemon/plan/plan.ts';
import type { Storage } from '../../../daemon/ports.ts';
import { Documents } from '../../../daemon/replication/documents.ts';
import type { Entry } from '../../../daemon/replication/documents.ts';
import { Journal } from '../../../daemon/replication/journal.ts';
import { encodeMessage } from '../../../daemon/replication/wire.ts';
import type { Message } from '../../../daemon/replication/wire.ts';
import { encodeFrame, encodeHeader } from '../../../daemon/store/framing.ts';
import { ClusterKit } from '../../cluster-kit.ts';

export const goldenKit = new ClusterKit(systemCrypto, { label: 'golden' });
const kit = goldenKit;
const host = kit.host(0);
const other = kit.host(1);
const session = kit.namedSession(host, 'golden');
const text = (value: string) => new TextEncoder().encode(value);
const hashOf = (bytes: Uint8Array) => hex(systemCrypto.sha256(bytes)) as Hash;
const object = 'aa'.repeat(8) as ObjectId;
const role = 'bb'.repeat(8) as ObjectId;
const atMs = 1_790_000_000_000;
const head = { v: 1, clusterId: kit.clusterId };

export const goldenDoc = 'env/prod';

export function emptyDocuments(): Documents {
  return new Documents({
    clusterId: kit.clusterId,
    crypto: systemCrypto,
    config: defaultConfig,
    log: silentLog,
    sessionKey: () => session.keys.publicKey,
    mayWrite: () => true,
    onAdded: () => {},
    onEquivocation: () => {},
  });
}

/** The documents of a node that made two edits. */
export function goldenDocuments(): { documents: Documents; entries: readonly Entry[] } {
  const documents = emptyDocuments();
  const spec = {
    name: 'site',
    role: 'web',
    image: 'demo/site:1',
    count: { perRole: { min: 2, max: 4 } },
    source: 'golden',
  };
  const puts = [
    ...[...serviceToLeaves(spec)].map(([pointer, value]) => ({ object, pointer, value })),
    ...[...roleToLeaves({ name: 'web', source: 'golden' })].map(([pointer, value]) => ({
      object: role,
      pointer,
      value,
    })),
    { object: 'names' as const, pointer: '/service/site', value: object },
    { object: 'names' as const, pointer: '/role/web', value: role },
  ];
  const later = [
    { object, pointer: '/command', value: ['serve', '--port', '80'] },
    { object, pointer: '/env/DEBUG', value: null },
    { object, pointer: '/future/of/a/newer/version', value: 3.5 },
    { object, pointer: '/isEnabled', value: true },
  ];
  const entries = [
    { message: 'first', puts, source: 'site.yaml' },
    { message: 'second', puts: later },
  ].map((edit) => {
    const made = documents.create({
      doc: goldenDoc,
      edit,
      session: session.session.id,
      sign: (bytes) => session.keys.sign(bytes),
      wallMs: atMs,
    });
    if (made === null) throw new Error('an edit changes something');
    return made.entry;
  });
  return { documents, entries };
}

/** Fixed, though a newer planner may place otherwise: it is the format that is kept. */
function goldenPlan(): { inputs: Uint8Array; plan: Uint8Array } {
  const inputs = {
    v: 1,
    env: 'prod',
    roles: [],
    services: [],
    hosts: [],
    numbers: [['site/http', 20_000]],
    previous: [],
  } as const;
  return {
    inputs: encode(inputs),
    plan: encode(plan(inputs, (bytes) => systemCrypto.sha256(bytes))),
  };
}

export function goldenRecords(): Record<RecordKind, SignedBytes> {
  const bySession = (record: AnyRecord) => seal(record, (bytes) => session.keys.sign(bytes));
  const blobs = goldenPlan();
  const login = seal(
    {
      ...head,
      kind: 'login',
      operator: kit.operator.publicKey,
      loginKey: session.keys.publicKey,
      expiresAt: atMs,
    },
    (bytes) => kit.operator.sign(bytes),
  );
  return {
    authority: kit.authorityRecord,
    operator: kit.operatorRecord,
    login,
    session: session.record,
    invite: bySession({
      ...head,
      kind: 'invite',
      id: '12'.repeat(16),
      session: session.session.id,
      codeHash: hashOf(text('code')),
      env: 'prod',
      roles: ['web'],
      uses: 3,
      expiresAt: atMs,
      hostName: 'web-1',
      meta: { dc: 'east' },
    }),
    member: kit.member(host, { roles: ['web'] }),
    removal: bySession({
      ...head,
      kind: 'removal',
      subject: 'member',
      id: other.node,
      by: session.session.id,
      reason: 'gone',
      heads: { [goldenDoc]: [hashOf(text('head'))] },
    }),
    envelope: goldenDocuments().entries[0]?.signed as SignedBytes,
    fact: seal(
      {
        ...head,
        kind: 'fact',
        owner: host.keys.publicKey,
        topic: 'host',
        incarnation: 2,
        seq: 7,
        at: atMs,
        body: { name: 'h1', isReady: true, load: 0.25, nothing: null },
      },
      (bytes) => host.keys.sign(bytes),
    ),
    plan: bySession({
      ...head,
      kind: 'plan',
      env: 'prod',
      planEpoch: 0,
      seq: 1,
      inputHash: hashOf(blobs.inputs),
      inputBlob: hashOf(blobs.inputs),
      blob: hashOf(blobs.plan),
      session: session.session.id,
      after: '',
      at: atMs,
    }),
    call: bySession({
      ...head,
      kind: 'call',
      session: session.session.id,
      target: host.host,
      group: 'host',
      command: 'rescan',
      params: { deep: true },
      nonce: systemCrypto.sha256(text('nonce')).slice(0, 16),
      at: atMs,
    }),
  };
}

export function goldenMessages(): Record<Message['t'], Message> {
  const records = goldenRecords();
  const hash = hashOf(text('hash'));
  return {
    push: {
      t: 'push',
      r: [records.member],
      e: [records.envelope],
      f: [[records.fact, 1_500]],
      p: [records.plan],
      more: true,
    },
    sum: { t: 'sum', r: hash, d: { [goldenDoc]: hash }, f: hash, p: { prod: hash } },
    det: {
      t: 'det',
      back: false,
      r: systemCrypto.sha256(text('two hashes')).slice(0, 16),
      d: { [goldenDoc]: { [session.session.id]: [2, hash] } },
      f: { [host.node]: { host: [2, 7] } },
      p: { prod: hash },
    },
    want: { t: 'want', h: hash, o: 262_144 },
    part: { t: 'part', h: hash, o: 262_144, n: 262_148, b: text('part') },
    swim: { t: 'swim', b: { k: 'probe', n: 1 } },
  };
}

/** What the journal hands to a storage: name to bytes, in order of writing. */
export function goldenFiles(): Map<string, Uint8Array> {
  const written = new Map<string, Uint8Array>();
  const note = (name: string, bytes: Uint8Array, synced: () => void) => {
    written.set(name, bytes);
    synced();
  };
  const storage: Storage = {
    readLog: () => ({ records: [], damage: null }),
    readFile: () => ({ bytes: null, damage: null }),
    append: (log, record, synced) => note(`log ${log}`, record, synced),
    rewriteLog: () => {},
    writeFile: (name, bytes, synced) => note(`file ${name}`, bytes, synced),
  };
  const journal = new Journal(storage);
  const { documents, entries } = goldenDocuments();
  const records = goldenRecords();
  const done = () => {};
  journal.appendRoster(records.authority, done);
  journal.appendEnvelope(entries[0] as Entry, done);
  const heads = documents.chainHeads(goldenDoc);
  journal.writeDocument(goldenDoc, { ...documents.snapshot(goldenDoc), heads }, done);
  const blobs = goldenPlan();
  const pointer = { env: 'prod' };
  const stored = { signed: records.plan, planBytes: blobs.plan, inputBytes: blobs.inputs, pointer };
  journal.writePlan(stored as Parameters<Journal['writePlan']>[0], done);
  journal.writeAddresses([records.fact], done);
  return written;
}

/** JSON over HTTPS, as text. */
export function goldenJoinAnswer(): string {
  const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64');
  const records = goldenRecords();
  return JSON.stringify({
    v: 1,
    clusterId: kit.clusterId,
    clusterName: 'golden',
    hostId: host.host,
    member: base64(records.member),
    records: [records.authority, records.operator, records.session, records.member].map(base64),
    issuingKey: '-----BEGIN PRIVATE KEY-----\n',
    peers: [{ node: host.node, addresses: ['/ip4/10.0.0.1/tcp/7440'] }],
  });
}

/** Name to bytes in hex. */
export function golden(): Record<string, string> {
  const out: Record<string, Uint8Array> = {};
  for (const [kind, signed] of Object.entries(goldenRecords())) out[`record ${kind}`] = signed;
  for (const [type, message] of Object.entries(goldenMessages()))
    out[`message ${type}`] = encodeMessage(kit.clusterId, message);
  out['hello'] = encodeHello({ clusterId: kit.clusterId, min: 1, max: 1, run: '00ff' });
  for (const [name, bytes] of goldenFiles()) out[name] = bytes;
  out['log file'] = Buffer.concat([encodeHeader(), encodeFrame(text('record'))]);
  out['join answer'] = text(goldenJoinAnswer());
  return Object.fromEntries(Object.entries(out).map(([name, bytes]) => [name, hex(bytes)]));
}

if (import.meta.main) process.stdout.write(`${JSON.stringify(golden(), null, 2)}\n`);
