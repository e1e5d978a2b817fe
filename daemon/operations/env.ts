/** `trellis env …`: environments, their voters and what they survive. */
import { z } from 'zod';
import { compareText } from '../../crdt/codec.ts';
import type { LeafPut, LeafValue } from '../../crdt/leaves.ts';
import { pointerOf } from '../../crdt/pointer.ts';
import { ClusterError } from '../errors.ts';
import { leaseLimits, majorityOf } from '../lease/model.ts';
import type { NodeApi } from '../node-api.ts';
import type { EditAnswer } from './answers.ts';
import {
  define,
  envParam,
  findHost,
  nodeOf,
  params,
  roundedSeconds,
  runOn,
  until,
  waitParams,
} from './common.ts';
import type { EnvDetails, EnvRow } from './lease-answers.ts';
import { command, leaseWorld, moveTimeLimitMs } from './lease-commands.ts';
import type { LeaseWorld } from './lease-world.ts';
import { holderOf, hostName } from './lease-world.ts';
import type { Operation, OperationContext } from './operation.ts';
import { editAndPlan } from './planning.ts';
import { quorumOf } from './quorum.ts';
import { chooseVoters, twoHostChoices } from './voters.ts';

/** One name, or several with commas. */
const hostsParam = z.string().min(1).max(500);
const keys = ['voters', 'frozen', 'auto-apply'] as const;
const valueWordsMax = 16;

export const envOperations: readonly Operation[] = [
  define({
    group: 'env',
    command: 'ls',
    summary: 'environments of the cluster',
    access: 'viewer',
    isMutation: false,
    params: params(envParam),
    run: (context, given): Promise<EnvRow[]> =>
      Promise.resolve(envRows(leaseWorld(context, given))),
  }),
  define({
    group: 'env',
    command: 'show',
    summary: 'voters of this environment, and what it survives',
    access: 'viewer',
    isMutation: false,
    params: params({ ...envParam, name: z.string().max(63).optional() }),
    run: (context, given): Promise<EnvDetails> =>
      Promise.resolve(envDetails(leaseWorld(context, { env: given.name ?? given.env }))),
  }),
  define({
    group: 'env',
    command: 'set',
    summary: 'choose voters, freeze, or stop automatic planning',
    access: 'operator',
    isMutation: true,
    timeLimitMs: 3_700_000,
    params: params({
      ...waitParams,
      key: z.enum(keys),
      value: z.union([
        z
          .string()
          .min(1)
          .max(1_000)
          .transform((text) => text.split(/\s+/)),
        z.array(z.string().min(1).max(200)).min(1).max(valueWordsMax),
      ]),
    }),
    run: set,
  }),
  define({
    group: 'env',
    command: 'force-voters',
    summary: 'majority lost: make the survivors the voters',
    access: 'admin',
    isMutation: true,
    timeLimitMs: moveTimeLimitMs,
    params: params({
      ...envParam,
      voters: z.array(hostsParam).min(1).max(leaseLimits.votersMax),
      dead: z.array(hostsParam).max(leaseLimits.votersMax).default([]),
      confirm: z.string().max(63).optional(),
      dryRun: z.boolean().default(false),
    }),
    run: forceVoters,
  }),
];

function envRows(world: LeaseWorld): EnvRow[] {
  const { node } = world;
  const names = new Set([node.env, ...node.hosts().map((host) => host.env)]);
  return [...names].toSorted(compareText).map((name) => envRow(world, name));
}

function envRow(world: LeaseWorld, name: string): EnvRow {
  const { node } = world;
  const hosts = node.hosts().filter((host) => host.env === name && host.liveness !== 'left');
  const isOwn = name === node.env;
  const quorum = isOwn ? quorumOf(world) : null;
  return {
    name,
    hosts: hosts.length,
    live: hosts.filter((host) => host.liveness === 'alive').length,
    voters: quorum?.voters.map(({ host }) => host) ?? [],
    hasQuorum: quorum?.hasQuorum ?? null,
    frozen: isOwn ? world.view.isFrozen : null,
    isOwn,
  };
}

export function envDetails(world: LeaseWorld): EnvDetails {
  const { node, view } = world;
  const quorum = quorumOf(world);
  const planner = holderOf(world, `planner/${node.env}`);
  const names = quorum.voters.map(({ host }) => host);
  return {
    ...envRow(world, node.env),
    votersWanted: view.voters === null ? 'auto' : view.voters.map((id) => hostName(world, id)),
    autoApply: view.autoApply,
    quorum,
    planner:
      planner === null ? null : { host: hostName(world, planner.host), epoch: planner.epoch },
    choices: twoHostChoices(node, names),
  };
}

interface SetGiven {
  readonly env?: string | undefined;
  readonly wait: boolean;
  readonly timeoutMs: number;
  readonly key: (typeof keys)[number];
  readonly value: readonly string[];
}

async function set(context: OperationContext, given: SetGiven): Promise<EditAnswer> {
  const node = nodeOf(context, given);
  const { key, value } = given;
  const message = `environment ${node.env}: ${key} ${value.join(' ')}`;
  const { put, warnings } = putOf(node, key, value);
  const answer = await editAndPlan(context, given, { message, puts: [put] });
  if (given.wait && key === 'voters' && put.value !== null)
    await waitForVoters(context, put.value as readonly string[], given.timeoutMs);
  return { ...answer, warnings: [...warnings, ...(answer.warnings ?? [])] };
}

function putOf(
  node: NodeApi,
  key: SetGiven['key'],
  value: readonly string[],
): { put: LeafPut; warnings: readonly string[] } {
  const put = (name: string, leaf: LeafValue): LeafPut => ({
    object: 'settings',
    pointer: pointerOf(name),
    value: leaf,
  });
  switch (key) {
    case 'voters': {
      const { voters, warnings } = chooseVoters(node, value);
      return { put: put('voters', voters), warnings };
    }
    case 'frozen':
      return {
        put: put('frozen', oneOf(key, value, ['on', 'off']) === 'on' ? true : null),
        warnings: [],
      };
    case 'auto-apply':
      return {
        put: put('autoApply', oneOf(key, value, ['safe', 'off']) === 'off' ? 'off' : null),
        warnings: [],
      };
  }
}

export function oneOf(key: string, value: readonly string[], choices: readonly string[]): string {
  const [word, ...more] = value;
  if (word !== undefined && more.length === 0 && choices.includes(word)) return word;
  const reason = `${key} is ${choices.join(' or ')}, not ${JSON.stringify(value.join(' '))}`;
  throw new ClusterError('INVALID', { reason });
}

/** Voters change one at a time: at the end of it the configuration is the wanted one. */
async function waitForVoters(
  context: OperationContext,
  wanted: readonly string[],
  timeoutMs: number,
): Promise<void> {
  let said = '';
  await until(context, {
    timeoutMs,
    check: () => {
      const world = leaseWorld(context, {});
      const names = quorumOf(world).voters.map(({ host }) => host);
      const words = `voters are ${names.join(', ')}`;
      if (words !== said) context.progress(words);
      said = words;
      const all = wanted.map((id) => hostName(world, id));
      return all.length === names.length && all.every((name) => names.includes(name)) ? true : null;
    },
    timedOut: () =>
      new ClusterError('TIMED_OUT', {
        what: 'changing the voters',
        seconds: roundedSeconds(timeoutMs),
        todo: 'it goes on by itself; look with `trellis env show`',
      }),
  });
}

interface ForceGiven {
  readonly env?: string | undefined;
  readonly voters: readonly string[];
  readonly dead: readonly string[];
  readonly confirm?: string | undefined;
  readonly dryRun: boolean;
}

export interface ForceVotersAnswer {
  readonly env: string;
  readonly voters: readonly string[];
  readonly dead: readonly string[];
  readonly plan?: readonly string[];
}

/** Runs on one of the survivors: their guards vote, others have no say. */
async function forceVoters(
  context: OperationContext,
  given: ForceGiven,
): Promise<ForceVotersAnswer> {
  const world = leaseWorld(context, given);
  const { node } = world;
  const voters = named(node, given.voters);
  const dead = named(node, given.dead);
  const both = voters.find((voter) => dead.some(({ id }) => id === voter.id));
  if (both !== undefined) throw refused(node.env, `${both.name} is named as survivor and as dead`);
  assertCovers(
    world,
    [...voters, ...dead].map(({ name }) => name),
    voters.length,
  );
  const answer = { env: node.env, voters: voters.map(nameOf), dead: dead.map(nameOf) };
  const plan = forcePlan(answer);
  if (given.dryRun) return { ...answer, plan };
  if (given.confirm !== node.env) {
    throw new ClusterError('CONFIRMATION_NEEDED', {
      action: `forcing the voters of ${node.env}`,
      risk: forceRisk(answer.dead),
      confirm: node.env,
      plan,
    });
  }
  const isHere = voters.some(({ id }) => id === node.self.host);
  const survivor = voters.find((voter) => voter.liveness === 'alive');
  if (!isHere) {
    if (survivor === undefined) throw refused(node.env, 'none of the survivors answers');
    const call = { voters: answer.voters, dead: answer.dead, confirm: node.env };
    return (await runOn(context, survivor, {
      group: 'env',
      command: 'force-voters',
      params: call,
    })) as ForceVotersAnswer;
  }
  context.progress('waiting until no lease of the old voters can have time left');
  const ids = { voters: voters.map(({ id }) => id), assertDead: dead.map(({ id }) => id) };
  await command(context, { kind: 'force-voters', ...ids }, { name: `planner ${node.env}` });
  return answer;
}

/** Words by comma or apart; each a host once. */
function named(node: NodeApi, words: readonly string[]) {
  const names = words.flatMap((word) => word.split(',')).filter((name) => name !== '');
  const hosts = names.map((name) => findHost(node, name));
  return [...new Map(hosts.map((host) => [host.id, host])).values()];
}

/** Every present voter is a survivor or declared dead: a forgotten one would go on voting in the old configuration. */
function assertCovers(world: LeaseWorld, known: readonly string[], survivors: number): void {
  const { node } = world;
  const quorum = quorumOf(world);
  const forgotten = quorum.voters.map(({ host }) => host).filter((name) => !known.includes(name));
  if (forgotten.length > 0)
    throw refused(
      node.env,
      `${forgotten.join(', ')} votes now and is neither a survivor nor declared dead`,
    );
  if (
    quorum.hasQuorum &&
    quorum.voters.length > 0 &&
    survivors >= majorityOf(quorum.voters.length)
  ) {
    throw refused(
      node.env,
      'a majority answers; change voters in order with `trellis env set voters`',
    );
  }
}

/** Nobody is dead where the only voters that are left have lost memory. */
function forceRisk(dead: readonly string[]): string {
  return dead.length === 0
    ? 'a voter that is neither named nor seen here may go on by itself, and two hosts may run exclusive work at once'
    : `if one of ${dead.join(', ')} still runs exclusive work, two hosts may run it at once`;
}

function forcePlan(answer: ForceVotersAnswer): string[] {
  const dead = answer.dead.join(', ');
  const aboutDead = [
    `${dead} is declared dead: if it still runs exclusive work, two hosts may run it at once and data may be lost`,
    `make sure first that ${dead} is switched off; when it comes back it obeys the new voters`,
  ];
  return [
    `${answer.voters.join(', ')} become the only voters of ${answer.env}, in a new generation`,
    ...(dead === '' ? [forceRisk([])] : aboutDead),
    'it waits until every lease of the old voters has run out',
  ];
}

function nameOf({ name }: { readonly name: string }): string {
  return name;
}

function refused(env: string, reason: string): ClusterError {
  return new ClusterError('VOTERS_REFUSED', { env, reason });
}
