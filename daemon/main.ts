/**
 * Composition root of `trellis daemon`: arguments, environment, signals, wiring. The only file that may import everything.
 */
import { homedir, hostname } from 'node:os';
import { parseArgs } from 'node:util';
import { systemClock } from './clock.ts';
import { Daemon } from './daemon.ts';
import { asClusterError, ClusterError, errorTable } from './errors.ts';
import { leasePortDefault } from './lease/guard-start.ts';
import { createLog } from './logger.ts';
import { resolvePaths } from './paths.ts';
import { systemRandom } from './random.ts';
import { version } from './version.ts';

const usage = `trellis daemon: runs the daemon of this host in the foreground

  --state DIR          keeps everything here (default /var/lib/trellis, or TRELLIS_STATE)
  --listen MULTIADDR   where peers connect (default /ip4/0.0.0.0/tcp/7440; may be repeated)
  --advertise IP       address given to peers (default: the first usable one)
  --api ADDR:PORT      HTTPS API (default 0.0.0.0:8443)
  --lease-listen A:P   where guards of leases connect (default 0.0.0.0:7441; port 0: any)
  --no-guard           starts no guard of leases: somebody else does, or nothing exclusive runs here
  --no-hosts-file      leaves /etc/hosts alone (names then work in containers only)
  --auto-init          makes a cluster of one when this host belongs to none
  --log-level LEVEL    debug, info, warn or error (default info)
  --version            prints the version and exits

Environment: TRELLIS_STATE, TRELLIS_RUN, TRELLIS_SOCKET, TRELLIS_NO_GUARD, DOCKER_HOST.`;

async function main(argv: readonly string[]): Promise<void> {
  const { values } = parse(argv);
  if (values.version === true || values.help === true) {
    process.stdout.write(values.help === true ? `${usage}\n` : `${version}\n`);
    return;
  }
  const isRoot = process.getuid?.() === 0;
  const paths = resolvePaths(process.env, { state: values.state ?? null, isRoot, home: homedir() });
  const log = createLog({ level: logLevel(values['log-level']) });
  const daemon = new Daemon({
    paths,
    version,
    clock: systemClock,
    random: systemRandom,
    log,
    listen: values.listen ?? ['/ip4/0.0.0.0/tcp/7440'],
    advertise: values.advertise ?? null,
    api: parseListen('--api', values.api),
    guard: {
      listen: leaseListen(values['lease-listen']),
      maySpawn: values['no-guard'] !== true && (process.env['TRELLIS_NO_GUARD'] ?? '') === '',
    },
    hostsFile: values['no-hosts-file'] === true ? null : '/etc/hosts',
  });
  stopOnSignals(daemon, log);
  await daemon.start();
  if (values['auto-init'] === true && !daemon.isMember()) await autoInit(daemon);
  log.info('daemon.ready', {
    version,
    state: paths.state,
    socket: paths.socket,
    apiPort: daemon.apiPort,
  });
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: argv[0] === 'daemon' ? argv.slice(1) : [...argv],
      options: {
        state: { type: 'string' },
        listen: { type: 'string', multiple: true },
        advertise: { type: 'string' },
        api: { type: 'string', default: '0.0.0.0:8443' },
        'lease-listen': { type: 'string', default: `0.0.0.0:${leasePortDefault}` },
        'no-guard': { type: 'boolean' },
        'no-hosts-file': { type: 'boolean' },
        'auto-init': { type: 'boolean' },
        'log-level': { type: 'string', default: 'info' },
        version: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    });
  } catch (error) {
    throw new ClusterError(
      'USAGE',
      { reason: error instanceof Error ? error.message : String(error), command: 'daemon' },
      error,
    );
  }
}

function logLevel(text: string): 'debug' | 'info' | 'warn' | 'error' {
  if (text === 'debug' || text === 'info' || text === 'warn' || text === 'error') return text;
  throw new ClusterError('USAGE', {
    reason: `--log-level ${text} is none of debug, info, warn, error`,
    command: 'daemon',
  });
}

function leaseListen(text: string): string {
  const { address, port } = parseListen('--lease-listen', text);
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

function parseListen(option: string, text: string): { address: string; port: number } {
  const match = /^(?:\[([0-9a-f:]+)\]|([^:]*)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (match === null || port > 65_535) {
    throw new ClusterError('USAGE', {
      reason: `${option} ${text} is not ADDRESS:PORT`,
      command: 'daemon',
    });
  }
  return { address: match[1] ?? (match[2] === '' ? '0.0.0.0' : (match[2] ?? '0.0.0.0')), port };
}

/** `npm start` on a fresh machine: a working cluster of one, and how to use it. */
async function autoInit(daemon: Daemon): Promise<void> {
  const say = (text: string): void => void process.stderr.write(`${text}\n`);
  const control = {
    signal: new AbortController().signal,
    progress: (text: string) => say(`trellis: ${text}`),
  };
  const outcome = await daemon.init(
    {
      name: 'local',
      env: 'default',
      operator: 'admin',
      passphrase: null,
      hostName: null,
      roles: [],
      meta: {},
      recoveryFile: null,
    },
    control,
  );
  say('');
  say(
    `A cluster of one is running on ${hostname()}: name ${outcome.name}, environment ${outcome.env}.`,
  );
  say(
    `Operator ${outcome.operator} is logged in on this host for 12 hours. Passphrase (shown once, keep it): ${outcome.passphrase ?? ''}`,
  );
  say(`Recovery key (shown once, keep it apart): ${outcome.recovery ?? ''}`);
  say('');
  say('In another terminal:  npx trellis status    npx trellis help');
  say('');
}

function stopOnSignals(daemon: Daemon, log: ReturnType<typeof createLog>): void {
  let isStopping = false;
  const stop = (signal: string): void => {
    if (isStopping) return;
    isStopping = true;
    log.info('daemon.stopping', { signal });
    daemon.stop().then(
      () => process.exit(0),
      (error: unknown) => {
        log.error('daemon.stop-failed', { error: String(error) });
        process.exit(1);
      },
    );
  };
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const)
    process.on(signal, () => stop(signal));
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  const fault = asClusterError(error);
  process.stderr.write(`error ${fault.code}: ${fault.message}\n`);
  if (fault.code === 'INTERNAL' && error instanceof Error)
    process.stderr.write(`${error.stack ?? ''}\n`);
  process.exit(errorTable[fault.code].exit);
}
