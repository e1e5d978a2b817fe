/** From what operators type to a list of voters, and what each choice of voters loses, in plain words. */
import { compareText } from '../../crdt/codec.ts';
import type { HostId } from '../../crdt/ids.ts';
import type { HostView } from '../../crdt/model.ts';
import { ClusterError } from '../errors.ts';
import { leaseLimits } from '../lease/model.ts';
import type { NodeApi } from '../node-api.ts';
import { findHost } from './common.ts';

export interface VoterChoice {
  /** Sorted; null: chosen by the planner's holder. */
  readonly voters: readonly HostId[] | null;
  readonly warnings: readonly string[];
}

/** 'auto', 'pair', 'witness H', 'h1,h2,h3' or 'h1 h2 h3'. Fails with INVALID, NOT_FOUND, AMBIGUOUS. */
export function chooseVoters(node: NodeApi, words: readonly string[]): VoterChoice {
  const parts = words.flatMap((word) => word.split(',')).filter((part) => part !== '');
  const [first, ...rest] = parts;
  if (first === undefined)
    throw invalid('no voters are named; `auto`, `pair`, `witness H` or names');
  if (first === 'auto') {
    if (rest.length > 0) throw invalid('`auto` stands alone');
    return { voters: null, warnings: [] };
  }
  if (first === 'pair') return pair(node, rest);
  if (first === 'witness') return witness(node, rest);
  return listed(
    node,
    parts.map((part) => findHost(node, part)),
  );
}

function pair(node: NodeApi, rest: readonly string[]): VoterChoice {
  const hosts = rest.length === 0 ? membersOf(node) : rest.map((name) => findHost(node, name));
  if (hosts.length !== 2) {
    throw invalid(
      `a pair has two voters, there are ${hosts.length} hosts; name two of them: \`env set voters pair H1 H2\``,
    );
  }
  return listed(node, hosts);
}

/** The witness votes and holds nothing: the other two are those that carry roles. */
function witness(node: NodeApi, rest: readonly string[]): VoterChoice {
  if (rest.length !== 1) throw invalid('`witness` is followed by the one host that only votes');
  const third = findHost(node, rest[0] ?? '');
  const others = membersOf(node).filter((host) => host.id !== third.id);
  if (others.length !== 2) {
    throw invalid(
      `a witness helps two hosts, there are ${others.length} besides ${third.name}; name the voters instead`,
    );
  }
  const choice = listed(node, [...others, third]);
  if (third.roles.length === 0) return choice;
  const warning = `${third.name} carries ${third.roles.join(', ')}: it votes, and may hold leases too`;
  return { ...choice, warnings: [...choice.warnings, warning] };
}

function listed(node: NodeApi, hosts: readonly HostView[]): VoterChoice {
  const distinct = [...new Map(hosts.map((host) => [host.id, host])).values()];
  if (distinct.length > leaseLimits.votersMax)
    throw invalid(`at most ${leaseLimits.votersMax} voters, ${distinct.length} are named`);
  for (const host of distinct) {
    if (host.liveness === 'left') throw invalid(`${host.name} has left the cluster`);
    if (host.env !== node.env) throw invalid(`${host.name} is in environment ${host.env}`);
  }
  return {
    voters: distinct.map(({ id }) => id).toSorted(compareText),
    warnings: warningsOf(distinct, membersOf(node)),
  };
}

function warningsOf(voters: readonly HostView[], members: readonly HostView[]): string[] {
  const lines: string[] = [];
  for (const { name, liveness } of voters) {
    if (liveness === 'dead') lines.push(`${name} is dead: it becomes a voter only when it is back`);
  }
  const size = voters.length;
  if (size === 1 && members.length > 1)
    lines.push(
      `without ${voters[0]?.name} nothing exclusive changes hands, and what others hold stops`,
    );
  if (size === 2)
    lines.push('two voters: a holder goes on without the other, and nobody takes over by itself');
  if (size > 2 && size % 2 === 0)
    lines.push(`${size} voters survive no more losses than ${size - 1}`);
  return lines;
}

function membersOf(node: NodeApi): HostView[] {
  return node
    .hosts()
    .filter((host) => host.liveness !== 'left' && host.env === node.env)
    .toSorted((a, b) => compareText(a.name, b.name));
}

/** For two hosts, where no choice is without a price. Empty otherwise. */
export function twoHostChoices(node: NodeApi, voters: readonly string[]): string[] {
  const [a, b, ...more] = membersOf(node).filter(
    (host) => host.roles.length > 0 || voters.includes(host.name),
  );
  if (a === undefined || b === undefined || more.length > 0) return [];
  const first = voters.length === 1 ? (voters[0] ?? a.name) : a.name;
  const second = first === a.name ? b.name : a.name;
  return [
    `keep ${first} as the only voter: ${first} survives the loss of ${second} and takes over from it; ` +
      `if ${first} is lost, what ${second} holds stops within seconds and ${second} takes nothing over until you force it`,
    `\`env set voters pair\`: whichever holds goes on when the other is lost or cut off; ` +
      'nobody takes over by itself, and a holder that restarts alone must be forced',
    '`env set voters witness H` with a third host that only votes: either of the two may be lost, and the other takes over by itself; ' +
      'if the witness is lost as well, what is held stops',
  ];
}

function invalid(reason: string): ClusterError {
  return new ClusterError('INVALID', { reason });
}
