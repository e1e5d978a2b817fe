/** Arguments of the guard's program. */
import { parseArgs } from 'node:util';
import { ClusterError, reasonOf } from '../../errors.ts';
import { leasePortDefault } from '../guard-start.ts';

export interface Settings {
  readonly stateDir: string;
  readonly runDir: string;
  readonly listen: { readonly address: string; readonly port: number };
  /** Null: the machine's. */
  readonly cgroupRoot: string | null;
  /** Null: what the machine looks like, until the daemon says what the engine uses. */
  readonly cgroupDriver: 'cgroupfs' | 'systemd' | null;
  readonly watchdogPath: string | null;
  readonly sysrqPath: string | null;
  readonly hasTraffic: boolean;
  readonly isRealtime: boolean;
}

export const usage = `trellis guard: holds leases and their gates on this host, in the foreground

  --state DIR             what survives a reboot (the daemon's state directory, /lease)
  --run DIR               what does not: socket, log, leases as containers see them
  --listen ADDR:PORT      where other guards connect (default 0.0.0.0:${leasePortDefault})
  --cgroup-root DIR       gates are made here (default: the machine's freezer)
  --cgroup-driver NAME    cgroupfs or systemd (default: by looking at the machine)
  --watchdog FILE         hardware timer for leases with fence: watchdog (default /dev/watchdog; none: off)
  --allow-panic           leases with fence: panic may reboot this host at once
  --no-traffic            no gate in the packet filter
  --no-realtime           ordinary scheduling
  --version               prints the version and exits

Environment: TRELLIS_BOOT_ID_PATH.`;

/** Throws USAGE. */
export function readSettings(argv: readonly string[]): Settings | 'help' | 'version' {
  const values = parse(argv);
  if (values.help === true) return 'help';
  if (values.version === true) return 'version';
  const { state, run } = values;
  if (state === undefined || run === undefined) throw usageError('--state and --run are needed');
  const driver = values['cgroup-driver'] ?? null;
  if (driver !== null && driver !== 'cgroupfs' && driver !== 'systemd') {
    throw usageError(`--cgroup-driver ${driver} is neither cgroupfs nor systemd`);
  }
  const { watchdog } = values;
  return {
    stateDir: state,
    runDir: run,
    listen: parseListen(values.listen),
    cgroupRoot: values['cgroup-root'] ?? null,
    cgroupDriver: driver,
    watchdogPath: watchdog === 'none' ? null : watchdog,
    sysrqPath: values['allow-panic'] === true ? values['sysrq-trigger'] : null,
    hasTraffic: values['no-traffic'] !== true,
    isRealtime: values['no-realtime'] !== true,
  };
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: argv[0] === 'guard' ? argv.slice(1) : [...argv],
      options: {
        state: { type: 'string' },
        run: { type: 'string' },
        listen: { type: 'string', default: `0.0.0.0:${leasePortDefault}` },
        'cgroup-root': { type: 'string' },
        'cgroup-driver': { type: 'string' },
        watchdog: { type: 'string', default: '/dev/watchdog' },
        'allow-panic': { type: 'boolean' },
        // For tests: a file in the place of the kernel's.
        'sysrq-trigger': { type: 'string', default: '/proc/sysrq-trigger' },
        'no-traffic': { type: 'boolean' },
        'no-realtime': { type: 'boolean' },
        version: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    }).values;
  } catch (error) {
    throw usageError(reasonOf(error), error);
  }
}

function parseListen(text: string): { address: string; port: number } {
  const match = /^(?:\[([0-9a-f:.]+)\]|([^:]*)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (match === null || port > 65_535) throw usageError(`--listen ${text} is not ADDRESS:PORT`);
  const address = match[1] ?? match[2] ?? '';
  return { address: address === '' ? '0.0.0.0' : address, port };
}

function usageError(reason: string, cause?: unknown): ClusterError {
  return new ClusterError('USAGE', { reason, command: 'guard' }, cause);
}
