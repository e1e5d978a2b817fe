/**
 * The contract between the daemon and whatever touches a host. A leaf: it imports only types of `crdt/`.
 *
 * Level-triggered on purpose: in a gossip system edges get lost and merged, and a plugin that counts edges is wrong on
 * the first partition. A plugin gets the whole desired slice of this host, makes the world match it and may be called
 * again at any time.
 */
import type { ClusterId, Hash, HostId, ObjectId } from '../crdt/ids.ts';
import type { Dependency, HealthCheck, ServicePort, Slot } from '../crdt/model.ts';

export const pluginApiVersion = 1;

/** For example 'containers/1'. */
export type Capability = string;

export interface Plugin<Config = unknown> {
  /** kebab-case, unique on a node; prefixes logs, metrics and state keys. */
  readonly name: string;
  readonly apiVersion: typeof pluginApiVersion;
  readonly provides: readonly Capability[];
  /** Unmet, or a cycle: the node refuses to boot. */
  readonly requires: readonly Capability[];
  /** Pure. Rejects bad input by throwing an Error whose message names the field. */
  parseConfig(raw: unknown): Config;
  /** Must settle within 10 s. A throw disables this plugin; the node keeps running. */
  start(context: PluginContext, config: Config): Promise<RunningPlugin>;
}

export interface RunningPlugin {
  /**
   * Makes the outside world match `view`. Idempotent, coalesced, never called concurrently with itself. One failing
   * item must not block the others: return it in `failures` and it is retried with backoff.
   */
  reconcile(view: DesiredView, signal: AbortSignal): Promise<ReconcileOutcome>;
  /** Called once, in reverse start order; must leave everything running. After 5 s the node exits anyway. */
  stop(): Promise<void>;
  /** Removes everything this plugin owns on the host (`trellis leave`, uninstall). Foreign things stay. */
  purge(signal: AbortSignal): Promise<void>;
}

export interface ReconcileOutcome {
  /** Steps that changed something, for events and tests: [] means the world already matched. */
  readonly changes: readonly string[];
  readonly failures: readonly ItemFailure[];
  /** Items still being worked on (a large image, a long grace period); a reconcile is asked for when they end. */
  readonly pending?: readonly string[];
}

export interface ItemFailure {
  readonly item: string;
  /** A code of the error table, e.g. 'CONTAINER_FOREIGN'. */
  readonly code: string;
  readonly message: string;
  readonly details?: Readonly<Record<string, unknown>>;
  /** False: the same input will fail again (a foreign container on our name); look again only on change or slowly. */
  readonly isTransient: boolean;
}

/**
 * How a plugin rejects: plugins may not import the daemon's error table, so the code travels as a string and the daemon
 * turns it into the ClusterError of that code. `message` is for logs; users see the table's text filled from `details`.
 */
export class PluginError extends Error {
  /** A code of the error table. */
  readonly code: string;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(
    code: string,
    details: Readonly<Record<string, unknown>>,
    message: string,
    cause?: unknown,
  ) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'PluginError';
    this.code = code;
    this.details = details;
  }
}

export interface PluginContext {
  readonly self: { readonly clusterId: ClusterId; readonly hostId: HostId; readonly env: string };
  readonly clock: { monotonicMs(): number; wallMs(): number };
  readonly log: {
    debug(event: string, values?: Record<string, unknown>): void;
    info(event: string, values?: Record<string, unknown>): void;
    warn(event: string, values?: Record<string, unknown>): void;
    error(event: string, values?: Record<string, unknown>): void;
  };
  /** Directory that is this plugin's alone; survives restarts. */
  readonly stateDir: string;
  /** Asks for a reconcile soon: something changed outside (an engine event). Coalesced. */
  requestReconcile(reason: string): void;
  /** Publishes this plugin's fact (topic = plugin name, at most 256 KiB as JSON). Equal values cost nothing. */
  publish(value: unknown): void;
  readonly blobs: Blobs;
}

/** Content-addressed bytes (sha-256) shared by the cluster. */
export interface Blobs {
  has(hash: Hash): boolean;
  /** File with exactly these bytes, verified when it was stored; null when not here. */
  path(hash: Hash): string | null;
  /** Stores a stream under its own hash; atomic, idempotent. Rejects below the disk floor (DISK_FULL). */
  put(bytes: AsyncIterable<Uint8Array> | Uint8Array): Promise<{ hash: Hash; sizeBytes: number }>;
  /** Gets it from whoever has it; resumes a part that is here; concurrent calls share one transfer. */
  fetch(
    hash: Hash,
    options: { signal?: AbortSignal; onProgress?: (doneBytes: number, totalBytes: number) => void },
  ): Promise<string>;
}

/** What operations ask of the container engine of this host; the docker plugin provides it. */
export interface ContainerRuntime {
  /** Chunks of a container's output, oldest first. `follow` ends with the signal or the container's end. */
  logs(
    containerId: string,
    options: {
      follow: boolean;
      tail?: number;
      sinceMs?: number;
      timestamps?: boolean;
      signal: AbortSignal;
    },
  ): AsyncIterable<{ stream: 'stdout' | 'stderr'; bytes: Uint8Array }>;
  exec(
    containerId: string,
    options: {
      command: readonly string[];
      isTty: boolean;
      env?: readonly string[];
      signal: AbortSignal;
    },
  ): Promise<ExecSession>;
  /** Puts a local image into the blob plane. Rejects IMAGE_UNAVAILABLE when the engine does not have it. */
  pushImage(
    reference: string,
    options: {
      signal: AbortSignal;
      onProgress: (what: string, doneBytes: number, totalBytes: number) => void;
    },
  ): Promise<{
    reference: string;
    manifest: Hash;
    imageId: string;
    sizeBytes: number;
    layers: readonly Hash[];
  }>;
  /** Image id of a local image, null when the engine does not have it. */
  localImageId(reference: string): Promise<string | null>;
  engine(): Promise<{
    state: 'ok' | 'absent' | 'hung';
    version?: string;
    apiVersion?: string;
    endpoint: string;
    reason?: string;
  }>;
}

export interface ExecSession {
  /** Output; with a tty everything is 'stdout'. */
  readonly output: AsyncIterable<{ stream: 'stdout' | 'stderr'; bytes: Uint8Array }>;
  write(bytes: Uint8Array): void;
  /** Half-close: no more input. */
  end(): void;
  resize(columns: number, rows: number): Promise<void>;
  /** Settles after output has ended. */
  exitCode(): Promise<number>;
}

/** The desired slice of one host. Everything a plugin needs, nothing it has to ask for. */
export interface DesiredView {
  readonly clusterId: ClusterId;
  /** First 8 digits of the cluster id: prefix of everything we own. */
  readonly cluster8: string;
  readonly hostId: HostId;
  readonly hostName: string;
  readonly env: string;
  /** Where members reach this host; ports for members are published here. */
  readonly advertise: string;
  /** Address on this host to which service names lead, e.g. '169.254.71.12'; the same on every host of the cluster. */
  readonly virtualAddress: string;
  /** Instances that must run here, in start order (dependencies first). */
  readonly instances: readonly DesiredInstance[];
  /** Instances that this host has but the plan has given to others and which may still run (draining, hand-back). */
  readonly keep: readonly string[];
  /** Storage of this host's roles. Absent: none. */
  readonly storage?: readonly DesiredStorage[];
  /** Every service of the environment with its number and where it can be reached now. */
  readonly routes: readonly ServiceRoute[];
}

export interface DesiredInstance {
  readonly service: string;
  readonly serviceId: ObjectId;
  readonly slot: Slot;
  /** '<service>-<slot>', label `trellis.instance`. */
  readonly instance: string;
  /** 'trellis-<cluster8>-<service>-<slot>'. */
  readonly containerName: string;
  /** As the user wrote it. */
  readonly image: string;
  /** Set when the cluster holds the image: fetch this manifest blob, run this image id. */
  readonly clusterImage: { readonly manifest: Hash; readonly imageId: string } | null;
  readonly command: readonly string[];
  /** Rendered. */
  readonly env: Readonly<Record<string, string>>;
  readonly ports: readonly ServicePort[];
  readonly resources: { readonly cpu?: number; readonly memoryBytes?: number };
  readonly health?: HealthCheck;
  readonly dependsOn: readonly Dependency[];
  readonly stopGraceMs: number;
  /** False: present but stopped. An exclusive one that is enabled runs while its gate is open, and only then. */
  readonly isEnabled: boolean;
  /** 'unless-stopped' for work that may run twice. */
  readonly restart: 'unless-stopped' | 'no';
  /** Present: runs under a lease. The container is created beforehand, in the gate, and started only while the gate is open. */
  readonly exclusive?: ExclusiveInstance;
  /** Directories of this host that are mounted. */
  readonly mounts?: readonly {
    readonly source: string;
    readonly target: string;
    readonly isReadOnly: boolean;
  }[];
  /** Hash of all of the above that shape the container; label `trellis.spec`. A difference recreates it. */
  readonly spec: string;
}

export interface DesiredStorage {
  readonly id: ObjectId;
  readonly name: string;
  readonly driver: 'local' | 'sync';
  readonly path: string;
  readonly lease: string | null;
  /** Held here, under this epoch; null: a replica. */
  readonly epoch: number | null;
  /** Hosts that may have a copy. Absent: nobody may copy from here. */
  readonly hosts?: readonly HostId[];
  /** Who holds it, as far as known: where a replica copies from. */
  readonly active: {
    readonly host: HostId;
    readonly address: string;
    readonly apiPort: number;
    readonly epoch: number;
  } | null;
}

export interface ExclusiveInstance {
  /** Name of the lease, e.g. 'service/prod/…'. */
  readonly lease: string;
  /** Parent cgroup without driver's spelling, e.g. 'trellis-x-1a2b3c4d-…'. Part of the spec. */
  readonly gate: string;
  /** Host directory with `epoch` and `lease.json`; mounted read-only at /run/trellis/lease. Part of the spec. */
  readonly leaseDir: string;
  /** Epoch under which it must run now; null: the lease is not held here or its gate is closed, it must not be started. */
  readonly epoch: number | null;
}

export interface ServiceRoute {
  readonly service: string;
  /** '<service>.<env>.internal'. */
  readonly name: string;
  readonly ports: readonly RoutePort[];
}

export interface RoutePort {
  readonly name: string;
  readonly protocol: 'tcp' | 'udp';
  /** Cluster-wide number, 20000 to 29999. */
  readonly number: number;
  readonly container: number;
  /** Container addresses of instances on this host that may get traffic now. Sorted. */
  readonly local: readonly string[];
  /** Advertised addresses of other hosts that have a live instance; each forwards `number` to its own. Sorted. */
  readonly remote: readonly string[];
  /**
   * Container addresses of this host's instances for what other hosts send here; absent: `local`. Others decide whether
   * to send, and do so the moment they hear that an instance is well: the way in must be open before. Sorted.
   */
  readonly inbound?: readonly string[];
}
