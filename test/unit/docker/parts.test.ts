/** Small pure parts of the docker plugin. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Hash } from '../../../crdt/ids.ts';
import type { HealthCheck } from '../../../crdt/model.ts';
import { defaultDockerConfig, parseDockerConfig } from '../../../plugins/docker/config.ts';
import { eventually } from '../../await.ts';
import { Limiter, writeFileAtomic } from '../../../plugins/docker/files.ts';
import { Prober } from '../../../plugins/docker/health.ts';
import { HostsFiles, hostsText } from '../../../plugins/docker/hosts-files.ts';
import { decodeManifest, diffIdsOf, encodeManifest } from '../../../plugins/docker/manifest.ts';
import { parseRange } from '../../../plugins/docker/registry.ts';
import { demux } from '../../../plugins/docker/sessions.ts';
import { hostnameOf } from '../../../plugins/docker/spec.ts';
import { Tasks, newBatch } from '../../../plugins/docker/tasks.ts';

test('configuration: defaults, and bad fields refused by name', () => {
  expect(parseDockerConfig(undefined)).toEqual(defaultDockerConfig);
  expect(parseDockerConfig({ endpoint: 'unix:///x', subnets: ['10.0.0.0/22'] })).toMatchObject({
    endpoint: 'unix:///x',
  });
  for (const [raw, field] of [
    [{ endpiont: 'x' }, 'endpiont'],
    [{ endpoint: 'x' }, 'endpoint'],
    [{ subnets: ['10.0.0.0/8'] }, 'subnets'],
    [{ callTimeoutMs: 0 }, 'callTimeoutMs'],
    [{ callTimeoutMs: '1' }, 'callTimeoutMs'],
    [[], 'configuration'],
  ] as const) {
    expect(() => parseDockerConfig(raw)).toThrow(field);
  }
});

test('output frames are split however the bytes are cut', async () => {
  const frame = (stream: number, text: string): Buffer => {
    const header = Buffer.alloc(8);
    header[0] = stream;
    header.writeUInt32BE(Buffer.byteLength(text), 4);
    return Buffer.concat([header, Buffer.from(text)]);
  };
  const frames = fc.array(fc.tuple(fc.constantFrom(1, 2), fc.string({ maxLength: 20 })), {
    maxLength: 8,
  });
  await fc.assert(
    fc.asyncProperty(
      frames,
      fc.array(fc.integer({ min: 1, max: 12 }), { minLength: 1, maxLength: 20 }),
      async (list, cuts) => {
        const whole = Buffer.concat(list.map(([stream, text]) => frame(stream, text)));
        async function* pieces(): AsyncGenerator<Uint8Array> {
          for (let at = 0, i = 0; at < whole.length; i++) {
            const size = cuts[i % cuts.length] ?? 1;
            yield whole.subarray(at, at + size);
            at += size;
          }
        }
        const out = { stdout: Buffer.alloc(0), stderr: Buffer.alloc(0) };
        for await (const { stream, bytes } of demux(pieces(), false))
          out[stream] = Buffer.concat([out[stream], bytes]);
        const expected = (kind: number): string =>
          list
            .filter(([stream]) => stream === kind)
            .map(([, text]) => text)
            .join('');
        expect(out.stdout.toString()).toBe(Buffer.from(expected(1)).toString());
        expect(out.stderr.toString()).toBe(Buffer.from(expected(2)).toString());
      },
    ),
    { numRuns: 50 },
  );
});

test('ranges of a blob', () => {
  expect(parseRange(undefined, 10)).toBeNull();
  expect(parseRange('bytes=2-5', 10)).toEqual({ start: 2, end: 5 });
  expect(parseRange('bytes=2-', 10)).toEqual({ start: 2, end: 9 });
  expect(parseRange('bytes=2-99', 10)).toEqual({ start: 2, end: 9 });
  expect(parseRange('bytes=-3', 10)).toEqual({ start: 7, end: 9 });
  expect(parseRange('bytes=10-', 10)).toBe('unsatisfiable');
  expect(parseRange('bytes=-', 10)).toBeNull();
  expect(parseRange('bytes=1-2,4-5', 10)).toBeNull();
});

test('manifests: what is encoded is decoded, equal images give equal bytes, garbage gives null', () => {
  const ref = (digit: string, sizeBytes: number) => ({ hash: digit.repeat(64) as Hash, sizeBytes });
  const image = { config: ref('a', 1), layers: [ref('b', 2), ref('c', 3)] };
  expect(decodeManifest(encodeManifest(image))).toEqual(image);
  expect(encodeManifest(image)).toEqual(encodeManifest(structuredClone(image)));
  for (const bad of [
    '',
    'null',
    '[]',
    '{}',
    '{"config":{"digest":"sha256:xx","size":1},"layers":[]}',
    `{"config":{"digest":"sha256:${'a'.repeat(64)}","size":-1},"layers":[]}`,
  ]) {
    expect(decodeManifest(Buffer.from(bad))).toBeNull();
  }
  expect(decodeManifest(new Uint8Array(5 << 20))).toBeNull();
  expect(diffIdsOf(Buffer.from('{"rootfs":{"diff_ids":["nope"]}}'))).toBeNull();
});

test('hosts files: rewritten in place, only for sane names, removed when not needed', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'trellis-hosts-'));
  try {
    const files = new HostsFiles(dir);
    const view = (...names: string[]) => ({
      virtualAddress: '169.254.1.2',
      routes: names.map((name) => ({ service: name, name, ports: [] })),
    });
    const self = { hostname: 'web-0', address: '10.0.0.2' };
    expect(await files.write('web-0', hostsText(view('b.internal', 'a.internal'), self))).toBe(
      true,
    );
    const path = files.pathOf('web-0');
    const before = readFileSync(path, 'utf8');
    expect(before.indexOf('a.internal')).toBeLessThan(before.indexOf('b.internal'));
    expect(await files.write('web-0', before)).toBe(false);
    expect(await files.write('web-0', hostsText(view(), self))).toBe(true);
    expect(readFileSync(path, 'utf8')).toBe(
      '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.2\tweb-0\n',
    );
    for (const bad of ['..', '../x', 'a/b', ''])
      expect(() => files.pathOf(bad)).toThrow('cannot name a directory');
    await files.keepOnly(() => false);
    expect(() => readFileSync(path)).toThrow('ENOENT');
    await writeFileAtomic(join(dir, 'deep', 'x.json'), '1');
    expect(readFileSync(join(dir, 'deep', 'x.json'), 'utf8')).toBe('1');
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test('a host name keeps the end that tells instances apart', () => {
  expect(hostnameOf('web-0')).toBe('web-0');
  expect(hostnameOf(`${'x'.repeat(80)}-7`)).toHaveLength(63);
  expect(hostnameOf(`${'x'.repeat(80)}-7`)).toMatch(/x-7$/);
});

test('a limiter never lets more than its number run, and loses nobody', async () => {
  const limiter = new Limiter(3);
  let running = 0;
  let most = 0;
  const done = await Promise.allSettled(
    Array.from({ length: 20 }, (_, i) =>
      limiter.run(async () => {
        most = Math.max(most, ++running);
        await Promise.resolve();
        running--;
        if (i % 4 === 0) throw new Error('some fail');
      }),
    ),
  );
  expect(most).toBe(3);
  expect(done).toHaveLength(20);
});

test('work that outlives its reconcile is not started twice, and its failure is reported by the next', async () => {
  const late: string[] = [];
  const tasks = new Tasks({
    toFailure: (item, error) => ({
      item,
      code: 'X',
      message: (error as Error).message,
      isTransient: true,
    }),
    onLateEnd: (item) => late.push(item),
  });
  const first = newBatch();
  const gate = Promise.withResolvers<string>();
  let runs = 0;
  const piece = { container: 'c', item: 'i', run: () => (runs++, gate.promise) };
  const work = tasks.start(piece, first);
  tasks.close(first);
  const second = newBatch();
  const again = tasks.start(piece, second);
  expect(tasks.isBusy('c')).toBe(true);
  tasks.close(second);
  gate.reject(new Error('slow and bad'));
  await Promise.all([work, again]);
  await Promise.resolve();
  expect(runs).toBe(1);
  expect(late).toEqual(['i']);
  expect(tasks.isBusy('c')).toBe(false);
  const third = newBatch();
  await tasks.start(piece, third);
  tasks.close(third);
  expect(third.failures).toMatchObject([{ item: 'i', message: 'slow and bad' }]);
  expect(runs).toBe(1);
});

test('health: a server that answers is healthy, an impossible path or a closed port is not', async () => {
  const server = createServer((request, response) => {
    response.statusCode = request.url === '/ok' ? 204 : 500;
    response.end();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  let changes = 0;
  const prober = new Prober({ wallMs: () => Date.now(), onChange: () => changes++ });
  const check = (kind: 'http' | 'tcp', path: string): HealthCheck => ({
    kind,
    path,
    intervalMs: 20,
    timeoutMs: 500,
    retries: 2,
    startPeriodMs: 0,
  });
  const target = (containerId: string, to: number, what: HealthCheck) =>
    [
      containerId,
      { containerId, address: '127.0.0.1', port: to, check: what, startedMs: 0 },
    ] as const;
  const targets = new Map([
    target('ok', port, check('http', '/ok')),
    target('bad', port, check('http', '/bad')),
    target('impossible', port, check('http', '/ \n')),
    target('tcp', port, check('tcp', '')),
    target('closed', 1, check('tcp', '')),
  ]);
  try {
    prober.watch(targets);
    expect(prober.isSettled()).toBe(false);
    const statuses = (): string =>
      [...targets.keys()].map((name) => `${name} ${prober.status(name)}`).join(', ');
    const expected =
      'ok healthy, bad unhealthy, impossible unhealthy, tcp healthy, closed unhealthy';
    await eventually(() => statuses() === expected, { withinMs: 5_000 });
    expect(prober.isSettled()).toBe(true);
    expect(changes).toBeGreaterThanOrEqual(5);
    prober.watch(new Map());
    expect(prober.status('ok')).toBeNull();
  } finally {
    prober.stop();
    server.close();
    server.closeAllConnections();
  }
});
