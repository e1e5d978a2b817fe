/**
 * `trellis doctor`: what this host needs to work, each with what to do. Checks look and never change anything; each has a
 * time limit, and one that breaks is a failed check, not a failed doctor.
 */
import { z } from 'zod';
import { shortfalls } from '../../crdt/minimums.ts';
import type { InventoryFact } from '../../crdt/model.ts';
import { compareText } from '../../crdt/codec.ts';
import { defaultConfig } from '../config.ts';
import { reasonOf } from '../errors.ts';
import type { NodeApi } from '../node-api.ts';
import type { CheckRow, DoctorAnswer, HostRow } from './answers.ts';
import { leaseChecks, leasePortOf } from './doctor-leases.ts';
import type { Found } from './doctor-found.ts';
import { bad, good, warn } from './doctor-found.ts';
import { define, envParam, findHost, nodeOf, params, runOn, selfHost } from './common.ts';
import { hostFactOf } from './host-rows.ts';
import type { Operation, OperationContext } from './operation.ts';
import type { HostTools } from './tools.ts';

const checkTimeoutMs = 5_000;
const probeTimeoutMs = 1_500;
/** Members whose ports are tried and who are asked; the rest of a large cluster is not. */
const peersAskedMax = 20;
const skewMsWarn = 2_000;
const skewMsFail = 60_000;
const diskFreeBytesWarn = 2 * 2 ** 30;

type Check = () => Promise<Found> | Found;

export function doctorOperations(tools: HostTools): readonly Operation[] {
  return [
    define({
      group: 'cluster',
      command: 'doctor',
      summary: 'check what this host needs to work',
      access: 'viewer',
      isMutation: false,
      params: params({ ...envParam, host: z.string().max(64).optional() }),
      run: (context, given): Promise<unknown> => {
        if (given.host !== undefined) {
          const node = nodeOf(context, given);
          const host = findHost(node, given.host);
          const call = { group: 'cluster', command: 'doctor', params: {} };
          if (host.id !== node.self.host) return runOn(context, host, call);
        }
        return examine(context, tools);
      },
    }),
  ];
}

async function examine(context: OperationContext, tools: HostTools): Promise<DoctorAnswer> {
  const { node } = context;
  const checks: [string, Check][] = [
    ['engine', () => engineCheck(context)],
    ['iptables', () => iptablesCheck(tools)],
    ['disk', () => diskCheck(tools)],
    ['cluster', () => (node === null ? notInitialised : good(`${node.clusterName}, ${node.env}`))],
  ];
  if (node !== null) {
    checks.push(
      ['minimums', () => minimumsCheck(node)],
      ['state', () => stateCheck(node)],
      ['clock', () => clockCheck(context, node)],
      ['ports', () => portsCheck(context, node, tools)],
      ['members', () => membersCheck(context, node)],
      ...leaseChecks(context, node, tools),
    );
  }
  const rows = await Promise.all(checks.map(([name, check]) => runCheck(context, name, check)));
  return {
    ok: rows.every((row) => row.result !== 'fail'),
    host: node === null ? 'this host' : selfHost(node).name,
    checks: rows,
  };
}

async function runCheck(context: OperationContext, name: string, check: Check): Promise<CheckRow> {
  const late = Promise.withResolvers<Found>();
  const timer = context.clock.setTimer(checkTimeoutMs, () =>
    late.resolve(bad(`no answer within ${checkTimeoutMs / 1000} s`, 'look at the daemon log')),
  );
  try {
    return { name, ...(await Promise.race([check(), late.promise])) };
  } catch (error) {
    return { name, ...bad(reasonOf(error), 'look at the daemon log') };
  } finally {
    timer.cancel();
  }
}

const notInitialised = warn('this host belongs to none', 'run `trellis init` or `trellis join`');

async function engineCheck(context: OperationContext): Promise<Found> {
  if (context.runtime === null) return bad('the daemon runs without one', 'see the daemon log');
  const engine = await context.runtime.engine();
  if (engine.state === 'ok') {
    return good(`version ${engine.version ?? '?'} at ${engine.endpoint}`);
  }
  const detail = `${engine.state} at ${engine.endpoint}: ${engine.reason ?? 'no reason given'}`;
  const todo = 'start the container engine, or set DOCKER_HOST; `npm start` as root installs one';
  return bad(detail, todo);
}

async function iptablesCheck(tools: HostTools): Promise<Found> {
  const trouble = await tools.tryProgram('iptables', ['-w', '2', '-t', 'nat', '-S']);
  if (trouble === null) return good('rules can be read');
  return bad(trouble, 'install iptables and run the daemon as root: service names need it');
}

function diskCheck(tools: HostTools): Found {
  const free = tools.stateDiskFreeBytes();
  const detail = `${Math.floor(free / 2 ** 20)} MiB free for state and images`;
  if (free < defaultConfig.diskFloorBytes) return bad(detail, 'make room: writes are refused');
  return free < diskFreeBytesWarn ? warn(detail, 'make room for images') : good(detail);
}

function minimumsCheck(node: NodeApi): Found {
  const fact = node.fact('inventory', node.self.node)?.value as InventoryFact | undefined;
  if (fact === undefined) return warn('no inventory yet', 'run `trellis host rescan`');
  const short = shortfalls(fact).map((shortfall) => shortfall.text);
  return short.length === 0
    ? good(`${fact.cpu.count} processors, ${Math.floor(fact.memory.totalBytes / 2 ** 20)} MiB`)
    : warn(short.join('; '), 'add what is missing, or use another host');
}

function stateCheck(node: NodeApi): Found {
  const damages = node.damages().filter((damage) => damage.kind !== 'torn-tail');
  if (damages.length === 0) return good('state directory is intact');
  const detail = damages.map((damage) => `${damage.name}: ${damage.detail}`).join('; ');
  const isAlone = node.members().every((member) => member.isSelf);
  return isAlone
    ? warn(detail, 'no other host has a copy: look at `trellis export`, and check the disk')
    : warn(detail, 'what is missing is fetched from the other hosts; check the disk');
}

/** By the wall clock in each member's inventory and the age of that fact. */
function clockCheck(context: OperationContext, node: NodeApi): Found {
  const names = new Map(node.hosts().map((host) => [host.node, host]));
  const skews = node.facts('inventory').flatMap((entry) => {
    const host = names.get(entry.owner);
    const taken = (entry.value as Partial<InventoryFact> | null)?.takenAtWallMs;
    if (host?.liveness !== 'alive' || host.id === node.self.host) return [];
    if (typeof taken !== 'number') return [];
    return [{ name: host.name, ms: taken + entry.ageMs - context.clock.wallMs() }];
  });
  const worst = skews.toSorted((a, b) => Math.abs(b.ms) - Math.abs(a.ms))[0];
  if (worst === undefined) return good('no other host to compare with');
  const detail = `${worst.name} differs by ${(worst.ms / 1000).toFixed(1)} s`;
  const todo = 'set the clocks by NTP';
  if (Math.abs(worst.ms) >= skewMsFail) return bad(detail, todo);
  return Math.abs(worst.ms) >= skewMsWarn ? warn(detail, todo) : good(detail);
}

async function portsCheck(
  context: OperationContext,
  node: NodeApi,
  tools: HostTools,
): Promise<Found> {
  const others = node
    .hosts()
    .filter((host) => host.liveness === 'alive' && host.id !== node.self.host)
    .slice(0, peersAskedMax);
  const tries = others.flatMap((host) => {
    const fact = hostFactOf(node, host);
    if (fact === null) return [];
    return [fact.peerPort, fact.apiPort, ...leasePortOf(context, host.node)].map(async (port) => {
      const trouble = await tools.probe(fact.advertise, port, probeTimeoutMs);
      return trouble === null ? null : `${host.name} ${fact.advertise}:${port} (${trouble})`;
    });
  });
  const closed = (await Promise.all(tries)).filter((one) => one !== null);
  if (closed.length === 0)
    return good(`${others.length} other ${others.length === 1 ? 'host' : 'hosts'} reachable`);
  return bad(`not reachable: ${closed.join(', ')}`, 'open these ports between the hosts');
}

/** Asks the others whom they hold for alive; needs a login, as it runs on them. */
async function membersCheck(context: OperationContext, node: NodeApi): Promise<Found> {
  const mine = liveNames(node.hosts().map(({ name, liveness }) => ({ name, state: liveness })));
  const others = node
    .hosts()
    .filter((host) => host.liveness === 'alive' && host.id !== node.self.host)
    .slice(0, peersAskedMax);
  if (others.length === 0) return good('no other live host');
  if (context.caller.session === null) {
    return good(`${mine.length} alive as seen from here; log in to ask the others`);
  }
  const call = { group: 'host', command: 'ls', params: {} };
  const differing: string[] = [];
  const ask = async (host: (typeof others)[number]): Promise<void> => {
    try {
      const rows = (await runOn(context, host, call)) as HostRow[];
      const theirs = liveNames(rows);
      if (theirs.join() !== mine.join()) differing.push(`${host.name} sees ${theirs.join(', ')}`);
    } catch (error) {
      differing.push(`${host.name}: ${reasonOf(error)}`);
    }
  };
  await Promise.all(others.map(ask));
  if (differing.length === 0) return good(`all agree on ${mine.length} live hosts`);
  const detail = `here ${mine.join(', ')}; ${differing.join('; ')}`;
  return warn(detail, 'look again in a few seconds; if it stays, check the links between them');
}

function liveNames(rows: readonly { name: string; state: string }[]): string[] {
  return rows
    .filter(({ state }) => !['dead', 'left', 'suspect'].includes(state))
    .map(({ name }) => name)
    .toSorted(compareText);
}
