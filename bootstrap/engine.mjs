// A container engine for `npm start`: used as it is when one answers, installed and started as root on Debian when none
// does, and never insisted on: without one the daemon runs and says what is missing.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, openSync } from 'node:fs';
import net from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { enginePackages, installPackages, missingPackages, onPath } from './packages.mjs';
import { say } from './setup.mjs';

const readyWithinMs = 40_000;
const logFile = '/var/log/trellis-dockerd.log';

export async function ensureEngine() {
  const endpoint = process.env['DOCKER_HOST'] ?? 'unix:///var/run/docker.sock';
  if (!endpoint.startsWith('unix://')) return; // Someone else's engine, perhaps remote: the daemon reports on it.
  const socket = endpoint.slice('unix://'.length);
  if (await answers(socket)) return;
  const isOurPlace = socket === '/var/run/docker.sock' || socket === '/run/docker.sock';
  if (!isOurPlace) {
    say(`no container engine answers at ${endpoint}; going on without one`);
    return;
  }
  if (process.getuid?.() !== 0) {
    say(
      `no container engine answers at ${endpoint}, and installing or starting one needs root; going on without one`,
    );
    return;
  }
  const missing = missingPackages(enginePackages);
  if (missing.length > 0 && !onPath('apt-get')) {
    say(
      `no container engine here, and this is not Debian: install Docker yourself; going on without one`,
    );
    return;
  }
  if (missing.length > 0) {
    say(
      `no container engine here: installing ${missing.join(' ')} (refuse with: npm start -- --no-engine)`,
    );
    installPackages(missing);
  }
  await startEngine(socket);
}

async function startEngine(socket) {
  if (existsSync('/run/systemd/system')) {
    say('starting the container engine: systemctl start docker');
    spawnSync('systemctl', ['start', 'docker'], { stdio: ['ignore', 2, 2] });
  } else {
    say(`starting the container engine: dockerd, log in ${logFile} (it stays when this ends)`);
    mkdirSync('/var/log', { recursive: true });
    const log = openSync(logFile, 'a', 0o640);
    const child = spawn('dockerd', ['--live-restore'], {
      detached: true,
      stdio: ['ignore', log, log],
    });
    child.on('error', (error) => say(`dockerd could not be started: ${error.message}`));
    child.unref();
  }
  const deadline = Date.now() + readyWithinMs;
  while (Date.now() < deadline) {
    if (await answers(socket)) return say('the container engine answers');
    await pause(200);
  }
  say(
    `the container engine did not answer within ${readyWithinMs / 1000} s (see ${logFile} or the journal); going on without it`,
  );
}

/** True when an engine at this unix socket answers a ping within two seconds. */
function answers(socket) {
  return new Promise((resolve) => {
    const connection = net.connect(socket);
    const done = (isThere) => {
      connection.destroy();
      resolve(isThere);
    };
    connection.setTimeout(2000, () => done(false));
    connection.on('error', () => done(false));
    connection.on('connect', () => connection.write('GET /_ping HTTP/1.0\r\n\r\n'));
    connection.on('data', (bytes) => done(bytes.includes(' 200 ')));
    connection.on('end', () => done(false));
  });
}
