/**
 * What a cluster looks like to those who plan, reconcile and show it: plain, typed, read-only values made from the
 * documents by `view.ts`. Durations are milliseconds and sizes bytes, with the unit in the name. Nothing here is
 * stored as such: the documents keep leaves (see `document.ts`).
 */
import type { Hash, HostId, NodeId, ObjectId, SessionId } from './ids.ts';

/** One running thing of a service is an instance; its place is a slot. Example slots: '0', '3', 'a1b2c3-0'. */
export type Slot = string;

export interface Range {
  readonly min: number;
  readonly max: number;
}

export interface ServicePort {
  readonly name: string;
  /** Port inside the container. */
  readonly container: number;
  /** Fixed port on the host, published by the engine; absent: only the service number leads to it. */
  readonly host?: number;
  readonly protocol: 'tcp' | 'udp';
  /** `members`: published on the advertised address; `public`: on every address of the host. */
  readonly expose: 'members' | 'public';
}

export interface HealthCheck {
  readonly kind: 'http' | 'tcp' | 'exec';
  /** Port name, for http and tcp. */
  readonly port?: string;
  /** For http, e.g. '/healthz'. */
  readonly path?: string;
  /** For exec. */
  readonly command?: readonly string[];
  readonly intervalMs: number;
  readonly timeoutMs: number;
  readonly retries: number;
  readonly startPeriodMs: number;
}

export interface Dependency {
  readonly service: string;
  readonly port?: string;
  /** What to do when a rendered value that depends on it changes. */
  readonly onChange: 'restart' | 'none';
}

export interface Service {
  readonly id: ObjectId;
  readonly name: string;
  /** The file or command that made it, for `apply --prune`. */
  readonly source: string;
  readonly role: string;
  readonly image: string;
  /** Arguments for the image's entry point; empty: the image's own. */
  readonly command: readonly string[];
  /** `perRole` absent means only per-host counts apply. Both may be given: perRole slots, at most perHost.max on a host. */
  readonly count: { readonly perHost?: Range; readonly perRole?: Range };
  readonly ports: readonly ServicePort[];
  /** May contain {{services.X.host}}, {{services.X.ports.P}}, {{services.X.address}}. */
  readonly env: Readonly<Record<string, string>>;
  readonly resources: { readonly cpu?: number; readonly memoryBytes?: number };
  readonly health?: HealthCheck;
  readonly dependsOn: readonly Dependency[];
  /** Absent: the planner does not move it, failover after the death of its host does. `no`: neither. */
  readonly relocatable?: 'yes' | 'no' | 'careful';
  readonly placement: {
    readonly policy: PlacementPolicy;
    readonly where: Readonly<Record<string, string>>;
    /** Preferred hosts by name, best first; for `order`, `pinned`. Absent: none. */
    readonly hosts?: readonly string[];
    /** Metadata key whose equal value is preferred to be near, for `location`; or that holds a number, for `score`. */
    readonly key?: string;
  };
  /** At most one instance runs in the environment, held by a lease. Absent: it may run twice. */
  readonly isExclusive?: true;
  /** Storage by name: runs exactly where that is active, under its lease. */
  readonly follows?: string;
  /** Absent: the defaults of `leaseDefaults`. */
  readonly lease?: LeaseSettings;
  readonly onIsolation: 'keep' | 'stop';
  readonly stopGraceMs: number;
  /** `service stop` sets false: placements stay, containers are stopped. */
  readonly isEnabled: boolean;
  /** Raised by `service restart`; part of the container's spec, so a change recreates it. */
  readonly restarts: number;
}

/** `spread` and `pack` are for work that may run twice and for exclusive work alike; the others order candidates. */
export type PlacementPolicy =
  | 'spread'
  | 'pack'
  | 'order'
  | 'load'
  | 'score'
  | 'sticky'
  | 'pinned'
  | 'location';

/** How an exclusive service or storage is held. */
export interface LeaseSettings {
  readonly profile: 'fast' | 'wan' | 'fenced';
  readonly onLoss: 'stop' | 'freeze' | 'keep';
  readonly fence: 'none' | 'panic' | 'watchdog' | 'command';
  readonly fenceCommand: readonly string[];
  readonly lockDelayMs: number;
  readonly onDaemonDown: 'stay' | 'move';
  /** When a better candidate may take over from a healthy holder: never (null), or after it was better for so long. */
  readonly preemptAfterMs: number | null;
  /** `lease freeze`: no automatic acquisition, handover or restart; renewal and fencing go on. */
  readonly isFrozen: boolean;
}

/** A directory of one role's hosts, active on one of them at a time. */
export interface Storage {
  readonly id: ObjectId;
  readonly name: string;
  readonly source: string;
  readonly role: string;
  /** `local`: a directory of each host. `sync`: the active host's, copied to the other hosts of the role. */
  readonly driver: 'local' | 'sync';
  /** Absolute path on the hosts. */
  readonly path: string;
  readonly isExclusive: boolean;
  readonly lease?: LeaseSettings;
  readonly placement: Service['placement'];
}

export interface Role {
  readonly id: ObjectId;
  readonly name: string;
  readonly source: string;
  /** 0: none required. */
  readonly minHosts: number;
  /** A host with this role carries no other. */
  readonly isDedicated: boolean;
}

/** What operators have set for a host; the member record gives the initial values. */
export interface HostSettings {
  readonly name?: string;
  /** true: added, false: taken away, absent: as the member record says. */
  readonly roles: Readonly<Record<string, boolean>>;
  readonly meta: Readonly<Record<string, string>>;
  readonly isDrained: boolean;
  /** Takes nothing exclusive by itself while set. Absent: false. */
  readonly isFrozen?: boolean;
}

/** An image that the cluster itself holds. */
export interface ImageEntry {
  /** As services name it, e.g. 'demo/site:7.1'. */
  readonly reference: string;
  /** Blob with the image manifest (OCI), which names config and layers. */
  readonly manifest: Hash;
  /** The engine's image id: 'sha256:…' of the config. */
  readonly imageId: string;
  readonly sizeBytes: number;
}

/** Something in a document that cannot be used; the rest goes on. */
export interface Problem {
  readonly kind: 'poison' | 'combined' | 'duplicate-name';
  readonly object: ObjectId | null;
  readonly detail: string;
}

export interface EnvView {
  readonly env: string;
  /** By name; of two live objects with one name the index's winner is listed, the other is a problem. */
  readonly roles: ReadonlyMap<string, Role>;
  readonly services: ReadonlyMap<string, Service>;
  readonly storage: ReadonlyMap<string, Storage>;
  readonly hosts: ReadonlyMap<HostId, HostSettings>;
  readonly images: ReadonlyMap<string, ImageEntry>;
  /** '<service>/<port>' to the cluster-wide number, 20000 to 29999. */
  readonly numbers: ReadonlyMap<string, number>;
  readonly autoApply: 'off' | 'safe';
  /** Voters that an operator has chosen, sorted; null: chosen by the holder of the planner's lease. */
  readonly voters: readonly HostId[] | null;
  /** Freeze of the whole environment: no automatic acquisition, handover or restart of anything exclusive. */
  readonly isFrozen: boolean;
  readonly problems: readonly Problem[];
}

/** One host as the planner and everybody else sees it: roster, settings and facts put together. */
export interface HostView {
  readonly id: HostId;
  readonly node: NodeId;
  readonly name: string;
  readonly env: string;
  /** Effective roles, sorted. */
  readonly roles: readonly string[];
  readonly meta: Readonly<Record<string, string>>;
  /** The one liveness function. */
  readonly liveness: Liveness;
  readonly isDrained: boolean;
  /** Null until its inventory has arrived. */
  readonly capacity: { readonly cpu: number; readonly memoryBytes: number } | null;
  /** Advertised address, null until known. */
  readonly address: string | null;
}

/** SWIM status. `left` is voluntary, `dead` is inferred. */
export type Liveness = 'alive' | 'suspect' | 'dead' | 'left';

// ---- Plan -------------------------------------------------------------------------------------------------------

/**
 * Everything that decides a plan, and nothing else: canonical, hashable, kept as a blob beside the plan so that every
 * host can recompute it. Arrays are sorted by id; numbers are bucketed by whoever builds it so that noise changes nothing.
 */
export interface PlanInputs {
  readonly v: 1;
  readonly env: string;
  readonly roles: readonly Role[];
  readonly services: readonly Service[];
  /** Absent: none. */
  readonly storage?: readonly Storage[];
  /** Voters that an operator has chosen, sorted; only for warnings. Absent: chosen by themselves. */
  readonly voters?: readonly HostId[];
  readonly hosts: readonly PlanHost[];
  /** Images of those services that the cluster holds, sorted by reference: a later push of a name changes nothing until it is committed. */
  readonly images?: readonly ImageEntry[];
  /** '<service>/<port>', number; sorted. */
  readonly numbers: readonly (readonly [string, number])[];
  /** The committed plan's placements: what is preferred to stay. */
  readonly previous: readonly Placement[];
}

export interface PlanHost {
  readonly id: HostId;
  readonly name: string;
  readonly roles: readonly string[];
  readonly meta: Readonly<Record<string, string>>;
  /** False: keeps what it has, gets nothing new. Drained: loses what may move. */
  readonly isAlive: boolean;
  readonly isDrained: boolean;
  readonly cpu: number;
  readonly memoryBytes: number;
}

export interface Placement {
  readonly service: ObjectId;
  readonly serviceName: string;
  readonly slot: Slot;
  readonly host: HostId;
}

export interface PlanStep {
  readonly kind: 'start' | 'stop' | 'move' | 'update';
  /** Absent: an instance. `storage`: `service` is its name, `slot` is '', `host` where it is preferred. */
  readonly object?: 'storage';
  readonly service: string;
  readonly slot: Slot;
  readonly host: string;
  readonly from?: string;
  readonly reason: string;
}

export interface Unplaceable {
  readonly service: string;
  readonly slot: Slot;
  /** Why each host was passed over. */
  readonly perHost: readonly { readonly host: string; readonly reason: string }[];
}

export interface Plan {
  readonly v: 1;
  readonly env: string;
  readonly inputHash: Hash;
  /** Sorted by service, slot. */
  readonly placements: readonly Placement[];
  readonly unplaceable: readonly Unplaceable[];
  readonly warnings: readonly string[];
}

/** Signed; the highest by (planEpoch, seq, hash) wins whole. */
export interface PlanPointer {
  readonly env: string;
  /** Epoch of the planner lease; 0 while there is none. */
  readonly planEpoch: number;
  readonly seq: number;
  readonly inputHash: Hash;
  readonly inputBlob: Hash;
  readonly blob: Hash;
  readonly author: { readonly session: SessionId } | { readonly host: NodeId };
  /** The plan it was made after; '' for the first. */
  readonly after: Hash | '';
  /** Plans that it takes account of, newest first. */
  readonly past: readonly Hash[];
  /** Hash of what operators decided in its inputs; null when it does not say. */
  readonly decided: Hash | null;
  /** Of the documents that its author had, by name. */
  readonly heads: Readonly<Record<string, readonly Hash[]>>;
}

/** Topic 'docker' of the docker plugin. */
export interface InstancesFact {
  readonly engine: {
    readonly state: 'ok' | 'absent' | 'hung';
    readonly version?: string;
    readonly reason?: string;
  };
  readonly instances: readonly InstanceFact[];
}

// ---- Facts ------------------------------------------------------------------------------------------------------

/** What runs on a host, as its engine says. */
export interface InstanceFact {
  readonly service: string;
  readonly serviceId: ObjectId;
  readonly slot: Slot;
  /** '<service>-<slot>'. */
  readonly instance: string;
  readonly containerId: string;
  /** The container's own address on this host's bridge, fixed for its life; null when it has none. */
  readonly address: string | null;
  readonly state: 'waiting' | 'pulling' | 'created' | 'running' | 'exited' | 'failed' | 'unknown';
  readonly health: 'none' | 'starting' | 'healthy' | 'unhealthy';
  readonly image: string;
  readonly spec: string;
  readonly ports: readonly {
    readonly name: string;
    readonly container: number;
    readonly host: number | null;
    readonly number: number | null;
  }[];
  /** Wall clock of the owner, for people only. */
  readonly sinceMs: number;
  /** Coded reason when it does not run, else absent. */
  readonly reason?: string;
  readonly restarts: number;
}

/** Topic 'host': address, readiness, version; small and rarely changing. */
export interface HostFact {
  readonly name: string;
  readonly version: string;
  readonly addresses: readonly string[];
  readonly advertise: string;
  readonly peerPort: number;
  readonly apiPort: number;
  readonly isReady: boolean;
  readonly isLeaving: boolean;
  readonly isDraining: boolean;
  readonly bootId: string;
  readonly engine: 'ok' | 'absent' | 'hung';
  /** Newest plan this host has taken up, by pointer hash. */
  readonly plan: string | null;
  /** True while desired and actual differ or a step is still to be retried. */
  readonly isBusy: boolean;
}

/**
 * Topic 'lease': what a host's guard says, for names, balancers and people. A hint: nothing exclusive is decided by it.
 * Kept small: only what is held here, and what differs from a candidate in good order.
 */
export interface LeaseFact {
  readonly v: 1;
  /** TCP port of the guard; 0: no guard runs. */
  readonly leasePort: number;
  /** Of the guard's voter configuration, as `ChosenConfig` of `daemon/lease/model.ts`; null: none known. */
  readonly chosen: unknown;
  readonly hasQuorum: boolean;
  /** Its guard's vote lost something that it had promised to keep, and is silent. Absent: it has not. */
  readonly hasForgotten?: boolean;
  /** Why exclusive work cannot run here; null: it can. */
  readonly gateFault: string | null;
  readonly held: readonly {
    readonly name: string;
    readonly epoch: number;
    /** Opening, active, frozen, handing-over or parked: as `LeaseState`. */
    readonly state: string;
  }[];
  /** Leases that this host is a candidate for and would not take, and why. */
  readonly unfit: readonly { readonly name: string; readonly why: string }[];
}

/** Topic 'storage' of the storage plugin. */
export interface StorageFact {
  readonly v: 1;
  readonly storage: readonly {
    readonly name: string;
    readonly id: ObjectId;
    readonly state: 'active' | 'replica' | 'absent' | 'failed';
    /** Epoch of the active copy that this is, or was copied from; 0: never. */
    readonly epoch: number;
    /** Number of the copy within the epoch. */
    readonly version: number;
    /** Milliseconds by which a replica lags as it sees it; 0 when in sync or active, null when not known. */
    readonly lagMs: number | null;
    readonly isInSync: boolean;
    readonly bytes: number;
    /** Of an active one: which content it began its epoch with. */
    readonly from?: { readonly epoch: number; readonly version: number };
    readonly reason: string | null;
  }[];
}

/**
 * Topic 'inventory': what a host is and has, by its own account. Taken at start, on an interval and on demand; lists are
 * bounded by whoever takes it, so that the fact stays small. Sizes are bytes.
 */
export interface InventoryFact {
  readonly v: 1;
  /** Wall clock of the owner, for people only. */
  readonly takenAtWallMs: number;
  readonly hostname: string;
  readonly cpu: {
    /** Processors that the kernel uses. */
    readonly count: number;
    /** Null where the machine does not say. */
    readonly physicalCores: number | null;
    readonly model: string;
    /** As Node names it: 'x64', 'arm64'. */
    readonly architecture: string;
  };
  readonly memory: {
    readonly totalBytes: number;
    readonly availableBytes: number;
    readonly swapBytes: number;
  };
  /** The file system of the state directory: where Trellis itself needs room. */
  readonly stateDisk: {
    readonly mount: string;
    readonly totalBytes: number;
    readonly freeBytes: number;
  } | null;
  /** Local file systems, by mount point. */
  readonly filesystems: readonly {
    readonly mount: string;
    readonly type: string;
    readonly totalBytes: number;
    readonly freeBytes: number;
  }[];
  /** Whole disks. */
  readonly disks: readonly {
    readonly name: string;
    readonly sizeBytes: number;
    readonly model: string;
    readonly isRotational: boolean;
  }[];
  readonly kernel: { readonly release: string; readonly cgroup: 'v1' | 'v2' | 'none' };
  /** From os-release: 'debian', '12', 'Debian GNU/Linux 12 (bookworm)'. */
  readonly os: { readonly id: string; readonly version: string; readonly name: string };
  /** Changes with every boot of the kernel. */
  readonly bootId: string;
  /** Of the installation; null where there is none. */
  readonly machineId: string | null;
  readonly engine: {
    readonly state: 'ok' | 'absent' | 'hung';
    readonly endpoint: string;
    readonly version: string | null;
    readonly apiVersion: string | null;
  };
  /** Version per tool, null when it is not there: docker, iptables, systemctl, curl, ... */
  readonly tools: Readonly<Record<string, string | null>>;
  readonly privileges: {
    readonly uid: number;
    readonly isRoot: boolean;
    /** May load packet filter rules and make network namespaces (CAP_NET_ADMIN). */
    readonly isNetAdmin: boolean;
    /** Member of the group that may use the engine, or root. */
    readonly mayUseEngine: boolean;
  };
  /** Interfaces other than containers' ends, by name. */
  readonly interfaces: readonly {
    readonly name: string;
    readonly mac: string | null;
    readonly mtu: number;
    readonly isUp: boolean;
    readonly addresses: readonly {
      readonly address: string;
      readonly prefixBits: number;
      readonly scope: 'loopback' | 'link' | 'private' | 'public';
    }[];
  }[];
  /** Runnable tasks, averaged over 1, 5 and 15 minutes. */
  readonly load: readonly [number, number, number];
  /** What could not be read, and why; the rest is right. */
  readonly gaps: readonly string[];
}
