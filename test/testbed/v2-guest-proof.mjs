/**
 * Runs inside the guest that `v2-guest.ts` boots: Debian 12, systemd, cgroup v2, the engine with its systemd driver, and our
 * gate code. Each line that begins with `PROOF ` is a step with what was seen; the host reads them from the serial line.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { testGate } from '../../daemon/lease/guard/gate-test.ts';
import { Gates, findCgroupTree, sliceName } from '../../daemon/lease/guard/gates.ts';

const socketPath = '/run/docker.sock';
const gate = 'trellis-x-0a1b2c3d-0123456789ab-abcdef';
const marks = '/run/proof';
/** An emulated machine is slow: what is to happen gets this long. */
const limitMs = 120_000;
/** A call to the engine that must not come to an end is given up after this. */
const hangMs = 6_000;
/** How long something that must not happen is watched for. */
const stillMs = 1_000;

const warnings = [];
const log = {
  debug() {},
  info() {},
  warn: (event, fields) => warnings.push({ event, ...fields }),
  error: (event, fields) => warnings.push({ event, ...fields }),
};
log.child = () => log;

const tree = findCgroupTree(null);
if (typeof tree === 'string') throw new Error(tree);
const gates = new Gates(tree, { log, driver: 'systemd' });
const dir = gates.dirOf(gate);

try {
  await run();
  say('end', { ok: true, warnings });
} catch (error) {
  say('end', { ok: false, error: error.stack, warnings, scene: scene() });
}

async function run() {
  await world();
  await gateAlone();
  await image();
  await unit();
  await create('late');
  await frozenStart();
  await freezeAndReload();
  await killWhileRunning();
  await lateStart();
  await openStart();
  await killWhileFrozen();
  await leave();
}

async function world() {
  await until(
    'the engine answers',
    async () => (await call('GET', '/_ping', 5_000)).status === 200,
  );
  const { body } = await call('GET', '/info');
  const info = JSON.parse(body);
  say('world', {
    ok: info.CgroupVersion === '2' && info.CgroupDriver === 'systemd' && tree.version === 'v2',
    cgroup: info.CgroupVersion,
    driver: info.CgroupDriver,
    engine: info.ServerVersion,
    kernel: info.KernelVersion,
    systemd: shell('systemctl', '--version').split('\n')[0],
    bootSeconds: Number(readFileSync('/proc/uptime', 'latin1').split(' ')[0]),
  });
}

/** What `doctor` does on every host. */
async function gateAlone() {
  const result = await testGate(gates, 'trellis-x-0a1b2c3d-test1-abcdef', '/run');
  say('gate-alone', { ok: result.fault === null, ...result });
}

async function image() {
  const root = '/run/rootfs';
  mkdirSync(`${root}/bin`, { recursive: true });
  mkdirSync(marks, { recursive: true });
  shell('cp', '/bin/busybox', `${root}/bin/busybox`);
  shell('ln', '-sf', 'busybox', `${root}/bin/sh`);
  const tar = execFileSync('tar', ['-C', root, '-cf', '-', '.'], { maxBuffer: 64 << 20 });
  const answer = await call(
    'POST',
    '/images/create?fromSrc=-&repo=proof&tag=1',
    limitMs,
    tar,
    'application/x-tar',
  );
  say('image', { ok: answer.status === 200, status: answer.status });
}

/** Made frozen, then taken over by systemd as a unit, which must not thaw it. */
async function unit() {
  const answer = await gates.freeze(gate);
  await until('the slice is a unit', () => unitState() === 'active');
  say('unit', {
    ok: answer === 'frozen' && isFrozen() && existsSync(dir),
    answer,
    unit: unitState(),
    isFrozen: isFrozen(),
    cgroup: path.basename(dir),
  });
}

async function create(name) {
  const answer = await call('POST', `/containers/create?name=${name}`, limitMs, {
    Image: 'proof:1',
    Cmd: ['/bin/sh', '-c', 'while :; do echo $$ >> /marks/ran; /bin/busybox usleep 5000; done'],
    HostConfig: {
      CgroupParent: sliceName(gate),
      NetworkMode: 'none',
      RestartPolicy: { Name: 'no' },
      Binds: [`${marks}:/marks`],
    },
  });
  say('create', {
    ok: answer.status === 201,
    status: answer.status,
    body: answer.status === 201 ? '' : answer.body,
  });
}

async function frozenStart() {
  const start = await call('POST', '/containers/late/start', hangMs);
  if (start.status !== null)
    throw new Error(`the start was answered: ${start.status} ${start.body}`);
  await until('the start has put a process into the gate', () => gates.look(gate) === 'populated');
  await pause(stillMs);
  const listMs = await timed(() => call('GET', '/containers/json?all=1'));
  say('frozen-start', {
    ok: start.status === null && marked() === 0 && isFrozen(),
    start: start.status ?? `no answer in ${hangMs} ms`,
    lines: marked(),
    isFrozen: isFrozen(),
    listMs,
  });
  const startMs = performance.now();
  const answer = await gates.thaw(gate);
  const thawMs = round(performance.now() - startMs);
  await until('the container runs after the thaw', () => marked() > 0);
  say('thaw-runs', {
    ok: answer === 'open',
    answer,
    thawMs,
    firstLineMs: round(performance.now() - startMs),
  });
  await until('the engine calls it running', async () => (await state('late')).Running === true);
}

async function freezeAndReload() {
  const startMs = performance.now();
  const answer = await gates.freeze(gate);
  const freezeMs = round(performance.now() - startMs);
  const before = marked();
  await pause(stillMs);
  say('freeze', {
    ok: answer === 'frozen' && marked() === before,
    answer,
    freezeMs,
    linesWhileFrozen: marked() - before,
  });
  for (const verb of ['daemon-reload', 'daemon-reexec']) {
    shell('systemctl', verb);
    await pause(stillMs);
    say(verb, {
      ok: isFrozen() && marked() === before,
      isFrozen: isFrozen(),
      linesWhileFrozen: marked() - before,
      unit: unitState(),
    });
  }
}

async function killWhileRunning() {
  await gates.thaw(gate);
  const before = marked();
  await until('it goes on after the thaw', () => marked() > before);
  await clearAndSee('kill-running');
}

async function clearAndSee(step) {
  const startMs = performance.now();
  const answer = await gates.clear(gate);
  const clearMs = round(performance.now() - startMs);
  const before = marked();
  const isStill = isFrozen();
  await until('the engine sees the end', async () => !(await state('late')).Running);
  // The engine takes its scope away; ours must stay, empty and frozen, also when systemd collects what nobody uses.
  await until('the scope is gone', () => shell('find', dir, '-mindepth', '1', '-type', 'd') === '');
  shell('systemctl', 'daemon-reload');
  await pause(stillMs);
  say(step, {
    ok: answer === 'empty' && isStill && existsSync(dir) && isFrozen() && marked() === before,
    answer,
    clearMs,
    isThere: existsSync(dir),
    isFrozen: isFrozen(),
    unit: unitState(),
    exitCode: (await state('late')).ExitCode,
  });
}

/** The gate is empty and frozen: a start that comes now must not execute, and is killed without having run. */
async function lateStart() {
  writeFileSync(`${marks}/ran`, '');
  const start = await call('POST', '/containers/late/start', hangMs);
  if (start.status !== null)
    throw new Error(`the start was answered: ${start.status} ${start.body}`);
  await until('the start has put a process into the gate', () => gates.look(gate) === 'populated');
  const isBlocked = start.status === null && marked() === 0 && isFrozen();
  const startMs = performance.now();
  const answer = await gates.clear(gate);
  const clearMs = round(performance.now() - startMs);
  const containers = await until('the engine gives the start up', async () => {
    const { Running, Status } = await state('late');
    return Running ? null : Status;
  });
  say('late-start', {
    ok: isBlocked && answer === 'empty' && marked() === 0 && isFrozen(),
    start: start.status ?? `no answer in ${hangMs} ms`,
    answer,
    clearMs,
    lines: marked(),
    isFrozen: isFrozen(),
    containers,
  });
}

async function openStart() {
  await gates.thaw(gate);
  // The start that was killed in the frozen gate does not come back.
  await pause(stillMs);
  say('thaw-after-clear', {
    ok: marked() === 0 && gates.look(gate) === 'empty',
    lines: marked(),
    look: gates.look(gate),
  });
  const startMs = performance.now();
  const start = await call('POST', '/containers/late/start', limitMs);
  await until('it runs', () => marked() > 0);
  say('open-start', {
    ok: start.status === 204,
    status: start.status,
    firstLineMs: round(performance.now() - startMs),
  });
}

async function killWhileFrozen() {
  await gates.freeze(gate);
  await clearAndSee('kill-frozen');
}

async function leave() {
  await call('DELETE', '/containers/late?force=1');
  gates.remove(gate);
  await until('the unit is gone', () => unitState() !== 'active' && !existsSync(dir));
  say('remove', { ok: true, unit: unitState() });
}

/** What a person would look at first. */
function scene() {
  return {
    cgroups: shell('find', dir, '-type', 'd'),
    events: readFileSync(path.join(dir, 'cgroup.events'), 'utf8'),
    processes: shell('/bin/busybox', 'ps').split('\n').slice(-30),
    journal: shell('journalctl', '-b', '-n', '40', '-o', 'cat').split('\n'),
  };
}

function marked() {
  const file = `${marks}/ran`;
  return existsSync(file) ? statSync(file).size : 0;
}

function isFrozen() {
  return tree.freezer.isFrozen(dir);
}

function unitState() {
  return shell('systemctl', 'show', '-p', 'ActiveState', '--value', sliceName(gate));
}

function shell(command, ...args) {
  return execFileSync(command, args, { encoding: 'utf8' }).trim();
}

async function state(name) {
  return JSON.parse((await call('GET', `/containers/${name}/json`)).body).State;
}

async function timed(act) {
  const startMs = performance.now();
  await act();
  return round(performance.now() - startMs);
}

function round(ms) {
  return Math.round(ms * 10) / 10;
}

async function until(what, check) {
  const endMs = performance.now() + limitMs;
  for (;;) {
    const found = await check();
    if (found) return found;
    if (performance.now() > endMs) throw new Error(`not within ${limitMs} ms: ${what}`);
    await pause(5);
  }
}

/** Status null: no answer in time. */
function call(method, target, timeoutMs = limitMs, body = null, type = 'application/json') {
  return new Promise((resolve, reject) => {
    const request = http.request({ socketPath, method, path: target, agent: false });
    const timer = setTimeout(() => {
      request.destroy();
      resolve({ status: null, body: '' });
    }, timeoutMs);
    request.on('error', (error) => {
      clearTimeout(timer);
      if (error.code === 'ECONNRESET' || error.code === 'ENOENT' || error.code === 'ECONNREFUSED') {
        resolve({ status: null, body: error.code });
      } else reject(error);
    });
    request.on('response', (response) => {
      const chunks = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('error', () => {});
      response.on('end', () => {
        clearTimeout(timer);
        resolve({ status: response.statusCode, body: Buffer.concat(chunks).toString() });
      });
    });
    if (body === null) request.end();
    else {
      request.setHeader('content-type', type);
      request.end(Buffer.isBuffer(body) ? body : JSON.stringify(body));
    }
  });
}

function say(step, fields) {
  console.log(`PROOF ${JSON.stringify({ step, ...fields })}`);
}
