/**
 * An image that one host has runs on all: every layer crosses each link once, a new version brings only what is new, and a
 * transfer that was killed goes on where it was. Issue 2, Show 6.
 */
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventually } from '../await.ts';
import { TestCluster } from '../testbed/cluster.ts';
import { makeImage } from '../testbed/image.ts';

const mb = 2 ** 20;
const layerBytes = 20 * mb;
/** Frames, headers, gossip and the small blobs beside the layers. */
const overhead = 1.12;
const slackBytes = 2 * mb;
const blobsDir = '/var/lib/trellis/blobs';
const timings: Record<string, number> = {};

const desired = (tag: string) => `
apiVersion: trellis/v1
roles: { web: {} }
services:
  big:
    role: web
    image: demo/big:${tag}
    count: { perHost: { min: 1, max: 1 } }
    stopGrace: 1s
`;

let cluster: TestCluster;
beforeAll(async () => {
  cluster = await TestCluster.create({ hosts: 3, roles: [['web'], ['web'], ['web']] });
  await makeImage(cluster.bed.host(0), 'demo/base:1');
});
afterAll(async () => {
  await cluster?.destroy();
  console.log('images:', timings);
});

/** On h1: `from` and one layer of random bytes for each size. */
async function build(tag: string, from: string, sizesBytes: readonly number[]): Promise<void> {
  const dir = `/run/build-${tag}`;
  const files = sizesBytes.map((bytes, n) => ({ name: `layer-${tag}-${n}`, bytes }));
  const made = files.map(({ name, bytes }) => `head -c ${bytes} /dev/urandom > ${dir}/${name}`);
  const lines = [`FROM ${from}`, ...files.map(({ name }) => `COPY ${name} /${name}`)];
  await cluster.bed.host(0).mustExec(
    `mkdir -p ${dir}
    ${made.join('\n')}
    printf '${lines.join('\\n')}\\n' > ${dir}/Dockerfile
    DOCKER_BUILDKIT=0 docker build -q -t demo/big:${tag} ${dir} && rm -r ${dir}`,
    { timeoutMs: 90_000 },
  );
}

async function receivedBytes(host: number): Promise<number> {
  return (await cluster.bed.switch.traffic(host)).receivedBytes;
}

/** Blob bytes that came over the network in this run of the daemon. */
async function fetchedBytes(host: number): Promise<number> {
  const text = await cluster.bed
    .host(host)
    .mustExec('curl -fsS --unix-socket /run/trellis/trellis.sock http://d/metrics');
  return Number(/^trellis_blob_fetched_bytes_total (\d+)$/m.exec(text)?.[1]);
}

async function runsEverywhere(tag: string, withinMs = 90_000): Promise<void> {
  await eventually(
    async () => {
      for (const index of [0, 1, 2]) {
        const { stdout } = await cluster.bed
          .host(index)
          .docker(['ps', '--format', '{{.Names}} {{.Image}}']);
        const names = stdout.split('\n').filter((line) => line.includes('-big-'));
        expect(names, `h${index + 1}`).toHaveLength(1);
        const name = names[0]?.split(' ')[0] ?? '';
        const files = await cluster.bed.host(index).docker(['exec', name, 'ls', '/']);
        expect(files.stdout, `h${index + 1}`).toContain(`layer-${tag}-0`);
      }
      return true;
    },
    { withinMs, everyMs: 500, what: `demo/big:${tag} runs on all hosts` },
  );
}

/** Size of the largest blob under way. */
function partBytes(host: number): number {
  const dir = join(cluster.bed.host(host).rootPath, blobsDir, 'parts');
  return Math.max(0, ...readdirSync(dir).map((name) => statSync(join(dir, name)).size));
}

/** Every blob is what its name says. */
async function assertVerified(host: number): Promise<void> {
  const script = `cd ${blobsDir}/sha256 && for f in */*; do echo "$(sha256sum < $f | cut -c1-64) \${f#*/}"; done`;
  const lines = (await cluster.bed.host(host).mustExec(script)).trim().split('\n');
  expect(lines.length).toBeGreaterThan(3);
  for (const line of lines) expect(line.split(' ')[0]).toBe(line.split(' ')[1]);
}

describe('an image on one host', { timeout: 150_000 }, () => {
  it('runs on all, and each layer crosses each link at most once [coreos:A4] [coreos:A10]', async () => {
    await build('1', 'demo/base:1', [layerBytes, layerBytes, layerBytes]);
    const before = await Promise.all([0, 1, 2].map(receivedBytes));
    const start = performance.now();
    await cluster.mustApply(0, desired('1'), ['--wait']);
    timings['62 MB to two hosts, ms'] = Math.round(performance.now() - start);
    await runsEverywhere('1');
    const after = await Promise.all([0, 1, 2].map(receivedBytes));
    const [atFirst, ...others] = after.map((bytes, index) => bytes - (before[index] ?? 0));
    timings['received by h2, MB'] = Math.round((others[0] ?? 0) / mb);
    timings['received by h3, MB'] = Math.round((others[1] ?? 0) / mb);
    for (const bytes of others) {
      expect(bytes).toBeGreaterThan(3 * layerBytes);
      expect(bytes).toBeLessThan(3 * layerBytes * overhead + 2 * slackBytes);
    }
    // The host that has it gets nothing back but acknowledgements.
    expect(atFirst).toBeLessThan(3 * slackBytes);
    for (const index of [1, 2]) await assertVerified(index);
  });

  it('brings only new layers with a new version', async () => {
    await build('2', 'demo/big:1', [4 * mb]);
    const before = await Promise.all([1, 2].map(receivedBytes));
    await cluster.mustApply(0, desired('2'), ['--wait']);
    await runsEverywhere('2');
    const after = await Promise.all([1, 2].map(receivedBytes));
    for (const [at, bytes] of after.entries()) {
      timings[`new version received by h${at + 2}, kB`] = Math.round(
        (bytes - (before[at] ?? 0)) / 1024,
      );
      expect(bytes - (before[at] ?? 0)).toBeLessThan(4 * mb * overhead + slackBytes);
    }
  });

  it('goes on where it was when the receiving daemon is killed [coreos:A9]', async () => {
    await build('3', 'demo/big:1', [layerBytes]);
    await cluster.bed.switch.slow(2, 24_000);
    await cluster.mustApply(0, desired('3'), []);
    await eventually(() => partBytes(2) > 5 * mb, { withinMs: 60_000, everyMs: 50 });
    await cluster.signalDaemon(2, 'KILL');
    const kept = partBytes(2);
    timings['part at the kill, kB'] = Math.round(kept / 1024);
    await cluster.startDaemon(2);
    await cluster.bed.switch.slow(2, 0);
    await runsEverywhere('3');
    const fetched = await fetchedBytes(2);
    timings['fetched after the kill, kB'] = Math.round(fetched / 1024);
    expect(kept).toBeGreaterThan(5 * mb);
    expect(fetched + kept).toBeLessThan(layerBytes + slackBytes);
    await assertVerified(2);
  });

  it('goes on where it was when the only sender is killed [coreos:A9]', async () => {
    await build('4', 'demo/big:1', [layerBytes]);
    for (const index of [1, 2]) await cluster.bed.switch.slow(index, 24_000);
    const before = await fetchedBytes(2);
    await cluster.mustApply(0, desired('4'), []);
    await eventually(() => partBytes(2) > 5 * mb && partBytes(1) > 0, {
      withinMs: 60_000,
      everyMs: 50,
    });
    await cluster.signalDaemon(0, 'KILL');
    const kept = partBytes(2);
    expect(kept).toBeLessThan(layerBytes);
    await cluster.startDaemon(0);
    for (const index of [1, 2]) await cluster.bed.switch.slow(index, 0);
    await runsEverywhere('4', 120_000);
    const fetched = (await fetchedBytes(2)) - before;
    timings['fetched around the death of the sender, kB'] = Math.round(fetched / 1024);
    expect(fetched).toBeLessThan(layerBytes + slackBytes);
    for (const index of [1, 2]) await assertVerified(index);
  });
});
