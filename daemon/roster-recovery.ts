/**
 * The roster back from other members, for a host whose disk has lost both copies of it. Without a roster nobody can be
 * verified but by the cluster id itself, which is the hash of the authority's key: every record that we take proves itself
 * from there. Whom to ask is known from the addresses that were kept apart, and they know our key.
 */
import { decode } from '../crdt/codec.ts';
import { hex } from '../crdt/ids.ts';
import type { ClusterId, NodeId } from '../crdt/ids.ts';
import type { HostFact } from '../crdt/model.ts';
import { openAs } from '../crdt/records.ts';
import type { SignedBytes } from '../crdt/records.ts';
import type { Config } from './config.ts';
import { systemCrypto } from './crypto.ts';
import { ClusterError } from './errors.ts';
import { createNetwork } from './net/create-network.ts';
import type { Clock, Log, Random } from './ports.ts';
import { Roster } from './replication/roster.ts';
import { decodeMessage, encodeMessage } from './replication/wire.ts';
import type { Store } from './store/open-store.ts';
import type { PeerHint } from './trust/join-wire.ts';

export interface RosterRecoveryOptions {
  readonly clusterId: ClusterId;
  readonly store: Store;
  readonly listen: readonly string[];
  /** From the join; newer addresses are on disk. */
  readonly hints: readonly PeerHint[];
  readonly config: Config;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

const answerMsMax = 60_000;
/** The roster comes in several frames; after such a pause nothing more is expected. */
const quietMs = 300;

/** Records in an order in which a roster takes them. Fails with ROSTER_LOST when nobody answers. */
export async function fetchRoster(options: RosterRecoveryOptions): Promise<readonly SignedBytes[]> {
  const { clusterId, store, clock, log } = options;
  const self = store.identity.nodeId;
  const addresses = knownAddresses(options);
  const roster = new Roster(clusterId, systemCrypto);
  const network = createNetwork({
    seed: store.identity.seed,
    clusterId,
    listen: options.listen,
    isMember: (node) => addresses.has(node),
    addressesOf: (node) => addresses.get(node) ?? [],
    roster: () => [...addresses.keys()],
    log,
    config: options.config,
    random: options.random,
  });
  log.warn('roster.lost', { peers: addresses.size });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const limit = clock.setTimer(answerMsMax, () =>
    reject(new ClusterError('ROSTER_LOST', { seconds: answerMsMax / 1_000 })),
  );
  let quiet = limit;
  network.onPeer((peer, isConnected) => {
    // As if we had been asked what we have: nothing.
    const nothing = { t: 'det', back: true, r: new Uint8Array() } as const;
    if (isConnected) network.send(peer, encodeMessage(clusterId, nothing));
  });
  network.onFrame((_, frame) => {
    const message = decodeMessage(clusterId, frame);
    if ('rejected' in message || message.t !== 'push') return;
    for (const signed of message.r ?? []) roster.accept(signed);
    if (roster.authority() === null || roster.memberEver(self) === null) return;
    if (quiet !== limit) quiet.cancel();
    quiet = clock.setTimer(quietMs, resolve);
  });
  try {
    await network.start();
    await promise;
  } finally {
    limit.cancel();
    quiet.cancel();
    await network.stop();
  }
  return [...roster.records().values()];
}

/** Multiaddrs by node. */
function knownAddresses({ store, hints }: RosterRecoveryOptions): Map<NodeId, readonly string[]> {
  const known = new Map(hints.map((hint) => [hint.node as NodeId, hint.addresses]));
  const { bytes } = store.storage.readFile('addresses');
  const facts = bytes === null ? null : decode(bytes);
  for (const signed of Array.isArray(facts) ? facts : []) {
    const opened = signed instanceof Uint8Array ? openAs('fact', signed) : null;
    if (opened === null) continue;
    const fact = opened.record.body as Partial<HostFact>;
    const node = hex(opened.record.owner) as NodeId;
    const hosts = [fact.advertise, ...(fact.addresses ?? [])].filter((one) => one !== undefined);
    const multiaddrs = hosts.map(
      (host) => `/${host.includes(':') ? 'ip6' : 'ip4'}/${host}/tcp/${fact.peerPort ?? 0}`,
    );
    known.set(node, [...new Set([...multiaddrs, ...(known.get(node) ?? [])])]);
  }
  known.delete(store.identity.nodeId);
  return known;
}
