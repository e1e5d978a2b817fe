/**
 * The release bundle: the daemon, the CLI and the guard of leases as one file each, the CRDT's wasm, a Node runtime, a wrapper, licences.
 *
 * Only releases are built; in development Node runs the sources. One file per program because loading some hundred
 * packages file by file costs the daemon 40 MB and 170 ms (see ADR 2).
 *
 *   trellis/VERSION bundle.json
 *   trellis/bin/trellis            what /usr/local/bin/trellis links to
 *   trellis/lib/daemon.mjs cli.mjs guard.mjs automerge_wasm_bg.wasm node and what the daemon serves
 *   trellis/share/                 licences, installer
 */
import { chmod, copyFile, cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { build, type Metafile, type Plugin } from 'esbuild';
import { version } from '../daemon/version.ts';
import { contentHash, writeArchive, type Archive } from './archive.ts';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

/** Program name in lib/ and its source. */
const programs = {
  daemon: 'daemon/main.ts',
  cli: 'daemon/cli/main.ts',
  guard: 'daemon/lease/guard/main.ts',
} as const;

type Program = keyof typeof programs;

/** What the daemon reads at run time from beside itself, as text. */
const besides = ['bootstrap/join.sh.template', 'bootstrap/install-common.sh'];

/** For people, and for `install.sh` from a bundle. */
const shares = ['bootstrap/install.sh', 'bootstrap/install-common.sh', 'README.md', 'LICENSE'];

export interface Bundle extends Archive {
  readonly version: string;
  /** 'x64' or 'arm64'. */
  readonly arch: string;
}

/** Makes `<outDir>/trellis-<version>-linux-<arch>.tar.gz`. Takes about 6 s of one core. */
export async function buildBundle(outDir: string): Promise<Bundle> {
  const work = await mkdtemp(path.join(os.tmpdir(), 'trellis-build-'));
  try {
    await layOut(work, version);
    await mkdir(outDir, { recursive: true });
    const file = path.join(outDir, `trellis-${version}-linux-${process.arch}.tar.gz`);
    const archive = await writeArchive({ dir: work, file, top: 'trellis' });
    return { ...archive, version, arch: process.arch };
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Everything of the bundle, unpacked, in the empty directory `dir`. Programs say that they are of `version`. */
export async function layOut(dir: string, version: string): Promise<void> {
  const lib = path.join(dir, 'lib');
  const share = path.join(dir, 'share');
  for (const made of [path.join(dir, 'bin'), lib, share]) await mkdir(made, { recursive: true });
  const packages = new Set<string>();
  for (const name of Object.keys(programs)) {
    const used = await bundleProgram(name as Program, path.join(lib, `${name}.mjs`), version);
    for (const place of used) packages.add(place);
  }
  for (const file of besides)
    await copyFile(path.join(root, file), path.join(lib, path.basename(file)));
  await copyFile(wasmFile(), path.join(lib, 'automerge_wasm_bg.wasm'));
  await copyFile(process.execPath, path.join(lib, 'node'));
  await chmod(path.join(lib, 'node'), 0o755);
  await copyFile(path.join(root, 'bootstrap/trellis.sh'), path.join(dir, 'bin/trellis'));
  await chmod(path.join(dir, 'bin/trellis'), 0o755);
  for (const file of shares) {
    if (existsSync(path.join(root, file))) {
      await cp(path.join(root, file), path.join(share, path.basename(file)), { recursive: true });
    }
  }
  await writeFile(path.join(share, 'THIRD-PARTY-LICENSES'), await licences([...packages].sort()));
  await writeFile(path.join(dir, 'VERSION'), `${version}\n`);
  const about = {
    version,
    arch: process.arch,
    node: process.versions.node,
    content: await contentHash(dir),
  };
  await writeFile(path.join(dir, 'bundle.json'), `${JSON.stringify(about)}\n`);
}

/** One of the programs as it is in a bundle. */
export async function buildProgram(name: Program, outfile: string): Promise<void> {
  await bundleProgram(name, outfile, version);
}

// ESM output of CommonJS packages needs what CommonJS has.
const banner = [
  "import { createRequire as trellisCreateRequire } from 'node:module';",
  'const require = trellisCreateRequire(import.meta.url);',
  'const __filename = import.meta.filename;',
  'const __dirname = import.meta.dirname;',
].join('');

/** Package directories (relative to the root) whose code went in. */
async function bundleProgram(name: Program, outfile: string, release: string): Promise<string[]> {
  const { metafile } = await build({
    entryPoints: [path.join(root, programs[name])],
    outfile,
    bundle: true,
    platform: 'node',
    target: 'node24',
    format: 'esm',
    absWorkingDir: root,
    // Names are kept for stack traces; the rest halves what has to be parsed at start.
    minifySyntax: true,
    minifyWhitespace: true,
    legalComments: 'none',
    banner: { js: banner },
    // Building needs a clone; a bundle only packs what it was installed from.
    external: ['./build.ts'],
    plugins: [without(unused[name]), saying(release)],
    metafile: true,
    logLevel: 'warning',
  });
  return packagesOf(metafile);
}

/**
 * Parts of packages that we never call, though they are loaded with them. Of the engine's client: ssh (which has a native
 * part that a single file cannot carry), and gRPC, by which it builds images. gRPC alone is a seventh
 * of the code and costs the idle daemon several MB. Of Noise: keys and ciphers in JavaScript and WebAssembly. A guard has
 * Ed25519 keys and the ciphers of Node, see `guard/noise-crypto.ts`; a stranger with another kind of key ends in an error.
 */
const ofEngineClient = /^(ssh2|cpu-features|@grpc\/grpc-js|@grpc\/proto-loader)$/;
const unused: Record<Program, RegExp> = {
  daemon: ofEngineClient,
  cli: ofEngineClient,
  guard:
    /^(@noble\/(curves|ciphers)\/.+|@noble\/hashes\/hkdf\.js|@chainsafe\/as-(chacha20poly1305|sha256))$/,
};

function without(names: RegExp): Plugin {
  return {
    name: 'without-unused',
    setup(setup) {
      setup.onResolve({ filter: names }, ({ path: name }) => ({ path: name, namespace: 'absent' }));
      setup.onLoad({ filter: /.*/, namespace: 'absent' }, ({ path: name }) => ({
        contents: name.startsWith('@chainsafe') ? initialised : 'module.exports = {};',
        loader: 'js',
      }));
    },
  };
}

/** In place of `daemon/version.ts`. */
function saying(release: string): Plugin {
  return {
    name: 'release',
    setup(setup) {
      setup.onLoad({ filter: /\/daemon\/version\.ts$/ }, () => ({
        contents: `export const version = ${JSON.stringify(release)};`,
        loader: 'js',
      }));
    },
  };
}

/** Noise makes one when it is loaded, and uses it only when it is given nothing else. */
const initialised = 'module.exports = { newInstance() {}, ChaCha20Poly1305: class {} };';

function packagesOf(metafile: Metafile): string[] {
  const found = new Set<string>();
  for (const input of Object.keys(metafile.inputs)) {
    const place = /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(input)?.[1];
    if (place !== undefined) found.add(place);
  }
  return [...found];
}

function wasmFile(): string {
  const entry = fileURLToPath(import.meta.resolve('@automerge/automerge'));
  const dist = entry.slice(0, entry.lastIndexOf(`${path.sep}dist${path.sep}`) + '/dist'.length);
  return path.join(dist, 'automerge.wasm');
}

const licenceNames = [
  'LICENSE',
  'LICENSE.md',
  'LICENSE.txt',
  'LICENCE',
  'license',
  'LICENSE-MIT',
  'COPYING',
  'NOTICE',
];

async function licences(places: readonly string[]): Promise<string> {
  const runtime = path.join(path.dirname(path.dirname(process.execPath)), 'LICENSE');
  const parts = [`Trellis contains the following third-party software.\n`];
  for (const place of places) {
    const dir = path.join(root, place);
    const about = JSON.parse(await readFile(path.join(dir, 'package.json'), 'utf8')) as {
      readonly [field in 'name' | 'version' | 'license']?: unknown;
    };
    const licence = typeof about.license === 'string' ? about.license : 'see below';
    parts.push(`== ${String(about.name)} ${String(about.version)}: ${licence}\n`);
    const texts = licenceNames
      .map((name) => path.join(dir, name))
      .filter((file) => existsSync(file));
    for (const file of texts) parts.push(await readFile(file, 'utf8'));
  }
  if (existsSync(runtime))
    parts.push(`== Node.js ${process.versions.node}\n`, await readFile(runtime, 'utf8'));
  return parts.join('\n');
}

if (import.meta.main) {
  const bundle = await buildBundle(path.join(root, 'dist'));
  await writeFile(`${bundle.file}.sha256`, `${bundle.sha256}  ${path.basename(bundle.file)}\n`);
  const mebibytes = (bundle.sizeBytes / 2 ** 20).toFixed(1);
  console.log(
    `${path.relative(process.cwd(), bundle.file)} (${mebibytes} MiB, sha256 ${bundle.sha256})`,
  );
}
