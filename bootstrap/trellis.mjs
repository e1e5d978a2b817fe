#!/usr/bin/env node
// The command of a clone: finds Node 24 and runs the daemon, the guard or the CLI with it, with as little start-up as possible.
// Plain JavaScript without dependencies, for any Node from 18; the release bundle has a shell wrapper instead.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import module from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const programs = { daemon: ['main.ts'], guard: ['lease', 'guard', 'main.ts'] };
const small = ['--max-semi-space-size=1'];
// As `guardNodeFlags` in the sources, which say why.
const guardFlags =
  '--heap-growing-percent=100 --v8-pool-size=1 --no-parallel-scavenge --no-maglev --max-lazy';
const flagsOf = { daemon: small, guard: [...small, ...guardFlags.split(' ')] };
const isDaemon = Object.hasOwn(programs, process.argv[2] ?? '');
const main = path.join(
  root,
  'daemon',
  ...(isDaemon ? programs[process.argv[2]] : ['cli', 'main.ts']),
);
const cache = process.env['NODE_COMPILE_CACHE'] ?? path.join(cacheHome(), 'trellis', 'compile');
const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
const isNewEnough = major > 24 || (major === 24 && minor >= 12);

if (isNewEnough && !isDaemon) {
  module.enableCompileCache?.(cache);
  process.argv[1] = main;
  await import(pathToFileURL(main).href);
} else {
  const packaged = path.join(
    root,
    'node_modules',
    `node-${process.platform}-${process.arch}`,
    'bin',
    'node',
  );
  const runtime = existsSync(packaged) ? packaged : isNewEnough ? process.execPath : null;
  if (runtime === null) {
    process.stderr.write('trellis: no Node 24 here yet; run `npm start` once in the clone\n');
    process.exit(1);
  }
  const flags = isDaemon ? flagsOf[process.argv[2]] : [];
  const child = spawn(runtime, [...flags, main, ...process.argv.slice(2)], {
    stdio: 'inherit',
    env: { ...process.env, NODE_COMPILE_CACHE: cache },
  });
  // A terminal's ^C reaches the child by itself, as it is in our process group; what a service manager sends does not.
  process.on('SIGINT', () => process.stdin.isTTY || child.kill('SIGINT'));
  for (const signal of ['SIGHUP', 'SIGTERM']) process.on(signal, () => child.kill(signal));
  child.on('error', (error) => {
    process.stderr.write(`trellis: ${runtime} could not be started: ${error.message}\n`);
    process.exit(1);
  });
  child.on('exit', (status, signal) => process.exit(status ?? 128 + os.constants.signals[signal]));
}

function cacheHome() {
  return process.env['XDG_CACHE_HOME'] || path.join(os.homedir(), '.cache');
}
