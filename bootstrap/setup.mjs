// Set-up of a clone: locked dependencies and a Node 24 runtime. Plain JavaScript without dependencies, because it runs
// first, on any Node from 18. With nothing to do it reads two small files.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const modules = path.join(root, 'node_modules');
const stampFile = path.join(modules, '.trellis-setup');

/** Told to people on stderr, so that `--json` output and pipes stay clean. */
export function say(text) {
  process.stderr.write(`trellis: ${text}\n`);
}

/** Ends with a message that says what to do. Never returns. */
export function fail(text) {
  say(text);
  process.exit(1);
}

/** Makes node_modules what package-lock.json says, if it is not, and returns the path of the Node 24 runtime. */
export function prepare() {
  const stamp = lockStamp();
  if (read(stampFile) !== stamp) {
    if (!isInstalled()) install('installing the locked dependencies (once)');
    writeStamp(stamp);
  }
  linkCli();
  let runtime = findRuntime();
  if (runtime === null) {
    install(
      'the Node 24 runtime is missing from node_modules; installing again with optional packages',
    );
    writeStamp(stamp);
    linkCli();
    runtime = findRuntime();
  }
  if (runtime === null) {
    fail(
      `no Node 24 runtime: the package node-linux-${process.arch} could not be installed for ${process.platform}-${process.arch}; ` +
        'install Node 24.12 or newer and run this with it',
    );
  }
  return runtime;
}

/** The registry's runtime, so that everybody runs the same; else the running Node if it is new enough; else null. */
function findRuntime() {
  const packaged = path.join(modules, `node-${process.platform}-${process.arch}`, 'bin', 'node');
  if (existsSync(packaged)) return packaged;
  return isNewEnough(process.versions.node) ? process.execPath : null;
}

/** `version` such as '24.21.0'; the first with stable type stripping is 24.12. */
function isNewEnough(version) {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > 24 || (major === 24 && minor >= 12);
}

/** PATH for what we start: our tools and our Node first. */
export function toolEnv(runtime, extra = {}) {
  const dirs = [path.dirname(runtime), path.join(modules, '.bin'), process.env['PATH'] ?? ''];
  return { ...process.env, PATH: dirs.join(path.delimiter), ...extra };
}

function lockStamp() {
  const lock = read(path.join(root, 'package-lock.json'));
  if (lock === null) fail('package-lock.json is missing; take it from the repository again');
  return (
    createHash('sha256')
      .update(`${process.platform} ${process.arch}\n`)
      .update(lock)
      .digest('hex') + '\n'
  );
}

/** True when npm's own record of node_modules has every package of the lock at the locked version. */
function isInstalled() {
  try {
    const installed =
      JSON.parse(read(path.join(modules, '.package-lock.json')) ?? '{}').packages ?? {};
    const wanted = JSON.parse(read(path.join(root, 'package-lock.json')) ?? '{}').packages;
    return Object.entries(wanted).every(([place, { version, optional, peer }]) => {
      if (place === '' || (installed[place] === undefined && (optional || peer))) return true;
      return installed[place]?.version === version;
    });
  } catch (error) {
    say(`node_modules has no readable record (${error.message}); it is made again`);
    return false;
  }
}

function install(why) {
  say(why);
  const dir = mkdtempSync(path.join(os.tmpdir(), 'trellis-setup-'));
  try {
    const node = isNewEnough(process.versions.node) ? process.execPath : fetchRuntime(dir);
    // --include wins over an `omit` in the user's npmrc or NODE_ENV=production. Our dependencies run no install scripts.
    const options = [
      '--ignore-scripts',
      '--include=dev',
      '--include=optional',
      '--engine-strict=false',
    ];
    npm(node, ['ci', ...options, '--no-audit', '--no-fund', '--loglevel=error'], root);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/**
 * Gets the runtime first, checked against the lock file: npm under an older Node silently leaves out optional packages
 * whose `engines` want a newer one, and the native parts of the tools are such packages.
 */
function fetchRuntime(dir) {
  const name = `node-${process.platform}-${process.arch}`;
  const locked = JSON.parse(read(path.join(root, 'package-lock.json')) ?? '{}').packages[
    `node_modules/${name}`
  ];
  if (locked === undefined) {
    fail(
      `there is no packaged Node for ${process.platform}-${process.arch}; install Node 24.12 or newer and run this with it`,
    );
  }
  npm(
    process.execPath,
    ['pack', `${name}@${locked.version}`, '--silent', '--pack-destination', dir],
    dir,
  );
  const archive = path.join(dir, `${name}-${locked.version}.tgz`);
  const found = 'sha512-' + createHash('sha512').update(readFileSync(archive)).digest('base64');
  if (found !== locked.integrity)
    fail(`${name}@${locked.version} is not what package-lock.json names; nothing was installed`);
  const unpacked = spawnSync('tar', ['-xzf', archive, '-C', dir, 'package/bin/node'], {
    stdio: ['ignore', 2, 2],
  });
  if (unpacked.status !== 0)
    fail('the Node runtime could not be unpacked; is there room in the temporary directory?');
  return path.join(dir, 'package', 'bin', 'node');
}

function npm(node, args, cwd) {
  const script = process.env['npm_execpath'];
  const isScript = script !== undefined && /\.c?js$/.test(script) && existsSync(script);
  const done = spawnSync(isScript ? node : 'npm', [...(isScript ? [script] : []), ...args], {
    cwd,
    stdio: ['ignore', 2, 2],
    env: {
      ...process.env,
      PATH: path.dirname(node) + path.delimiter + (process.env['PATH'] ?? ''),
    },
  });
  if (done.error) fail(`npm could not be started: ${done.error.message}; install npm`);
  if (done.status !== 0) {
    fail(
      `npm ${args[0]} ended with ${done.status ?? done.signal}; the lines above say why. Repair that and run it again`,
    );
  }
}

function writeStamp(stamp) {
  mkdirSync(modules, { recursive: true });
  const draft = `${stampFile}.${process.pid}`;
  writeFileSync(draft, stamp);
  renameSync(draft, stampFile);
}

/** So that `npx trellis` and PATH=node_modules/.bin find the CLI of this clone. */
function linkCli() {
  const link = path.join(modules, '.bin', 'trellis');
  if (existsSync(link)) return;
  try {
    symlinkSync('../../bootstrap/trellis.mjs', link);
  } catch (error) {
    if (error.code !== 'EEXIST') say(`node_modules/.bin/trellis was not linked: ${error.message}`);
  }
}

function read(file) {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT') return null;
    throw error;
  }
}
