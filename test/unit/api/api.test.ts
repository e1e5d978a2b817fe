import { execFile } from 'node:child_process';
import { existsSync, statSync, writeFileSync } from 'node:fs';
import { createServer, request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { connect as tlsConnect } from 'node:tls';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeClient } from '../../../daemon/cli/client.ts';
import { readJsonLines } from '../../../daemon/api/lines.ts';
import { listenOnSocket } from '../../../daemon/api/unix-socket.ts';
import { issueCertificate } from '../../../daemon/trust/certificates.ts';
import { eventually } from '../../await.ts';
import { newCluster, passphrase } from '../trust/cluster.ts';
import type { TestCluster } from '../trust/cluster.ts';
import { certificateFor, overHttps, overSocket, startWorld } from './world.ts';
import type { Answer, Ask, World } from './world.ts';

const run = promisify(execFile);
let cluster: TestCluster;
let world: World;
let token: string;
const https = (ask: Ask): Promise<Answer> => overHttps(world, cluster.founding.caPem, ask);
const withToken = (ask: Ask): Promise<Answer> =>
  https({ ...ask, headers: { ...ask.headers, authorization: `Bearer ${token}` } });
const errorOf = (answer: Answer): string => answer.json<{ error: { code: string } }>().error.code;

beforeAll(async () => {
  cluster = await newCluster();
  world = await startWorld(cluster);
});
afterAll(async () => world.stop());

describe('unix socket', () => {
  test('mode 660 from the start, removed at the end, and a stale one is replaced', async () => {
    expect(statSync(world.socket).mode & 0o777).toBe(0o660);
    const second = await startWorld(cluster);
    await expect(second.api.openSocket(world.socket)).rejects.toMatchObject({
      code: 'SOCKET_IN_USE',
    });
    const path = join(second.dir, 'file');
    writeFileSync(path, 'precious');
    await expect(second.api.openSocket(path)).rejects.toMatchObject({ code: 'SOCKET_IN_USE' });
    await second.stop();
    expect(existsSync(second.socket)).toBe(false);
    const stale = join(world.dir, 'stale.sock');
    const script = `require('net').createServer().listen(${JSON.stringify(stale)}, () => process.kill(process.pid, 'SIGKILL'))`;
    await run(process.execPath, ['-e', script]).catch(() => null);
    expect(existsSync(stale)).toBe(true);
    const server = createServer();
    await listenOnSocket(server, stale);
    server.close();
  });

  test('[trellis:E5] login here, then act; without a login only reading', async () => {
    const refused = await overSocket(world, { path: '/api/v1/invite/create', body: {} });
    expect([refused.status, errorOf(refused)]).toEqual([401, 'LOGIN_REQUIRED']);
    const wrong = await overSocket(world, {
      path: '/api/v1/operator/login',
      body: { passphrase: 'nope' },
    });
    expect([wrong.status, errorOf(wrong)]).toEqual([401, 'LOGIN_REFUSED']);
    const login = await overSocket(world, {
      path: '/api/v1/operator/login',
      body: { operator: 'ada', passphrase },
    });
    expect(login.json()).toMatchObject({ operator: 'ada' });
    expect(login.json()).not.toHaveProperty('token');
    const made = (
      await overSocket(world, {
        path: '/api/v1/invite/create',
        body: { roles: ['web'], addrs: ['10.9.9.9', 'fd00::1'] },
      })
    ).json();
    expect(made['command']).toBe(
      `join shop 10.9.9.9:8443,[fd00::1]:8443,127.0.0.1:8443 ${String(made['code'])}`,
    );
    const listed = (await overSocket(world, { path: '/api/v1/invite/ls' })).json<
      { id: string; state: string }[]
    >();
    expect(listed.find(({ id }) => id === made['id'])).toMatchObject({
      state: 'open',
      used: 0,
      uses: 1,
    });
    const id = String(made['id']).slice(0, 8);
    expect(
      (await overSocket(world, { path: '/api/v1/invite/revoke', body: { id } })).json(),
    ).toEqual({ id: made['id'] });
    const check = await https({ path: '/api/v1/join/check', body: { code: made['code'] } });
    expect(check.json()).toMatchObject({
      error: { code: 'INVITE_REFUSED', details: { refusal: 'revoked' } },
    });
    const who = await overSocket(world, { path: '/api/v1/operator/whoami' });
    expect(who.json()).toMatchObject({ operator: 'ada', via: 'socket' });
    const out = await overSocket(world, { path: '/api/v1/operator/logout' });
    expect(out.json()).toEqual({ operators: ['ada'] });
    expect((await overSocket(world, { path: '/api/v1/operator/whoami' })).json()).toMatchObject({
      operator: null,
    });
  });

  test('bad parameters, unknown commands, bugs and time limits have codes and field names', async () => {
    const ask = async (path: string, body: unknown): Promise<unknown> =>
      (await overSocket(world, { path: `/api/v1/${path}`, body })).json();
    expect(await ask('test/hang', { colour: 1 })).toMatchObject({
      error: { code: 'USAGE', details: { fields: ['colour'] } },
    });
    expect(await ask('test/count', { to: 'x' })).toMatchObject({
      error: { code: 'INVALID', details: { fields: ['to'] } },
    });
    expect(await ask('test/hang', '{oops')).toMatchObject({ error: { code: 'INVALID' } });
    expect(await ask('no/such', {})).toMatchObject({ error: { code: 'NOT_FOUND' } });
    expect(await ask('test/bug', {})).toMatchObject({ error: { code: 'INTERNAL' } });
    expect(await ask('test/hang', {})).toMatchObject({
      error: { code: 'TIMED_OUT', details: { seconds: 0.05 } },
    });
    const large = await overSocket(world, {
      path: '/api/v1/test/hang',
      body: 'x'.repeat(9 << 20),
    }).catch((error: { code: string }) => error.code);
    expect(typeof large === 'string' ? 'EPIPE ECONNRESET' : String(large.status)).toMatch(
      /EPIPE|413/,
    );
  });

  test('mutations are audited with their outcome and without secrets', () => {
    const logins = world.audited.filter(({ command }) => command === 'login');
    expect(logins.map(({ outcome }) => outcome)).toEqual(['LOGIN_REFUSED', 'ok']);
    expect(JSON.stringify(world.audited)).not.toContain(passphrase);
    expect(world.audited.find(({ outcome }) => outcome === 'LOGIN_REQUIRED')).toMatchObject({
      group: 'invite',
      operator: null,
    });
  });

  test('the CLI’s own client: streaming with back-pressure, and two-way over an upgrade', async () => {
    const client = makeClient(world.socket);
    const seen: unknown[] = [];
    const notes: string[] = [];
    const data = await client.call(
      'test/count',
      { to: 3_000 },
      { onData: (one) => seen.push(one), onProgress: (text) => notes.push(text) },
    );
    expect(data).toEqual({ done: true });
    expect([seen.length, notes]).toEqual([3_000, ['counting']]);
    await expect(client.open('test/echo', {})).rejects.toMatchObject({ code: 'LOGIN_REQUIRED' });
    await world.logins.login({ operator: 'ada', passphrase, isKept: true });
    await expect(client.open('test/echo', { a: 1 })).rejects.toMatchObject({ code: 'USAGE' });
    await expect(client.open('test/hang', {})).rejects.toMatchObject({ code: 'INVALID' });
    const call = await client.open('test/echo', {});
    call.send({ type: 'input', bytes: 'aGk=' });
    call.send({ type: 'end' });
    const lines: unknown[] = [];
    for await (const line of call.lines) lines.push(line);
    expect(lines).toEqual([
      { type: 'data', data: { type: 'input', bytes: 'aGk=' } },
      { type: 'data', data: { type: 'end' } },
      { type: 'result', data: { lines: 2 } },
    ]);
    call.close();
    world.logins.logout(null);
  });

  test('a caller that goes away ends its operation', async () => {
    const outgoing = httpRequest({
      socketPath: world.socket,
      path: '/api/v1/test/count',
      method: 'POST',
      headers: { 'content-type': 'application/json' },
    });
    outgoing.on('error', () => {});
    const begun = new Promise((resolve) => {
      outgoing.on('response', (response) => response.once('data', resolve));
    });
    outgoing.end(JSON.stringify({ to: 1_000_000 }));
    await begun;
    expect(world.bus.running).toBe(1);
    outgoing.destroy();
    await eventually(() => world.bus.running === 0, {
      withinMs: 5_000,
      what: 'the operation ends',
    });
  });

  test('a daemon that is no member says so, and init and join are for the socket alone', async () => {
    const bare = await startWorld(cluster, { isMember: false });
    try {
      const made = await overSocket(bare, { path: '/api/v1/cluster/init', body: { name: 'shop' } });
      expect(made.json()).toMatchObject({ env: 'default', operator: 'admin' });
      const weird = await overSocket(bare, {
        path: '/api/v1/cluster/init',
        body: { name: 'My Shop!' },
      });
      expect(weird.json()).toMatchObject({
        error: { code: 'INVALID', details: { fields: ['name'] } },
      });
      expect(errorOf(await overSocket(bare, { path: '/api/v1/invite/create' }))).toBe(
        'NOT_INITIALISED',
      );
      expect((await overSocket(bare, { path: '/api/v1/cluster/info' })).json()).toMatchObject({
        isMember: false,
        version: '1.2.3',
      });
    } finally {
      await bare.stop();
    }
    expect(
      errorOf(await overSocket(world, { path: '/api/v1/cluster/init', body: { name: 'x' } })),
    ).toBe('ALREADY_MEMBER');
  });
});

describe('HTTPS', () => {
  test('nothing without a token but what a stranger needs', async () => {
    for (const path of [
      '/api/v1/cluster/info',
      '/api/v1/test/count',
      '/api/v1/no/such',
      '/api/v1/join/',
      '/api/v1/cluster/init',
    ]) {
      const answer = await https({ path });
      expect([path, answer.status, errorOf(answer)]).toEqual([path, 401, 'LOGIN_REQUIRED']);
    }
    for (const path of [
      '/metrics',
      '/api/v1/events',
      '/',
      '/JOIN',
      '//join',
      '/bundle/..%2f..%2fetc/passwd',
    ]) {
      const { status } = await https({ path, method: 'GET' });
      expect([path, status >= 400]).toEqual([path, true]);
    }
    const health = await https({ path: '/healthz', method: 'GET' });
    expect(health.json()).toEqual({ status: 'ok' });
    expect(health.headers).toMatchObject({
      'x-content-type-options': 'nosniff',
      'cache-control': 'no-store',
    });
    expect((await https({ path: '/join', method: 'GET' })).text).toContain('#!/bin/sh');
    const forged = await https({
      path: '/api/v1/cluster/info',
      headers: { authorization: `Bearer trellis_${'A'.repeat(43)}` },
    });
    expect(forged.status).toBe(401);
  });

  test('a login gives a token that ends with logout', async () => {
    const login = await https({
      path: '/api/v1/operator/login',
      body: { operator: 'ada', passphrase },
    });
    token = login.json<{ token: string }>().token;
    expect(token).toMatch(/^trellis_[\w-]{43}$/);
    expect((await withToken({ path: '/api/v1/operator/whoami' })).json()).toMatchObject({
      operator: 'ada',
      via: 'https',
    });
    const init = await withToken({ path: '/api/v1/cluster/init', body: { name: 'x' } });
    expect(errorOf(init)).toBe('FORBIDDEN');
    const metrics = await withToken({ path: '/metrics', method: 'GET' });
    expect(metrics.text).toContain('trellis_members{state="a\\"live"} 3');
    await withToken({ path: '/api/v1/operator/logout' });
    expect((await withToken({ path: '/api/v1/operator/whoami' })).status).toBe(401);
    const again = await https({
      path: '/api/v1/operator/login',
      body: { operator: 'ada', passphrase },
    });
    token = again.json<{ token: string }>().token;
  });

  test('OpenAPI comes from the schemas and leaves out what HTTPS does not serve', async () => {
    const document = (await https({ path: '/openapi.json', method: 'GET' })).json<{
      paths: Record<string, { post: unknown }>;
    }>();
    expect(Object.keys(document.paths)).toContain('/api/v1/invite/create');
    expect(Object.keys(document.paths)).not.toContain('/api/v1/cluster/init');
    expect(JSON.stringify(document.paths['/api/v1/invite/create'])).toContain('"ttlMs"');
  });

  test('[trellis:H8] the bundle is resumable, and nothing beside it can be had', async () => {
    const whole = await https({ path: '/bundle/trellis.tar', method: 'GET' });
    expect([whole.status, whole.text.length]).toEqual([200, 100_000]);
    const rest = await https({
      path: '/bundle/trellis.tar',
      method: 'GET',
      headers: { range: 'bytes=99990-' },
    });
    expect([rest.status, rest.text.length, rest.headers['content-range']]).toEqual([
      206,
      10,
      'bytes 99990-99999/100000',
    ]);
    for (const path of [
      '/bundle/../api.sock',
      '/bundle/%2e%2e/api.sock',
      '/bundle/.',
      '/bundle/',
      '/bundle//etc/passwd',
    ]) {
      expect((await https({ path, method: 'GET' })).status).toBe(404);
    }
  });

  test('events are followed as they happen', async () => {
    const event = {
      host: 'h1',
      seq: 1,
      atWallMs: 1,
      kind: 'instance.died',
      severity: 'info' as const,
      text: 'one',
    };
    world.events.push(event);
    const outgoing = httpRequest({ socketPath: world.socket, path: '/api/v1/events' });
    const got: string[] = [];
    outgoing.on('response', (response) =>
      response.on('data', (chunk: Buffer) => got.push(chunk.toString())),
    );
    outgoing.on('error', () => {});
    outgoing.end();
    await eventually(() => got.join('').includes('"text":"one"'), { withinMs: 5_000 });
    world.events.push({ ...event, seq: 2, text: 'two' });
    world.changed();
    await eventually(
      () => got.join('').includes('event: instance.died\ndata: {"host":"h1","seq":2'),
      { withinMs: 5_000 },
    );
    expect(got.join('').match(/"text":"one"/g)).toHaveLength(1);
    outgoing.destroy();
    await eventually(() => world.api.counters().eventFollowers === 0, { withinMs: 5_000 });
  });

  test('failed logins are throttled per address', async () => {
    const other = await startWorld(cluster);
    const attempt = (pass: string): Promise<Answer> =>
      overHttps(other, cluster.founding.caPem, {
        path: '/api/v1/operator/login',
        body: { operator: 'ada', passphrase: pass },
      });
    try {
      const answers = await Promise.all(Array.from({ length: 8 }, (_, i) => attempt(`wrong ${i}`)));
      expect(answers.filter((answer) => errorOf(answer) === 'LOGIN_REFUSED')).toHaveLength(5);
      const throttled = await attempt(passphrase);
      expect([throttled.status, errorOf(throttled)]).toEqual([429, 'LOGIN_THROTTLED']);
      expect(Number(throttled.headers['retry-after'])).toBeGreaterThan(0);
      const local = await overSocket(other, {
        path: '/api/v1/operator/login',
        body: { operator: 'ada', passphrase },
      });
      expect(local.status).toBe(200);
    } finally {
      await other.stop();
    }
  });

  test('[trellis:H8] curl reaches any of two peers with the cluster’s certificate alone', async () => {
    const peer = await startWorld(cluster, { certificate: await certificateFor(cluster, 'h2') });
    const foreign = await newCluster();
    const stranger = await startWorld(foreign);
    const ca = join(world.dir, 'ca.pem');
    writeFileSync(ca, cluster.founding.caPem);
    const curl = (port: number, host = 'shop.trellis.internal'): Promise<{ stdout: string }> =>
      run('curl', [
        '--silent',
        '--show-error',
        '--fail',
        '--max-time',
        '10',
        '--cacert',
        ca,
        '--connect-to',
        `::127.0.0.1:${port}`,
        `https://${host}/join`,
      ]);
    try {
      for (const { port } of [world, peer])
        expect((await curl(port)).stdout).toContain('echo joining');
      expect((await curl(peer.port, 'h2.trellis.internal')).stdout).toContain('echo joining');
      expect((await curl(world.port, '127.0.0.1')).stdout).toContain('echo joining');
      await expect(curl(stranger.port)).rejects.toMatchObject({ code: 60 });
      await expect(curl(peer.port, 'h1.trellis.internal')).rejects.toMatchObject({ code: 60 });
    } finally {
      await peer.stop();
      await stranger.stop();
    }
  });

  test('a stolen issuing key is worth nothing outside the cluster’s own names', async () => {
    const certificate = await issueCertificate({
      authority: cluster.founding.certificates,
      dnsNames: ['bank.example.org', 'shop.trellis.internal'],
      addresses: [],
      nowWallMs: Date.now(),
    });
    const evil = await startWorld(cluster, { certificate });
    const ca = join(world.dir, 'ca2.pem');
    writeFileSync(ca, cluster.founding.caPem);
    try {
      for (const host of ['bank.example.org', 'shop.trellis.internal']) {
        const call = run('curl', [
          '-sS',
          '--max-time',
          '10',
          '--cacert',
          ca,
          '--connect-to',
          `::127.0.0.1:${evil.port}`,
          `https://${host}/join`,
        ]);
        await expect(call).rejects.toMatchObject({ code: 60 });
      }
      await expect(
        overHttps(evil, cluster.founding.caPem, { path: '/healthz', method: 'GET' }),
      ).rejects.toThrow(/permitted subtree violation/);
    } finally {
      await evil.stop();
    }
  });

  test('a renewed certificate is taken up without a restart', async () => {
    const served = (): Promise<string> =>
      new Promise((resolve, reject) => {
        const socket = tlsConnect(
          {
            host: '127.0.0.1',
            port: world.port,
            ca: cluster.founding.caPem,
            servername: 'shop.trellis.internal',
          },
          () => {
            resolve(socket.getPeerCertificate().fingerprint256);
            socket.destroy();
          },
        );
        socket.on('error', reject);
      });
    const before = await served();
    world.api.setCertificate(await certificateFor(cluster, 'h1'));
    expect(await served()).not.toBe(before);
  });

  test('floods of connections, garbage and slow or endless requests are bounded', async () => {
    const sockets: Socket[] = [];
    try {
      for (let i = 0; i < 200; i++) {
        const socket = connect(world.port, '127.0.0.1');
        socket.on('error', () => {});
        sockets.push(socket);
      }
      await eventually(() => world.api.counters().connectionsRefused >= 100, { withinMs: 10_000 });
      expect(world.api.counters().httpsConnections).toBeLessThanOrEqual(64);
    } finally {
      for (const socket of sockets) socket.destroy();
    }
    await eventually(() => world.api.counters().httpsConnections === 0, { withinMs: 10_000 });
    for (let i = 0; i < 50; i++) {
      const socket = connect(world.port, '127.0.0.1', () =>
        socket.end('\x16\x03garbage'.repeat(1_000)),
      );
      socket.on('error', () => {});
    }
    await eventually(() => world.api.counters().handshakesFailed >= 40, { withinMs: 10_000 });
    await eventually(() => world.api.counters().httpsConnections === 0, { withinMs: 10_000 });
    const endless = https({ path: '/api/v1/join', body: 'x'.repeat(64 << 20) });
    const answer = await endless.catch((error: { code: string }) => error.code);
    expect(typeof answer === 'string' ? answer : String(answer.status)).toMatch(
      /EPIPE|ECONNRESET|413/,
    );
    expect((await https({ path: '/healthz', method: 'GET' })).status).toBe(200);
  });
});

test('whoever is slow to shake hands, to ask or to finish asking is cut off', async () => {
  const limits = { handshakeMsMax: 200, headersMsMax: 200, requestMsMax: 400 };
  const strict = await startWorld(cluster, { limits });
  const closed = (socket: Socket): Promise<void> =>
    new Promise((resolve) =>
      socket
        .on('error', () => {})
        .once('close', () => resolve())
        .resume(),
    );
  const secure = (text: string): Socket => {
    const tls = {
      host: '127.0.0.1',
      port: strict.port,
      ca: cluster.founding.caPem,
      servername: 'shop.trellis.internal',
    };
    const socket = tlsConnect(tls, () => socket.write(text));
    return socket;
  };
  try {
    await Promise.all([
      closed(connect(strict.port, '127.0.0.1')),
      closed(secure('GET /healthz HTTP/1.1\r\nHost: x\r\n')),
      closed(
        secure(
          'POST /api/v1/join HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{',
        ),
      ),
    ]);
  } finally {
    await strict.stop();
  }
});

test('a line without an end is refused before it fills the memory', async () => {
  async function* source(): AsyncGenerator<Buffer> {
    for (;;) yield Buffer.alloc(1 << 20, 'x');
  }
  await expect(readJsonLines(source()).next()).rejects.toMatchObject({ code: 'INVALID' });
});
