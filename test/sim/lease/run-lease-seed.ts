/** One seed of leases: safety with faults, then faults stop and everything has to have one holder again. */
import type { HostId } from '../../../crdt/ids.ts';
import { majorityOf } from '../../../daemon/lease/model.ts';
import { compareRefs } from '../../../daemon/lease/voter-config.ts';
import { SimRandom } from '../sim-random.ts';
import { Breach } from './checkers/checks.ts';
import type { CoreFactory } from './core-port.ts';
import { Faults } from './faults.ts';
import { optionsOf, type LeaseWorldOptions } from './options.ts';
import { LeaseWorld } from './world.ts';

export interface LeaseOutcome {
  readonly seed: number;
  readonly steps: number;
  readonly simulatedMs: number;
  readonly convergedMs: number;
  readonly traceHash: string;
  /** The law that was broken, 'L1' when it did not converge, 'crash' for any other error; null: none. */
  readonly law: string | null;
  readonly failure: string | null;
  readonly options: LeaseWorldOptions;
  readonly counters: Readonly<Record<string, number>>;
}

/** Silence, exclusion, retries with backoff, a handover that nobody finishes, a clear that fails. */
export const convergeWithinMs = 60_000;
/** Two changes of voters, or a force, and what they may have to wait for. */
const restoreMs = 40_000;
/** Hosts that were declared dead come back this much later: see `faults.ts`. */
const declaredDeadMs = 80_000;

export function runLeaseSeed(
  seed: number,
  settings: {
    readonly options?: Partial<LeaseWorldOptions>;
    readonly makeCore?: CoreFactory;
    readonly print?: (line: string) => void;
    readonly stepsMax?: number;
  } = {},
): LeaseOutcome {
  const options = optionsOf(new SimRandom(`lease/${seed}/options`), settings.options);
  let world: LeaseWorld | null = null;
  let faults: Faults | null = null;
  let law: string | null = null;
  let failure: string | null = null;
  let convergedMs = 0;
  try {
    world = new LeaseWorld({
      seed,
      options,
      ...(settings.makeCore && { makeCore: settings.makeCore }),
      ...(settings.print && { print: settings.print }),
    });
    faults = new Faults(world);
    world.run({ forMs: options.forMs });
    faults.stopAll();
    convergedMs = converge(world);
  } catch (error) {
    law = error instanceof Breach ? error.law : 'crash';
    failure = error instanceof Error ? (error.stack ?? error.message) : String(error);
    if (world !== null) failure = `at ${(world.nowMs / 1000).toFixed(3)} s, ${failure}`;
  }
  return {
    seed,
    steps: world?.steps ?? 0,
    simulatedMs: world?.nowMs ?? 0,
    convergedMs,
    traceHash: world?.trace.hash() ?? '',
    law,
    failure,
    options,
    counters: { ...world?.checks.counters, ...(faults && Object.fromEntries(faults.counts)) },
  };
}

/** Runs without faults until nothing is pending; throws what is. */
export function converge(world: LeaseWorld): number {
  if (world.machines.some(({ isUp, isKeptOff }) => !isUp && isKeptOff)) {
    const untilMs = world.nowMs + declaredDeadMs;
    while (world.nowMs < untilMs) {
      world.run({ forMs: 250 });
      revive(world, world.nowMs % 2_000 < 250);
    }
  }
  // The first vote of a voter that lost memory comes back after waits of its own: see `restoreVoters`.
  const restoredByMs = world.nowMs + 3 * world.options.ttlMsMax + restoreMs;
  // What it lost is seen when its guard is back.
  world.run({ forMs: 250 });
  while (world.nowMs < restoredByMs && hasForgotten(world)) {
    world.run({ forMs: 250 });
    revive(world, world.nowMs % 2_000 < 250);
    if (world.nowMs % 3_000 < 250) restoreVoters(world);
  }
  const startMs = world.nowMs;
  let pending: string | null = 'not looked';
  while (world.nowMs < startMs + convergeWithinMs) {
    world.run({ forMs: 250 });
    pending = pendingOf(world);
    if (pending === null) return world.nowMs - startMs;
    revive(world, (world.nowMs - startMs) % 2_000 < 250);
    if ((world.nowMs - startMs) % 3_000 < 250) restoreVoters(world);
    // Operators look again at what did not start.
    if ((world.nowMs - startMs) % 15_000 < 250) tryAgain(world);
  }
  throw new Breach('L1', `not converged within ${convergeWithinMs} ms: ${pending}`);
}

function hasForgotten(world: LeaseWorld): boolean {
  return world.guards.some((guard) => {
    const status = guard.core?.status(guard.now());
    const isVoter = status?.chosen?.config.voters.includes(status.self) === true;
    return isVoter && status.hasForgotten;
  });
}

function tryAgain(world: LeaseWorld): void {
  world.truth = { ...world.truth, why: `${world.truth.why}.` };
  for (const daemon of world.daemons) daemon.refresh();
}

/** Operators see to voters that lost memory: removed and added by the others, or forced where those are no majority. */
function restoreVoters(world: LeaseWorld): void {
  const statuses = world.guards.map((guard) => guard.core?.status(guard.now()) ?? null);
  const lost = statuses.flatMap((status) => (status?.hasForgotten === true ? [status.self] : []));
  const links = statuses.flatMap((status) => (status?.chosen ? [status.chosen.config] : []));
  const config = links.toSorted((a, b) => compareRefs(b, a))[0];
  if (config === undefined) return;
  const { voters } = config;
  const silent = voters.filter((voter) => lost.includes(voter));
  if (silent.length > 0 && voters.length - silent.length < majorityOf(voters.length)) {
    const index = world.indexOf(voters[world.steps % voters.length] as HostId);
    world.command(index, { kind: 'force-voters', voters, assertDead: [] });
  }
  const votersWanted = silent.length === 0 ? null : voters.filter((voter) => voter !== silent[0]);
  if (world.truth.votersWanted?.join() === votersWanted?.join()) return;
  world.truth = { ...world.truth, votersWanted };
  for (const daemon of world.daemons) daemon.refresh();
}

/** Guards and daemons that were down when the faults stopped, or asleep. */
function revive(world: LeaseWorld, areUnparked: boolean): void {
  for (const { index, isUp, isAsleep } of world.machines) {
    if (isAsleep) continue;
    world.startGuard(index);
    world.daemons[index]?.start();
    if (isUp && areUnparked) world.command(index, { kind: 'unpark', name: null });
  }
}

/** What is missing: every lease with a candidate has one holder, with its workload running; null: nothing. */
export function pendingOf(world: LeaseWorld): string | null {
  for (const machine of world.machines) {
    if (!machine.isUp || machine.isAsleep) return `h${machine.index} is not up`;
    if (world.guards[machine.index]?.isAlive !== true) return `h${machine.index} has no guard`;
  }
  for (const { spec, candidates } of world.truth.leases) {
    if (candidates.length === 0) continue;
    const holders: number[] = [];
    for (const guard of world.guards) {
      const status = guard.core?.status(guard.now()).leases.find(({ name }) => name === spec.name);
      if (status?.state === 'active') holders.push(guard.machine.index);
    }
    if (holders.length !== 1)
      return `${spec.name} is held by [${holders.map((h) => `h${h}`).join()}]: ${statesOf(world, spec.name)}`;
    if (!spec.hasGate) continue;
    const running = world.machines.filter(({ gates }) => gates.get(spec.name)?.isRunning === true);
    if (running.length !== 1 || running[0]?.index !== holders[0])
      return `${spec.name} runs on [${running.map((m) => `h${m.index}`).join()}], held by h${holders[0]}`;
  }
  return null;
}

function statesOf(world: LeaseWorld, name: string): string {
  return world.guards
    .map((guard) => {
      const lease = guard.core?.status(guard.now()).leases.find((one) => one.name === name);
      return `h${guard.machine.index} ${lease?.state} gate ${lease?.gate} ${lease?.why}`;
    })
    .join(', ');
}
