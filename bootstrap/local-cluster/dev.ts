/**
 * `trellis dev`: a cluster of several hosts on one machine, for trying things out. Each host has its own root, network
 * and engine; the daemons run the work tree, found one cluster and join it with the same commands that people use.
 * Needs root; `devDown` leaves nothing. The CLI runs this file as a program of its own.
 */
import { existsSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { parseArgs } from 'node:util';
import { asClusterError, ClusterError, errorTable } from '../../daemon/errors.ts';
import type { LocalHost } from './local-host.ts';
import { LocalLan } from './local-lan.ts';
import { readRecord, removeRun, runsDir } from './run-record.ts';

export interface DevUpOptions {
  /** 1 to 10. */
  readonly hosts: number;
  /** Called before each step, for people. */
  readonly progress: (text: string) => void;
}

export interface DevHost {
  readonly name: string;
  readonly ip: string;
  readonly isOn: boolean;
  /** Works from the machine: `TRELLIS_SOCKET=… trellis status`; null while it is off. */
  readonly socket: string | null;
  /** Command for a shell inside; null while it is off. */
  readonly enter: string | null;
}

export interface DevStatus {
  readonly isUp: boolean;
  readonly hosts: readonly DevHost[];
  /** On the machine, readable by root; null when it is down. */
  readonly passphraseFile: string | null;
}

const lanName = 'dev';
const hostsMax = 10;
const operator = 'admin';
const tools = ['ip', 'nsenter', 'unshare', 'nft', 'curl', 'dockerd', 'docker', 'iptables'];
const passphrasePath = '/root/trellis-passphrase';

/** After a failure nothing is left. Fails with CONFLICT when it is up, TOOL_MISSING, COMMAND_FAILED. */
export async function devUp({ hosts, progress }: DevUpOptions): Promise<DevStatus> {
  if (!Number.isInteger(hosts) || hosts < 1 || hosts > hostsMax) {
    throw new ClusterError('INVALID', { reason: `a local cluster has 1 to ${hostsMax} hosts` });
  }
  checkTools();
  if (readRecord(join(runsDir(), lanName)) !== null) {
    throw new ClusterError('CONFLICT', {
      reason: 'the local cluster is up already',
      todo: 'look with `trellis dev status`, or `trellis dev down` first',
    });
  }
  progress(`starting ${hosts} ${hosts === 1 ? 'host' : 'hosts'} with engines`);
  const lan = await LocalLan.create({
    name: lanName,
    hosts,
    engines: true,
    diesWithParent: false,
    hasTrellis: true,
  });
  try {
    await foundCluster(lan, progress);
    return devStatus();
  } catch (error) {
    await lan.destroy();
    throw error;
  }
}

/** Kills the hosts and removes all they have. Returns false when there was nothing. */
export async function devDown(): Promise<boolean> {
  const record = readRecord(join(runsDir(), lanName));
  if (record === null) return false;
  await removeRun(record);
  return true;
}

export function devStatus(): DevStatus {
  const lan = LocalLan.open(lanName);
  if (lan === null) return { isUp: false, hosts: [], passphraseFile: null };
  const hosts = lan.hosts.map(({ name, ip, isOn, initPid }) => ({
    name,
    ip,
    isOn,
    socket: isOn ? `/proc/${initPid}/root/run/trellis/trellis.sock` : null,
    enter: isOn ? `nsenter -t ${initPid} -m -u -i -n -p -r -w` : null,
  }));
  return {
    isUp: hosts.some(({ isOn }) => isOn),
    hosts,
    passphraseFile: join(lan.dir, 'passphrase'),
  };
}

async function foundCluster(lan: LocalLan, progress: (text: string) => void): Promise<void> {
  progress('starting daemons');
  await Promise.all(lan.hosts.map(startDaemon));
  const [first, ...others] = lan.hosts as [LocalHost, ...LocalHost[]];
  progress(`making the cluster on ${first.name}`);
  const made = JSON.parse(
    await first.mustExec(`trellis init --name ${lanName} --operator ${operator} --json`, {
      timeoutMs: 60_000,
    }),
  ) as { passphrase: string };
  writeFileSync(join(lan.dir, 'passphrase'), `${made.passphrase}\n`, { mode: 0o600 });
  if (others.length > 0) {
    const invite = await first.mustExec(`trellis invite --uses ${others.length} --json`);
    progress(`joining ${others.map((host) => host.name).join(', ')}`);
    await Promise.all(
      others.map((host) => joinHost(host, { invite, passphrase: made.passphrase })),
    );
  }
  progress('waiting until every host is ready');
  await waitUntilReady(first, lan.hosts.length);
}

async function startDaemon(host: LocalHost): Promise<void> {
  const daemon = await host.spawn(['trellis', 'daemon'], { label: 'daemon' });
  const wait =
    'for i in $(seq 600); do [ -S /run/trellis/trellis.sock ] && exit 0; sleep 0.05; done; exit 1';
  const hasStarted = await Promise.race([
    host.exec(wait, { timeoutMs: 40_000 }).then(({ code }) => code === 0),
    daemon.exited.then(() => false),
  ]);
  if (hasStarted) return;
  throw new ClusterError('COMMAND_FAILED', {
    command: `trellis daemon on ${host.name}`,
    reason: daemon.log().slice(-1000),
  });
}

async function joinHost(
  host: LocalHost,
  { invite, passphrase }: { invite: string; passphrase: string },
): Promise<void> {
  await host.mustExec(['trellis', 'join', '--name', host.name, '--json'], {
    input: invite,
    timeoutMs: 60_000,
  });
  // Edits from any host are what a cluster is for.
  host.writeFile(passphrasePath, `${passphrase}\n`, 0o600);
  await host.mustExec(
    ['trellis', 'login', '--operator', operator, '--passphrase-file', passphrasePath],
    { timeoutMs: 60_000 },
  );
  await host.mustExec(['rm', passphrasePath]);
}

const readyWithinMs = 60_000;

async function waitUntilReady(host: LocalHost, count: number): Promise<void> {
  const deadline = Date.now() + readyWithinMs;
  for (;;) {
    const answer = await host.exec(['trellis', 'host', 'ls', '--json']);
    const hosts = answer.code === 0 ? (JSON.parse(answer.stdout) as { state: string }[]) : [];
    if (hosts.filter(({ state }) => state === 'ready').length === count) return;
    if (Date.now() > deadline) {
      throw new ClusterError('TIMED_OUT', {
        what: 'waiting for the hosts',
        seconds: readyWithinMs / 1000,
        todo: `the last answer was: ${answer.stdout.slice(0, 500) || answer.stderr.slice(0, 500)}`,
      });
    }
    await new Promise((next) => setTimeout(next, 100));
  }
}

function checkTools(): void {
  const dirs = (process.env['PATH'] ?? '').split(delimiter);
  const missing = tools.filter((tool) => !dirs.some((dir) => existsSync(join(dir, tool))));
  if (missing.length === 0) return;
  throw new ClusterError('TOOL_MISSING', {
    tool: missing.join(', '),
    how: 'apt-get install docker.io iproute2 iptables nftables curl util-linux',
  });
}

async function main(argv: readonly string[]): Promise<void> {
  const { values, positionals } = parseArgs({
    args: [...argv],
    allowPositionals: true,
    options: {
      nodes: { type: 'string', short: 'n', default: '3' },
      json: { type: 'boolean', default: false },
      yes: { type: 'boolean', default: false },
    },
  });
  const progress = (text: string) => process.stderr.write(`${text} ...\n`);
  const print = (data: unknown, text: string) =>
    process.stdout.write(values.json ? `${JSON.stringify(data)}\n` : `${text}\n`);
  if (positionals[0] === 'up') {
    // Half a cluster is worth nothing to anybody.
    process.once('SIGINT', () => void devDown().finally(() => process.exit(130)));
    const status = await devUp({ hosts: Number(values.nodes), progress });
    print(status, `${describe(status)}\n\nTake it away with: trellis dev down`);
  } else if (positionals[0] === 'down') {
    const wasUp = await devDown();
    print({ wasUp }, wasUp ? 'the local cluster is gone' : 'there was no local cluster');
  } else if (positionals[0] === 'status') {
    const status = devStatus();
    print(status, describe(status));
    // As `trellis status`: not what was asked for is exit code 1.
    if (!status.isUp) process.exitCode = 1;
  } else throw new ClusterError('USAGE', { reason: 'use up, down or status', command: 'dev' });
}

function describe(status: DevStatus): string {
  if (!status.isUp) return 'no local cluster is up; make one with: trellis dev up -n 3';
  const rows = status.hosts.map(({ name, ip, enter }) => `${name}  ${ip}  ${enter ?? 'off'}`);
  const socket = status.hosts.find((host) => host.socket !== null)?.socket ?? '';
  return [
    'host, address, shell inside:',
    ...rows,
    '',
    `From here: TRELLIS_SOCKET=${socket} trellis status`,
    `Operator ${operator}, passphrase in ${status.passphraseFile}`,
  ].join('\n');
}

if (import.meta.main) {
  try {
    await main(process.argv.slice(2));
  } catch (error) {
    const { code, message, details } = asClusterError(error);
    const text = process.argv.includes('--json')
      ? JSON.stringify({ error: { code, message, details } })
      : `error ${code}: ${message}`;
    process.stderr.write(`${text}\n`);
    process.exitCode = errorTable[code].exit;
  }
}
