// What `npm start`, `npm test` and the other scripts run: sets up what is missing, then starts the target with Node 24.
// Plain JavaScript without dependencies, for any Node from 18.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { ensureEngine } from './engine.mjs';
import { guestPackages, needPackages, testPackages } from './packages.mjs';
import { fail, prepare, root, say, toolEnv } from './setup.mjs';

const codeDirs = ['daemon', 'crdt', 'plugins', 'bootstrap', 'test'];

/** Of one project, in the summary; all of them are in what was printed before. */
const failuresMax = 20;

const targets = { start, test, check, sim, model, e2e, bench, build };

const [name = '', ...rest] = process.argv.slice(2);
const target = Object.hasOwn(targets, name) ? targets[name] : null;
if (target === null) fail(`no target '${name}'; use one of ${Object.keys(targets).join(', ')}`);
process.chdir(root);
process.exitCode = await target(prepare(), rest);

async function start(runtime, args) {
  if (!args.includes('--no-engine')) await ensureEngine();
  const daemonArgs = args.filter((argument) => argument !== '--no-engine');
  // A small young generation keeps the idle daemon about 30 MB smaller; measured in ADR 2.
  const options = [
    '--max-semi-space-size=1',
    'daemon/main.ts',
    'daemon',
    '--auto-init',
    ...daemonArgs,
  ];
  const cache = { NODE_COMPILE_CACHE: path.join(root, 'node_modules', '.cache', 'compile') };
  return run(runtime, options, { env: toolEnv(runtime, cache) });
}

async function test(runtime, args) {
  needPackages(testPackages, 'the tests');
  const results = [await vitest(runtime, 'fast', args, {})];
  if (args.length === 0) results.push(await e2eShare(runtime, [], {}));
  return summarise(results);
}

async function e2e(runtime, args) {
  const isFull = args.includes('--full');
  needPackages(isFull ? [...testPackages, ...guestPackages] : testPackages, 'the end-to-end tests');
  const filters = args.filter((argument) => argument !== '--full');
  return summarise([await e2eShare(runtime, filters, isFull ? { TRELLIS_E2E: 'full' } : {})]);
}

async function e2eShare(runtime, filters, env) {
  if (process.getuid?.() !== 0) {
    say('the end-to-end tests make network namespaces and engines and need root; run this as root');
    return { what: 'e2e', passed: 0, failed: 1, failures: [] };
  }
  return vitest(runtime, 'e2e', filters, env);
}

/** Runs one project; counts come from the JSON report, so that a crash of the runner counts as a failure. */
async function vitest(runtime, project, filters, env) {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'trellis-test-'));
  const report = path.join(dir, 'report.json');
  try {
    const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
    const status = await run(
      runtime,
      [bin('vitest'), 'run', '--project', project, ...reporters, ...filters],
      {
        env: toolEnv(runtime, env),
      },
    );
    return { what: project, ...countTests(report, status) };
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

function countTests(report, status) {
  if (!existsSync(report)) return { passed: 0, failed: 1, failures: [] };
  const { numPassedTests, numFailedTests, testResults } = JSON.parse(readFileSync(report, 'utf8'));
  // A file that could not be loaded has no tests of its own.
  const unloaded = testResults.filter(
    (file) => file.status === 'failed' && file.assertionResults.length === 0,
  ).length;
  const failed = numFailedTests + unloaded;
  return {
    passed: numPassedTests,
    failed: failed === 0 && status !== 0 ? 1 : failed,
    failures: testResults.flatMap(failuresOf).slice(0, failuresMax),
  };
}

/** A line per failed test, or for the file that could not be loaded: where, which, and how its message begins. */
function failuresOf(file) {
  const name = path.relative(root, file.name);
  if (file.status === 'failed' && file.assertionResults.length === 0)
    return [`${name}: ${begin(file.message)}`];
  return file.assertionResults
    .filter((result) => result.status === 'failed')
    .map((result) => `${name} > ${result.fullName}: ${begin(result.failureMessages[0])}`);
}

function begin(message = '') {
  return message.split('\n', 1)[0].slice(0, 300);
}

/** The last line of every test run: 'N passed, N failed'. Nothing run is a failure. */
function summarise(results) {
  const sum = (key) => results.reduce((total, result) => total + result[key], 0);
  if (results.length > 1)
    for (const { what, passed, failed } of results)
      console.log(`${what}: ${passed} passed, ${failed} failed`);
  for (const failure of results.flatMap((result) => result.failures)) console.log(`  ${failure}`);
  if (sum('passed') + sum('failed') === 0) say('no test was run');
  console.log(`${sum('passed')} passed, ${sum('failed')} failed`);
  return sum('failed') > 0 || sum('passed') === 0 ? 1 : 0;
}

/** All of them run even if one fails, so that one look shows everything. */
async function check(runtime, args) {
  if (args.length > 0) fail(`check takes no arguments: ${args.join(' ')}`);
  const env = toolEnv(runtime);
  const steps = [
    ['tsc'],
    ['oxlint', ...codeDirs],
    ['oxfmt', '--check', ...codeDirs, 'vitest.config.ts'],
    ['knip'],
  ];
  let status = 0;
  for (const [tool, ...options] of steps) {
    const ended = await run(runtime, [bin(tool), ...options], { env });
    if (ended !== 0) say(`check: ${tool} found something`);
    status ||= ended;
  }
  return status;
}

async function sim(runtime, args) {
  return run(runtime, ['test/sim/vopr.ts', ...args], { env: toolEnv(runtime) });
}

async function model(runtime, args) {
  needPackages(testPackages, 'the models');
  return run(runtime, ['test/model/check.ts', ...args], { env: toolEnv(runtime) });
}

async function bench(runtime, args) {
  needPackages(testPackages, 'the benchmarks');
  return run(runtime, ['test/bench/bench.ts', ...args], { env: toolEnv(runtime) });
}

async function build(runtime, args) {
  return run(runtime, ['bootstrap/build.ts', ...args], { env: toolEnv(runtime) });
}

function bin(tool) {
  return path.join(root, 'node_modules', '.bin', tool);
}

/** Runs in the foreground, passes signals on, and gives the exit status (128 + signal number, as shells do). */
function run(runtime, args, { env }) {
  return new Promise((resolve) => {
    const child = spawn(runtime, args, { stdio: 'inherit', env });
    // A terminal's ^C reaches the child by itself: it is in our process group. A second one could mean "now".
    const pass = (signal) => (signal === 'SIGINT' && process.stdin.isTTY) || child.kill(signal);
    const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'];
    for (const signal of signals) process.on(signal, pass);
    const end = (status) => {
      for (const signal of signals) process.off(signal, pass);
      resolve(status);
    };
    child.on('error', (error) => {
      say(`${runtime} could not be started: ${error.message}`);
      end(1);
    });
    child.on('exit', (status, signal) => end(status ?? 128 + os.constants.signals[signal]));
  });
}
