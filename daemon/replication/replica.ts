/**
 * All replicated planes of one node in one place: takes records in (own and from peers), makes them durable, spreads
 * what was new. Decides nothing about liveness, placement or hosts.
 *
 * An own edit is durable here before it is acknowledged or shown to anybody; if it cannot be made durable it is taken
 * back and its session is retired, because a peer may never see two envelopes under one number. What comes from others
 * is applied at once and written behind: whoever sent it has it durable.
 */
import { encode } from '../../crdt/codec.ts';
import type { Container } from '../../crdt/document.ts';
import { pickPointer } from '../../crdt/conflicts.ts';
import { hex } from '../../crdt/ids.ts';
import type { ClusterId, Hash, NodeId, SessionId } from '../../crdt/ids.ts';
import type { Edit, LeafPut } from '../../crdt/leaves.ts';
import type { Plan, PlanInputs } from '../../crdt/model.ts';
import { seal } from '../../crdt/records.ts';
import type { PlanRecord, SignedBytes } from '../../crdt/records.ts';
import type { Config } from '../config.ts';
import { asClusterError, ClusterError } from '../errors.ts';
import type { DocName, EditReceipt, EditSession } from '../node-api.ts';
import type { Clock, Crypto, Log, Network, Random, Storage } from '../ports.ts';
import type { KeyPair } from '../ports.ts';
import { Documents } from './documents.ts';
import type { Entry } from './documents.ts';
import { Facts } from './facts.ts';
import type { StoredFact } from './facts.ts';
import { Journal } from './journal.ts';
import { hasHeads, headsForPlan } from './plan-heads.ts';
import { decidedHash, Plans } from './plans.ts';
import type { DecidedInputs } from './plans.ts';
import { Roster } from './roster.ts';
import type { RosterOutcome } from './roster.ts';
import { Sync } from './sync.ts';
import type { Rumour } from './sync.ts';
import type { Message, PushMessage } from './wire.ts';

/** A document is saved again after this many new envelopes. */
const envelopesPerSnapshot = 200;

/** What may have changed; listeners look for themselves. */
export type Change = 'roster' | 'cluster' | 'env' | 'facts' | 'plan';

export interface Ports {
  readonly clock: Clock;
  readonly random: Random;
  readonly network: Network;
  readonly storage: Storage;
  readonly crypto: Crypto;
  readonly log: Log;
}

/** Signs for the operators' sessions of this process; throws LOGIN_REQUIRED for one it does not hold. */
export interface SessionSigner {
  sign(session: SessionId, bytes: Uint8Array): Uint8Array;
  /** The session must not sign again: an envelope of it was lost. */
  retire(session: SessionId): void;
}

export interface ReplicaOptions {
  readonly clusterId: ClusterId;
  readonly self: NodeId;
  readonly keys: KeyPair;
  readonly incarnation: number;
  readonly ports: Ports;
  readonly config: Config;
  readonly signer: SessionSigner;
  computePlan(inputs: PlanInputs): Plan;
  desired(env: string): DecidedInputs | null;
  onChange(what: Change, touched?: ReadonlySet<Container>, doc?: DocName): void;
  onEvent(
    kind: string,
    severity: 'warn' | 'alarm',
    text: string,
    details: Record<string, unknown>,
  ): void;
}

export class Replica {
  readonly roster: Roster;
  readonly documents: Documents;
  readonly facts: Facts;
  readonly plans: Plans;
  readonly sync: Sync;
  readonly journal: Journal;
  readonly #options: ReplicaOptions;
  #fresh: Entry[] = [];
  readonly #sinceSnapshot = new Map<DocName, number>();
  /** Members that an alarm was raised for. */
  #quarantined: ReadonlySet<NodeId> = new Set();
  /** Newest plan on disk, by environment. */
  readonly #keptPlans = new Map<string, Hash>();

  constructor(options: ReplicaOptions) {
    const { clusterId, ports, config, self, keys, incarnation } = options;
    this.#options = options;
    this.journal = new Journal(ports.storage);
    this.roster = new Roster(clusterId, ports.crypto);
    this.documents = new Documents({
      clusterId,
      crypto: ports.crypto,
      config,
      log: ports.log,
      sessionKey: (session) => this.roster.session(session)?.record.sessionKey ?? null,
      mayWrite: (session, doc) => this.mayWrite(session, doc),
      onAdded: (entries, touched) => this.#onEnvelopes(entries, touched),
      onEquivocation: (session, doc) => {
        options.onEvent(
          'session.equivocation',
          'alarm',
          `session ${session} wrote two different edits under one number`,
          { session, doc },
        );
      },
    });
    this.facts = new Facts({ clusterId, self, keys, incarnation, crypto: ports.crypto, config });
    this.plans = new Plans({
      clusterId,
      crypto: ports.crypto,
      blobBytesMax: config.planBlobBytesMax,
      sessionKey: (session) => this.roster.session(session)?.record.sessionKey ?? null,
      mayPlan: (session, env) => this.mayWrite(session, `env/${env}`),
      isMemberOf: (node, env) => this.roster.members().get(node)?.record.env === env,
      compute: (inputs) => options.computePlan(inputs),
      desired: (env) => options.desired(env),
      hasHeads: (heads) => hasHeads(this.documents, heads),
    });
    this.sync = new Sync({
      clusterId,
      config,
      network: ports.network,
      random: ports.random,
      crypto: ports.crypto,
      roster: this.roster,
      documents: this.documents,
      facts: this.facts,
      plans: this.plans,
      take: (from, push) => this.#take(from, push),
    });
  }

  /** Reads everything back. Own records are not verified again except the roster's, whose indexes need it. */
  load(): void {
    const { crypto } = this.#options.ports;
    for (const signed of this.journal.roster()) this.roster.accept(signed);
    const { byDoc, afterGap } = this.journal.envelopes(
      (payload) => this.#hashOf(payload),
      (session) => this.roster.session(session) !== null,
    );
    for (const [doc, entries] of byDoc) {
      const saved = this.journal.document(doc);
      const covers =
        saved !== null &&
        Object.entries(saved.heads).every(([session, [seq]]) =>
          entries.some((entry) => entry.session === session && entry.seq >= seq),
        );
      this.#restore(doc, entries, covers ? saved : null);
      this.#sinceSnapshot.set(doc, covers ? entries.length - countOf(saved.heads) : entries.length);
    }
    // They wait, parked, until peers have filled the gap before them.
    this.documents.accept(afterGap);
    for (const env of this.#environmentNames()) {
      const plan = this.journal.plan(env);
      if (plan === null) continue;
      const blobs = [plan.planBytes, plan.inputBytes].map(
        (bytes) => [hex(crypto.sha256(bytes)) as Hash, bytes] as const,
      );
      this.plans.accept(plan.signed, new Map(blobs));
      this.#keptPlans.set(env, this.plans.current(env)?.hash ?? ('' as Hash));
    }
    const nowMs = this.#nowMs();
    for (const signed of this.journal.addresses()) {
      // Their true age is unknown: old enough to lose against anything fresh, young enough to dial by.
      this.facts.accept(signed, this.#options.config.deadFactRetentionMs / 2, nowMs, (node) =>
        this.roster.members().has(node),
      );
    }
  }

  tick(nowMs: number): number {
    this.journal.retry(nowMs);
    return this.sync.tick(nowMs);
  }

  onMessage(from: NodeId, message: Exclude<Message, { t: 'swim' }>): void {
    this.sync.onMessage(from, message, this.#nowMs());
  }

  /** Right of a session's operator; null while it may still turn up. */
  mayWrite(session: SessionId, doc: DocName): boolean | null {
    const entry = this.roster.session(session);
    if (entry === null) return null;
    if (this.roster.isRemoved('operator', entry.operatorKey) !== null) return false;
    if (this.roster.isFirstOperator(entry.operatorKey)) return true;
    const cluster = this.documents.document('cluster');
    const grant = (right: string): boolean =>
      cluster.leaf('settings', `/grants/${entry.operatorKey}/${right}`) === true;
    if (grant('admin')) return true;
    return doc.startsWith('env/') && grant(`operator/${doc.slice(4)}`) ? true : null;
  }

  // ---- Own records --------------------------------------------------------------------------------------------

  /** `synced` fires once the records are on disk here; at once when nothing was added. */
  addRoster(signed: SignedBytes, synced: (error?: Error) => void = () => {}): RosterOutcome {
    const outcome = this.roster.accept(signed);
    if (outcome.kind !== 'added') {
      synced();
      return outcome;
    }
    const records = this.#keepRoster(outcome.hashes, synced);
    this.documents.retry();
    this.plans.retry();
    this.sync.spread({ r: records, e: this.#drain() }, this.#nowMs(), null);
    this.#onRoster();
    return outcome;
  }

  publish(topic: string, value: unknown): void {
    const { clock } = this.#options.ports;
    const fact = this.facts.publish(topic, value, {
      monotonicMs: clock.monotonicMs(),
      wallMs: clock.wallMs(),
    });
    if (fact === null) return;
    if (fact === 'too-large') {
      // The plugin's fault, or a host with more than we were made for: the last good one stays.
      this.#options.ports.log.error('fact.too-large', { topic });
      return;
    }
    this.sync.spread({ f: [fact] }, this.#nowMs(), null);
    this.#options.onChange('facts');
    if (topic === 'host') this.#keepAddresses();
  }

  edit(
    session: EditSession,
    doc: DocName,
    edit: Edit,
    done: (result: EditReceipt | ClusterError) => void,
  ): void {
    const refused = this.#refusal(session, doc, edit);
    if (refused !== null) {
      done(refused);
      return;
    }
    const made = this.documents.create({
      doc,
      edit: this.#withPicks(edit),
      session: session.id,
      sign: (bytes) => this.#options.signer.sign(session.id, bytes),
      wallMs: this.#options.ports.clock.wallMs(),
    });
    if (made === null) {
      done({ hash: null, changed: 0 });
      return;
    }
    const { entry, changed, touched } = made;
    this.#options.onChange(doc === 'cluster' ? 'cluster' : 'env', touched, doc);
    this.journal.appendOwnEnvelope(entry, (error) => {
      if (error !== undefined) this.#takeBack(entry);
      // It is on disk, but what it was built on is not: it can never be used.
      const lost = this.documents.entryByHash(entry.hash) === null;
      if (error !== undefined || lost) {
        done(diskFull(error ?? new Error('the edit before it could not be written')));
        return;
      }
      this.sync.spread({ e: [entry] }, this.#nowMs(), null);
      this.#noteForSnapshot([entry]);
      done({ hash: entry.hash, changed });
    });
  }

  /** By an operator, or by this host when `session` is null. Durable before it is spread. */
  commitPlan(
    session: EditSession | null,
    env: string,
    proposal: {
      readonly inputs: PlanInputs;
      readonly plan: Plan;
      /** Of the planner's lease; absent: the highest epoch known is kept. */
      readonly planEpoch?: number;
    },
    done: (result: { readonly pointerHash: Hash } | ClusterError) => void,
  ): void {
    const planBytes = encode(proposal.plan);
    const inputBytes = encode(proposal.inputs);
    const bytes = Math.max(planBytes.length, inputBytes.length);
    const max = this.#options.config.planBlobBytesMax;
    if (bytes > max) {
      done(new ClusterError('EDIT_TOO_LARGE', { bytes, max }));
      return;
    }
    const decided = decidedHash(proposal.inputs, this.#options.ports.crypto);
    const { planEpoch = 0 } = proposal;
    const signed = this.#sealPlan(session, env, { planBytes, inputBytes, decided, planEpoch });
    const blobs = [planBytes, inputBytes].map((blob) => [this.#hashOf(blob), blob] as const);
    const outcome = this.plans.accept(signed, new Map(blobs));
    const stored = this.plans.current(env);
    if (outcome !== 'adopted' || stored === null) {
      const reason = `the plan was not adopted here (${outcome})`;
      done(
        new ClusterError('CONFLICT', { reason, todo: 'look with `trellis plan` and try again' }),
      );
      return;
    }
    this.#keptPlans.set(env, stored.hash);
    this.#options.onChange('plan');
    this.journal.writePlan(stored, (error) => {
      if (error === undefined) this.sync.spread({ p: [signed] }, this.#nowMs(), null);
      done(error === undefined ? { pointerHash: stored.hash } : diskFull(error));
    });
  }

  #sealPlan(
    session: EditSession | null,
    env: string,
    made: { planBytes: Uint8Array; inputBytes: Uint8Array; decided: Hash; planEpoch: number },
  ): SignedBytes {
    const { keys, signer, clusterId, ports } = this.#options;
    const inputBlob = this.#hashOf(made.inputBytes);
    const { planEpoch, seq, after, past } = this.plans.next(env, made.planEpoch);
    const record: PlanRecord = {
      kind: 'plan',
      v: 1,
      clusterId,
      env,
      planEpoch,
      seq,
      inputHash: inputBlob,
      inputBlob,
      blob: this.#hashOf(made.planBytes),
      ...(session === null ? { host: keys.publicKey } : { session: session.id }),
      after,
      past: [...past],
      decided: made.decided,
      heads: headsForPlan(this.documents, env),
      at: Math.max(0, Math.round(ports.clock.wallMs())),
    };
    return seal(record, (bytes) =>
      session === null ? keys.sign(bytes) : signer.sign(session.id, bytes),
    );
  }

  /** Saves documents whose log has grown; at a clean stop with `isFinal` all that differ. */
  saveDocuments(isFinal: boolean): void {
    for (const [doc, count] of this.#sinceSnapshot) {
      if (count === 0 || (!isFinal && count < envelopesPerSnapshot)) continue;
      this.#sinceSnapshot.set(doc, 0);
      const heads = this.documents.chainHeads(doc);
      this.journal.writeDocument(doc, { ...this.documents.snapshot(doc), heads }, (error) => {
        if (error !== undefined)
          this.#options.ports.log.warn('replication.snapshot-failed', {
            doc,
            error: error.message,
          });
      });
    }
  }

  // ---- Records of others --------------------------------------------------------------------------------------

  #take(from: NodeId, push: PushMessage): Rumour {
    const nowMs = this.#nowMs();
    const isMember = (node: NodeId): boolean => this.roster.members().has(node);
    const added = (push.r ?? []).flatMap((signed) => {
      const outcome = this.roster.accept(signed);
      if (outcome.kind === 'rejected')
        this.#options.ports.log.warn('replication.roster-rejected', {
          from,
          reason: outcome.reason,
        });
      return outcome.kind === 'added' ? outcome.hashes : [];
    });
    const records = this.#keepRoster(added);
    if (push.e !== undefined && push.e.length > 0) this.documents.accept(push.e);
    else if (added.length > 0) this.documents.retry();
    const facts = (push.f ?? []).flatMap(([signed, ageMs]) =>
      this.#takeFact(signed, ageMs, nowMs, isMember),
    );
    const plans = this.#takePlans(push.p ?? [], added.length > 0 || this.#fresh.length > 0);
    if (added.length > 0) this.#onRoster();
    if (facts.length > 0) this.#options.onChange('facts');
    return { r: records, e: this.#drain(), f: facts, p: plans };
  }

  #takeFact(
    signed: SignedBytes,
    ageMs: number,
    nowMs: number,
    isMember: (node: NodeId) => boolean,
  ): readonly StoredFact[] {
    const fact = this.facts.accept(signed, ageMs, nowMs, isMember);
    if (typeof fact === 'string') return [];
    if (fact.record.topic === 'host') this.#keepAddresses();
    return [fact];
  }

  /** Pointers that were new; adoption may also follow from blobs that arrived since. */
  #takePlans(pointers: readonly SignedBytes[], isRetryDue: boolean): readonly SignedBytes[] {
    const isNews = (outcome: string): boolean =>
      outcome === 'adopted' || outcome === 'waiting-for-blobs';
    const news = pointers.filter((signed) => isNews(this.plans.accept(signed)));
    if (isRetryDue) this.plans.retry();
    for (const env of this.plans.environments()) this.#keepPlan(env);
    return news;
  }

  /** Persists a newly adopted plan and tells listeners. */
  #keepPlan(env: string): void {
    const stored = this.plans.current(env);
    if (stored === null || this.#keptPlans.get(env) === stored.hash) return;
    this.#keptPlans.set(env, stored.hash);
    this.journal.writePlan(stored, (error) => {
      if (error !== undefined)
        this.#options.ports.log.warn('replication.plan-not-saved', { env, error: error.message });
    });
    this.#options.onChange('plan');
  }

  #onRoster(): void {
    this.#options.onChange('roster');
    const quarantined = this.roster.quarantined().map((entry) => entry.node);
    const isNews = quarantined.some((node) => !this.#quarantined.has(node));
    this.#quarantined = new Set(quarantined);
    if (!isNews) return;
    const names = this.roster
      .quarantined()
      .map(({ record, node }) => `${record.name} (${node.slice(0, 8)})`);
    this.#options.onEvent(
      'member.quarantined',
      'alarm',
      `kept out, because their invitation was used up or their host id is another's: ${names.slice(0, 8).join(', ')}`,
      { hosts: quarantined.slice(0, 8) },
    );
  }

  #onEnvelopes(
    entries: readonly Entry[],
    touched: ReadonlyMap<DocName, ReadonlySet<Container>>,
  ): void {
    this.#fresh.push(...entries);
    for (const entry of entries) {
      this.journal.appendEnvelope(entry, (error) => {
        if (error !== undefined)
          this.#options.ports.log.warn('replication.not-saved', {
            hash: entry.hash,
            error: error.message,
          });
      });
    }
    this.#noteForSnapshot(entries);
    for (const [doc, containers] of touched)
      this.#options.onChange(doc === 'cluster' ? 'cluster' : 'env', containers, doc);
  }

  #drain(): readonly Entry[] {
    const fresh = this.#fresh;
    this.#fresh = [];
    return fresh;
  }

  /** Logs sync in order, so the last record's sync is everybody's. */
  #keepRoster(
    hashes: readonly Hash[],
    synced: (error?: Error) => void = () => {},
  ): readonly SignedBytes[] {
    const records = hashes
      .map((hash) => this.roster.records().get(hash))
      .filter((signed) => signed !== undefined);
    for (const signed of records) {
      this.journal.appendRoster(signed, (error) => {
        if (error !== undefined)
          this.#options.ports.log.warn('replication.roster-not-saved', { error: error.message });
        if (signed === records.at(-1)) synced(error);
      });
    }
    return records;
  }

  #keepAddresses(): void {
    const nowMs = this.#nowMs();
    const owners = this.facts.all('host', nowMs).map((fact) => fact.owner);
    const signed = owners
      .map((owner) => this.facts.stored(owner, 'host')?.signed)
      .filter((bytes) => bytes !== undefined);
    this.journal.writeAddresses(signed, (error) => {
      if (error !== undefined)
        this.#options.ports.log.warn('replication.addresses-not-saved', { error: error.message });
    });
  }

  // ---- Edits --------------------------------------------------------------------------------------------------

  #refusal(session: EditSession, doc: DocName, edit: Edit): ClusterError | null {
    if (session.expiresAtWallMs <= this.#options.ports.clock.wallMs())
      return new ClusterError('LOGIN_REQUIRED', { action: 'an edit' });
    if (this.mayWrite(session.id, doc) !== true)
      return new ClusterError('FORBIDDEN', { operator: session.operator, action: `edit ${doc}` });
    try {
      // Asked before anything is written: afterwards a refusal would leave a change without an envelope.
      this.#options.signer.sign(session.id, new Uint8Array());
    } catch (error) {
      return asClusterError(error);
    }
    const bytes = edit.puts.reduce((sum, put) => sum + put.pointer.length + sizeOf(put), 0);
    const max = this.#options.config.editBytesMax / 2;
    return bytes > max ? new ClusterError('EDIT_TOO_LARGE', { bytes, max }) : null;
  }

  /** Settling a conflict is a write of its own, so that it counts even when the value stays. */
  #withPicks(edit: Edit): Edit {
    if (edit.picks === undefined || edit.picks.length === 0) return edit;
    const { random } = this.#options.ports;
    const picks = edit.picks.map((id): LeafPut => ({
      object: 'settings',
      pointer: pickPointer(id),
      value: hex(random.bytes(8)),
    }));
    return { ...edit, puts: [...edit.puts, ...picks] };
  }

  #takeBack(entry: Entry): void {
    // A later edit of the same chain may have taken it along already.
    if (this.documents.entryByHash(entry.hash) === null) return;
    const gone = this.documents.rollBack(entry);
    for (const { session } of gone) this.#options.signer.retire(session);
    this.#options.onChange(entry.doc === 'cluster' ? 'cluster' : 'env', undefined, entry.doc);
  }

  #noteForSnapshot(entries: readonly Entry[]): void {
    for (const entry of entries)
      this.#sinceSnapshot.set(entry.doc, (this.#sinceSnapshot.get(entry.doc) ?? 0) + 1);
    this.saveDocuments(false);
  }

  #restore(
    doc: DocName,
    entries: readonly Entry[],
    saved: { saved: Uint8Array; conflicts: unknown } | null,
  ): void {
    try {
      this.documents.restore(doc, entries, saved);
    } catch (error) {
      if (saved === null) throw error;
      this.journal.note({
        name: `document ${doc}`,
        kind: 'corrupt',
        setAside: null,
        detail: `rebuilt from the log: ${String(error)}`,
      });
      this.documents.restore(doc, entries, null);
    }
  }

  #environmentNames(): readonly string[] {
    const names = this.roster.membersEver().map((member) => member.record.env);
    return [...new Set(names)];
  }

  #hashOf(bytes: Uint8Array): Hash {
    return hex(this.#options.ports.crypto.sha256(bytes)) as Hash;
  }

  #nowMs(): number {
    return this.#options.ports.clock.monotonicMs();
  }
}

function diskFull(error: Error): ClusterError {
  return new ClusterError(
    'DISK_FULL',
    { dir: 'the state directory', reason: error.message },
    error,
  );
}

function sizeOf(put: LeafPut): number {
  if (typeof put.value === 'string') return put.value.length;
  return Array.isArray(put.value) ? JSON.stringify(put.value).length : 8;
}

function countOf(heads: Readonly<Record<string, readonly [number, Hash]>>): number {
  return Object.values(heads).reduce((sum, [seq]) => sum + seq, 0);
}
