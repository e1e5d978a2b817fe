/** Voters of the environment as this host sees them, and what further losses would cost, in words. */
import type { HostId } from '../../crdt/ids.ts';
import { majorityOf } from '../lease/model.ts';
import type { VoterConfig } from '../lease/model.ts';
import type { QuorumAnswer, VoterRow } from './lease-answers.ts';
import type { LeaseWorld } from './lease-world.ts';
import { hostName } from './lease-world.ts';

export function quorumOf(world: LeaseWorld): QuorumAnswer {
  const config = newestConfig(world);
  const voters = config?.voters.map((host) => voterRow(world, host)) ?? [];
  const size = voters.length;
  const answering = voters.filter((voter) => voter.isReachable && !voter.isSilent);
  const needed = size === 0 ? 0 : majorityOf(size);
  // Guards hear each other also where a vote is silent.
  const isEnough = size > 0 && answering.length >= needed;
  const hasQuorum = isEnough && world.status?.hasQuorum !== false;
  const survives = hasQuorum && size > 0 ? Math.max(-1, answering.length - needed) : -1;
  const mode = size === 0 ? 'none' : size === 1 ? 'single' : size === 2 ? 'pair' : 'majority';
  return {
    n: config?.n ?? null,
    generation: config?.generation ?? null,
    mode,
    voters,
    hasQuorum,
    needed,
    survives,
    ifOneMoreGoes: whatIsLost({ mode, survives, names: answering.map(({ host }) => host), size }),
    note:
      world.status === null
        ? 'the guard of this host does not answer: this is what the others say'
        : '',
  };
}

function voterRow(world: LeaseWorld, host: HostId): VoterRow {
  const fact = world.facts.find((one) => one.host.id === host);
  const hasForgotten = fact?.fact.hasForgotten === true;
  const seen = world.status?.voters.find((voter) => voter.host === host);
  if (seen !== undefined) {
    const { isReachable, lastHeardMs } = seen;
    const isSilent = seen.isSilent || hasForgotten;
    const heardMs = lastHeardMs === null ? null : Math.round(lastHeardMs);
    return { host: hostName(world, host), isReachable, isSilent, lastHeardMs: heardMs };
  }
  const liveness = world.hosts.get(host)?.liveness;
  return {
    host: hostName(world, host),
    isReachable: liveness === 'alive' && (fact?.fact.leasePort ?? 0) > 0,
    isSilent: hasForgotten,
    lastHeardMs: fact === undefined ? null : Math.round(fact.ageMs),
  };
}

/** Higher generations replace every lower one, whatever their number. */
function newestConfig(world: LeaseWorld): VoterConfig | null {
  const known = [world.status?.chosen, ...world.facts.map(({ fact }) => fact.chosen)];
  const configs = known.flatMap((chosen) => {
    const config = (chosen as { config?: unknown } | null | undefined)?.config;
    return isConfig(config) ? [config] : [];
  });
  return configs.toSorted((a, b) => b.generation - a.generation || b.n - a.n)[0] ?? null;
}

/** Facts come from other hosts: what is not understood is passed over. */
function isConfig(value: unknown): value is VoterConfig {
  const config = value as Partial<VoterConfig> | null | undefined;
  return (
    Number.isSafeInteger(config?.n) &&
    Number.isSafeInteger(config?.generation) &&
    Array.isArray(config?.voters) &&
    config.voters.every((voter) => typeof voter === 'string')
  );
}

const stops = 'nothing exclusive changes hands, and what is held stops when its time is over';

function whatIsLost(quorum: {
  mode: QuorumAnswer['mode'];
  survives: number;
  names: readonly string[];
  size: number;
}): string {
  const { mode, survives, names } = quorum;
  switch (mode) {
    case 'none':
      return 'no voters are known yet: nothing exclusive starts';
    case 'single':
      return survives < 0
        ? `the only voter does not answer: ${stops}`
        : `${names[0]} is the only voter: without it ${stops}`;
    case 'pair':
      return survives < 0
        ? 'one of two voters answers at most: a holder that votes goes on, nobody takes over until both answer or an operator forces it'
        : 'a holder that votes goes on without the other; nobody takes over from it until both answer or an operator forces it';
    case 'majority':
      if (survives < 0) return `no majority of ${quorum.size} voters answers: ${stops}`;
      if (survives === 0) return `if one of ${names.join(', ')} goes too, ${stops}`;
      return `nothing is lost: ${survives === 1 ? 'one more voter' : `${survives} more voters`} may go`;
  }
}
