/**
 * Every number that protocol and reconcile parts share, with its unit, frozen, and with the relations that must hold
 * between them asserted once. Tests and the simulator pass changed copies through `makeConfig`.
 */
import { invariant } from './errors.ts';

export interface Config {
  /** Format version of everything written or sent by this release. */
  readonly formatVersion: number;
  /** Largest frame between members; anything larger is dropped and counted. */
  readonly frameBytesMax: number;
  /** Largest single edit (its Automerge change). */
  readonly editBytesMax: number;
  /** Largest fact body. */
  readonly factBytesMax: number;
  /** Envelopes waiting for a grant, owner or dependency; the oldest are dropped beyond it and refetched. */
  readonly parkedMax: number;

  /** Anti-entropy with one random connected peer. */
  readonly syncIntervalMs: number;
  /** New records are pushed to this many peers when there are more than `floodPeersMax`. */
  readonly rumourFanout: number;
  readonly floodPeersMax: number;

  readonly probeIntervalMs: number;
  readonly probeTimeoutMs: number;
  readonly indirectProbes: number;
  readonly suspicionTimeoutMsMin: number;
  readonly suspicionTimeoutMsMax: number;
  /** Facts of a dead owner are ignored by everyone at once and forgotten after this. */
  readonly deadFactRetentionMs: number;

  /** Failover of work that may run twice: after death is known, plus rank times `failoverRankStepMs`. */
  readonly failoverHoldDownMs: number;
  readonly failoverRankStepMs: number;
  /** More than max(1, n/3) hosts vanishing within this window brakes. */
  readonly brakeWindowMs: number;
  readonly brakeFactor: number;
  /** The successor stops once the owner's instance has been healthy for this long. */
  readonly handBackHealthyMs: number;
  readonly movesPerSlotPerHourMax: number;

  readonly inventoryIntervalMs: number;
  readonly reconcileIntervalMs: number;
  readonly reconcileBackoffMsMin: number;
  readonly reconcileBackoffMsMax: number;

  readonly sessionMaxMs: number;
  readonly planBlobBytesMax: number;
  readonly eventsKeptMax: number;
  /** Blobs are refused when less than this would be left on the disk. */
  readonly diskFloorBytes: number;
}

export const defaultConfig: Config = makeConfig({});

export function makeConfig(changes: Partial<Config>): Config {
  const config: Config = {
    formatVersion: 1,
    frameBytesMax: 4 << 20,
    editBytesMax: 2 << 20,
    factBytesMax: 256 << 10,
    parkedMax: 10_000,
    syncIntervalMs: 5_000,
    rumourFanout: 6,
    floodPeersMax: 8,
    probeIntervalMs: 1_000,
    probeTimeoutMs: 400,
    indirectProbes: 3,
    suspicionTimeoutMsMin: 2_000,
    suspicionTimeoutMsMax: 8_000,
    deadFactRetentionMs: 72 * 3_600_000,
    failoverHoldDownMs: 3_000,
    failoverRankStepMs: 2_000,
    brakeWindowMs: 10_000,
    brakeFactor: 5,
    handBackHealthyMs: 5_000,
    movesPerSlotPerHourMax: 3,
    inventoryIntervalMs: 300_000,
    reconcileIntervalMs: 30_000,
    reconcileBackoffMsMin: 1_000,
    reconcileBackoffMsMax: 60_000,
    sessionMaxMs: 12 * 3_600_000,
    planBlobBytesMax: 16 << 20,
    eventsKeptMax: 64,
    diskFloorBytes: 256 << 20,
    ...changes,
  };
  invariant(config.probeTimeoutMs < config.probeIntervalMs, 'a probe ends before the next begins');
  invariant(
    config.suspicionTimeoutMsMin <= config.suspicionTimeoutMsMax,
    'suspicion bounds are ordered',
  );
  invariant(config.editBytesMax < config.frameBytesMax, 'an edit fits a frame');
  invariant(config.factBytesMax < config.frameBytesMax, 'a fact fits a frame');
  return Object.freeze(config);
}
