/**
 * What must be done so that this host's containers are the desired ones. Pure: everything it decides on is in its
 * arguments, so that a second look after the work was done finds nothing to do.
 *
 * Invariants: a container without our labels is never touched; one whose labels agree with what is wanted is left
 * running; nothing in `keep` is touched; at most one action per container name; nothing that is active behind a closed
 * gate is touched, and nothing is started there.
 */
import type { DesiredInstance } from '../api.ts';
import { type Self, containerNameOf, isOurs, label } from './labels.ts';

/** A container as the engine lists it. */
export interface Observed {
  readonly id: string;
  /** Without the leading slash. */
  readonly names: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  /** The engine's word: created, running, paused, restarting, removing, exited, dead. */
  readonly state: string;
}

/** What an instance needs besides its own description; equal text means that the container fits. */
export interface Wanted {
  readonly instance: DesiredInstance;
  /** Label `trellis.bind`. */
  readonly bind: string;
  /** Of exclusive instances; absent: it may run. */
  readonly gate?: GateState;
}

/**
 * `closed`: what is behind it may be frozen, so a container that is active is asked nothing and left to whoever guards the
 * gate. `resting`: open, but not to be started now (it is being handed over, or has just failed). `open`: to be run.
 */
export type GateState = 'closed' | 'resting' | 'open';

export type Action =
  | { readonly kind: 'create'; readonly wanted: Wanted }
  | {
      readonly kind: 'recreate';
      readonly wanted: Wanted;
      readonly container: Observed;
      readonly reason: string;
    }
  | { readonly kind: 'start'; readonly wanted: Wanted; readonly container: Observed }
  | { readonly kind: 'unpause'; readonly wanted: Wanted; readonly container: Observed }
  | { readonly kind: 'stop'; readonly wanted: Wanted; readonly container: Observed }
  | {
      readonly kind: 'remove';
      readonly container: Observed;
      readonly reason: 'not desired' | 'duplicate';
    };

export interface Foreign {
  readonly wanted: Wanted;
  readonly container: Observed;
  /** Of our cluster, but another host's: two daemons share an engine, and it will go by itself. */
  readonly isOfCluster: boolean;
}

export interface Difference {
  /** Removals first, then wanted instances in start order. */
  readonly actions: readonly Action[];
  readonly foreign: readonly Foreign[];
}

export function diff(input: {
  readonly self: Self;
  readonly wanted: readonly Wanted[];
  /** Instances to leave alone. */
  readonly keep: ReadonlySet<string>;
  readonly containers: readonly Observed[];
  /** May what is behind the gate of this lease be frozen? Asked for containers that are not wanted any more. */
  isClosed?(lease: string): boolean;
}): Difference {
  const { self, containers, keep } = input;
  const isClosed = (lease: string): boolean => input.isClosed?.(lease) ?? true;
  const byName = new Map(
    containers.flatMap((container) => container.names.map((name) => [name, container] as const)),
  );
  const wantedInstances = new Set(input.wanted.map(({ instance }) => instance.instance));
  const wantedNames = new Set(input.wanted.map(({ instance }) => instance.containerName));
  const removals: Action[] = [];
  for (const container of containers) {
    // A name that a wanted instance needs is dealt with below.
    if (container.names.some((name) => wantedNames.has(name))) continue;
    const reason = removalReason(container, { self, keep, wantedInstances, isClosed });
    if (reason !== null) removals.push({ kind: 'remove', container, reason });
  }
  const actions: Action[] = [];
  const foreign: Foreign[] = [];
  for (const wanted of input.wanted) {
    if (keep.has(wanted.instance.instance)) continue;
    const container = byName.get(wanted.instance.containerName);
    if (container === undefined) actions.push({ kind: 'create', wanted });
    else if (keep.has(ownedInstance(container, self) ?? '')) continue;
    else if (isOurs(container.labels, self)) {
      const action = decide(wanted, container, isClosed);
      if (action !== null) actions.push(action);
    } else
      foreign.push({
        wanted,
        container,
        isOfCluster: container.labels[label.cluster] === self.clusterId,
      });
  }
  return { actions: [...removals, ...actions], foreign };
}

function ownedInstance({ labels }: Observed, self: Self): string | undefined {
  return isOurs(labels, self) ? labels[label.instance] : undefined;
}

/** Null: not ours, wanted, or to be left alone. */
function removalReason(
  container: Observed,
  context: {
    self: Self;
    keep: ReadonlySet<string>;
    wantedInstances: ReadonlySet<string>;
    isClosed(lease: string): boolean;
  },
): 'not desired' | 'duplicate' | null {
  const { self, keep, wantedInstances } = context;
  if (!isOurs(container.labels, self) || container.state === 'removing') return null;
  const lease = container.labels[label.lease];
  if (lease !== undefined && isActive(container) && context.isClosed(lease)) return null;
  const instance = container.labels[label.instance] ?? '';
  if (keep.has(instance)) return null;
  if (wantedInstances.has(instance)) return 'duplicate';
  // With our labels but neither a name of ours nor an instance we own, somebody made it by hand: theirs.
  if (!container.names.includes(containerNameOf(self, instance))) return null;
  return 'not desired';
}

function decide(
  wanted: Wanted,
  container: Observed,
  isClosed: (lease: string) => boolean,
): Action | null {
  if (container.state === 'removing') return null;
  if (isActive(container) && isBehindClosedGate(wanted, container, isClosed)) return null;
  const reason = misfit(wanted, container);
  if (reason !== null) return { kind: 'recreate', wanted, container, reason };
  if (!wanted.instance.isEnabled)
    return isActive(container) ? { kind: 'stop', wanted, container } : null;
  if (container.state === 'paused') return { kind: 'unpause', wanted, container };
  const mayRun = wanted.gate === undefined || wanted.gate === 'open';
  return isActive(container) || !mayRun ? null : { kind: 'start', wanted, container };
}

/** It goes by what the container was made for, which may differ from what is wanted now. */
function isBehindClosedGate(
  wanted: Wanted,
  container: Observed,
  isClosed: (lease: string) => boolean,
): boolean {
  const lease = container.labels[label.lease];
  if (lease === undefined) return false;
  return lease === wanted.instance.exclusive?.lease ? wanted.gate === 'closed' : isClosed(lease);
}

/** Why a container of ours cannot be kept, null when it fits. */
function misfit({ instance, bind }: Wanted, container: Observed): string | null {
  if (container.state === 'dead') return 'the engine could not remove it';
  if (container.labels[label.instance] !== instance.instance)
    return 'it was made for another instance';
  if (container.labels[label.spec] !== instance.spec) return 'its description changed';
  if (container.labels[label.bind] !== bind) return 'its address or published ports changed';
  return null;
}

/** Restarting counts: the engine starts it again by itself, with a growing pause. */
export function isActive(container: Observed): boolean {
  return (
    container.state === 'running' ||
    container.state === 'restarting' ||
    container.state === 'paused'
  );
}
