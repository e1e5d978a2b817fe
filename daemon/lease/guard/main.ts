/** Composition root of `trellis-guard`: arguments, signals, priority, wiring. */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { setPriority } from 'node:os';
import { join } from 'node:path';
import { asClusterError, errorTable, reasonOf } from '../../errors.ts';
import type { Log } from '../../ports.ts';
import { systemRandom } from '../../random.ts';
import { privateDirMode } from '../../store/durable.ts';
import { lockStateDir } from '../../store/lock.ts';
import { version } from '../../version.ts';
import { GuardCore } from '../core.ts';
import { guardRunFiles, lockedStatus } from '../guard-start.ts';
import { Clocks, readBootId } from './clocks.ts';
import { findCgroupTree, Gates } from './gates.ts';
import { Guard } from './guard.ts';
import { restartVariable } from './keeper.ts';
import { createGuardLog } from './log.ts';
import { readSettings, usage, type Settings } from './settings.ts';

async function main(argv: readonly string[]): Promise<void> {
  const settings = readSettings(argv);
  if (settings === 'help' || settings === 'version') {
    process.stdout.write(settings === 'help' ? `${usage}\n` : `${version}\n`);
    return;
  }
  for (const dir of [settings.stateDir, settings.runDir]) {
    mkdirSync(dir, { recursive: true, mode: privateDirMode });
  }
  const clocks = new Clocks();
  const log = createGuardLog(() => clocks.monoMs());
  const lock = lockStateDir(settings.stateDir);
  log.toFile(join(settings.runDir, guardRunFiles.log));
  raisePriority(settings, log);
  const tree = findCgroupTree(settings.cgroupRoot);
  const driver =
    settings.cgroupDriver ?? guessDriver(typeof tree === 'string' ? null : tree.version);
  const guard = new Guard({
    settings,
    log,
    clocks,
    random: systemRandom,
    bootId: readBootId(process.env),
    gates: typeof tree === 'string' ? tree : new Gates(tree, { log, driver }),
    makeCore: (start) => new GuardCore(start, systemRandom, clocks.now()),
    exit: (status) => process.exit(status),
  });
  endOnSignals(guard, log);
  await guard.start();
  writeFileSync(join(settings.runDir, guardRunFiles.pid), `${process.pid}\n`);
  log.info('guard.started', { version, pid: process.pid, driver });
  const [restarts, status] = (process.env[restartVariable] ?? '').split(' ');
  if (status !== undefined) log.warn('guard.restarted', { restarts, status });
  // Held until the process ends.
  process.on('exit', () => lock.release());
}

/** Engines take systemd's driver where cgroups are v2 and systemd runs, unless told otherwise. */
function guessDriver(cgroups: 'v1' | 'v2' | null): 'cgroupfs' | 'systemd' {
  return cgroups === 'v2' && existsSync('/run/systemd/system') ? 'systemd' : 'cgroupfs';
}

/** Each of these may be forbidden here: then the guard is merely later under load, which costs availability only. */
function raisePriority(settings: Settings, log: Log): void {
  const attempt = (what: string, act: () => void): void => {
    try {
      act();
    } catch (error) {
      log.warn('guard.priority', { what, error: reasonOf(error) });
    }
  };
  attempt('oom', () => writeFileSync('/proc/self/oom_score_adj', '-1000'));
  attempt('nice', () => setPriority(0, -20));
  if (!settings.isRealtime) return;
  // Lowest real-time priority, for all threads; children begin as ordinary processes.
  const child = spawn('chrt', ['-R', '-a', '-r', '-p', '1', String(process.pid)], {
    stdio: 'ignore',
  });
  child.on('error', (error) => log.warn('guard.priority', { what: 'chrt', error: error.message }));
}

function endOnSignals(guard: Guard, log: Log): void {
  let isStopping = false;
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    process.on(signal, () => {
      if (isStopping) return;
      isStopping = true;
      log.info('guard.stopping', { signal });
      guard.stop().then(
        () => process.exit(0),
        (error: unknown) => {
          log.error('guard.stop-failed', { error: reasonOf(error) });
          process.exit(1);
        },
      );
    });
  }
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  const fault = asClusterError(error);
  process.stderr.write(`error ${fault.code}: ${fault.message}\n`);
  if (fault.code === 'INTERNAL' && error instanceof Error) {
    process.stderr.write(`${error.stack ?? ''}\n`);
  }
  process.exit(fault.code === 'STATE_LOCKED' ? lockedStatus : errorTable[fault.code].exit);
}
