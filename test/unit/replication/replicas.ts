/** Whole replicas with frames that the test delivers by hand, a clock that it moves, and disks that it can fill. */
import type { HostId, NodeId, SessionId } from '../../../crdt/ids.ts';
import type { Edit } from '../../../crdt/leaves.ts';
import type { Plan, PlanInputs } from '../../../crdt/model.ts';
import type { SignedBytes } from '../../../crdt/records.ts';
import { makeConfig } from '../../../daemon/config.ts';
import type { Config } from '../../../daemon/config.ts';
import { ClusterError } from '../../../daemon/errors.ts';
import type { EditReceipt } from '../../../daemon/node-api.ts';
import type { Storage } from '../../../daemon/ports.ts';
import { Replica } from '../../../daemon/replication/replica.ts';
import { decodeMessage } from '../../../daemon/replication/wire.ts';
import { ClusterKit } from '../../cluster-kit.ts';
import type { KitHost, KitSession } from '../../cluster-kit.ts';
import { SimCrypto } from '../../sim/sim-crypto.ts';

export const crypto = new SimCrypto();
export const kit = new ClusterKit(crypto);
export const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

export interface Frame {
  readonly from: NodeId;
  readonly to: NodeId;
  readonly bytes: Uint8Array;
}

/** Answers at once or, while `isHeld`, when `release` is called; refuses while `isFull`. */
export class Disk implements Storage {
  readonly logs = new Map<string, Uint8Array[]>();
  readonly files = new Map<string, Uint8Array>();
  isFull = false;
  isHeld = false;
  #held: (() => void)[] = [];

  readLog(log: string): ReturnType<Storage['readLog']> {
    return { records: [...(this.logs.get(log) ?? [])], damage: null };
  }

  append(log: string, record: Uint8Array, synced: (error?: Error) => void): void {
    const isFull = this.isFull;
    this.#answer(() => {
      if (!isFull) this.logs.set(log, [...(this.logs.get(log) ?? []), record]);
      synced(isFull ? new Error('no space left') : undefined);
    });
  }

  rewriteLog(log: string, records: readonly Uint8Array[], synced: (error?: Error) => void): void {
    this.#answer(() => {
      this.logs.set(log, [...records]);
      synced();
    });
  }

  readFile(name: string): ReturnType<Storage['readFile']> {
    return { bytes: this.files.get(name) ?? null, damage: null };
  }

  writeFile(name: string, bytes: Uint8Array, synced: (error?: Error) => void): void {
    this.#answer(() => {
      this.files.set(name, bytes);
      synced();
    });
  }

  release(): void {
    this.isHeld = false;
    for (const answer of this.#held.splice(0)) answer();
  }

  #answer(answer: () => void): void {
    if (this.isHeld) this.#held.push(answer);
    else answer();
  }
}

export class World {
  readonly config: Config;
  readonly frames: Frame[] = [];
  readonly peers: Peer[] = [];
  readonly founding: readonly SignedBytes[];
  readonly hosts: readonly KitHost[];
  nowMs = 0;
  sent = 0;
  largestFrame = 0;

  constructor(count: number, config: Partial<Config> = {}) {
    this.config = makeConfig(config);
    this.hosts = Array.from({ length: count }, (_, index) => kit.host(index));
    this.founding = [
      kit.authorityRecord,
      kit.operatorRecord,
      ...this.hosts.map((host) => kit.member(host)),
    ];
    for (const host of this.hosts) this.peers.push(new Peer(this, host));
  }

  peer(index: number): Peer {
    const peer = this.peers[index];
    if (peer === undefined) throw new Error(`there is no peer ${index}`);
    return peer;
  }

  /** Delivers until nothing is on the way; `isLost` decides for each frame. Throws when it does not end. */
  deliver(isLost: (frame: Frame) => boolean = () => false): void {
    for (let count = 0; this.frames.length > 0; count++) {
      if (count > 5_000) throw new Error('the exchange does not end');
      const frame = this.frames.shift();
      if (frame === undefined || isLost(frame)) continue;
      const target = this.peers.find((peer) => peer.host.node === frame.to);
      const message = decodeMessage(kit.clusterId, frame.bytes);
      if ('rejected' in message || message.t === 'swim') continue;
      target?.replica.onMessage(frame.from, message);
    }
  }

  /** Some rounds of anti-entropy of everybody. */
  rounds(count: number, isLost?: (frame: Frame) => boolean): void {
    for (let round = 0; round < count; round++) {
      this.nowMs += 10_000;
      for (const peer of this.peers) peer.replica.tick(this.nowMs);
      this.deliver(isLost);
    }
  }
}

export class Peer {
  readonly host: KitHost;
  readonly disk: Disk;
  readonly retired: SessionId[] = [];
  readonly events: string[] = [];
  readonly replica: Replica;
  readonly #sessions = new Map<string, KitSession>();

  constructor(world: World, host: KitHost, disk = new Disk(), incarnation = 1) {
    this.host = host;
    this.disk = disk;
    let seed = world.peers.length + 1;
    const next = (): number => (seed = (seed * 16_807) % 2_147_483_647) / 2_147_483_647;
    this.replica = new Replica({
      clusterId: kit.clusterId,
      self: host.node,
      keys: host.keys,
      incarnation,
      config: world.config,
      ports: {
        clock: {
          monotonicMs: () => world.nowMs,
          wallMs: () => world.nowMs,
          setTimer: () => ({ cancel: () => {} }),
        },
        random: { next, bytes: (count) => new Uint8Array(count).map(() => next() * 256) },
        network: {
          send: (to, bytes) => {
            world.sent++;
            world.largestFrame = Math.max(world.largestFrame, bytes.length);
            world.frames.push({ from: host.node, to, bytes });
          },
          onFrame: () => {},
          connected: () => world.hosts.map((one) => one.node).filter((node) => node !== host.node),
          onPeer: () => {},
        },
        storage: disk,
        crypto,
        log: silent,
      },
      signer: {
        sign: (id, bytes) => {
          const session = this.#sessions.get(id);
          if (session === undefined)
            throw new ClusterError('LOGIN_REQUIRED', { action: 'an edit' });
          return session.keys.sign(bytes);
        },
        retire: (id) => {
          this.retired.push(id);
          this.#sessions.delete(id);
        },
      },
      computePlan: (inputs): Plan => planOf(inputs),
      desired: () => null,
      onChange: () => {},
      onEvent: (kind) => this.events.push(kind),
    });
    for (const record of world.founding) this.replica.roster.accept(record);
  }

  login(): KitSession {
    const login = kit.session(this.host);
    this.#sessions.set(login.session.id, login);
    this.replica.addRoster(login.record);
    return login;
  }

  edit(by: KitSession, puts: Edit['puts'], doc = 'env/prod'): Promise<EditReceipt | ClusterError> {
    return new Promise((resolve) => {
      this.replica.edit(by.session, doc, { message: 'test', puts }, resolve);
    });
  }

  /** What two replicas must agree on. */
  state(): unknown {
    const { t: _, ...summary } = this.replica.sync.summary();
    return summary;
  }
}

export function planOf(inputs: PlanInputs): Plan {
  const { env } = inputs;
  const inputHash = '' as Plan['inputHash'];
  return { v: 1, env, inputHash, placements: [], unplaceable: [], warnings: [] };
}

export function emptyInputs(hosts: readonly string[]): PlanInputs {
  return {
    v: 1,
    env: 'prod',
    roles: [],
    services: [],
    numbers: [],
    previous: [],
    hosts: hosts.map((name) => ({
      id: name as HostId,
      name,
      roles: [],
      meta: {},
      isAlive: true,
      isDrained: false,
      cpu: 1,
      memoryBytes: 1,
    })),
  };
}
