/** The line and the script against real TLS servers on loopback; installing for real is end to end on the testbed. */
import { execFile, execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  renderCloudInit,
  renderInvitation,
  renderJoinCommand,
  renderJoinCommandWithoutCurl,
  renderJoinScript,
} from '../../../bootstrap/join-script.ts';
import { hostMinimums } from '../../../crdt/minimums.ts';
import {
  issueCertificate,
  makeCertificateAuthority,
  pemOf,
} from '../../../daemon/trust/certificates.ts';
import { parse } from 'yaml';

const root = path.resolve(import.meta.dirname, '../../..');
const code = 'ABCD-EFGH-2345';

interface Member {
  readonly server: Server;
  readonly peer: string;
  readonly seen: { path: string; body: string }[];
}

let caPem: string;
let good: Member;
let foreign: Member;
let answer = { status: 200, body: '{}' };

async function member(
  clusterName: string,
  authority: Awaited<ReturnType<typeof makeCertificateAuthority>>,
): Promise<Member> {
  const dnsNames = [`${clusterName}.trellis.internal`];
  const issued = await issueCertificate({
    authority,
    dnsNames,
    addresses: ['127.0.0.1'],
    nowWallMs: Date.now(),
  });
  const seen: { path: string; body: string }[] = [];
  const server = createServer({ key: issued.keyPem, cert: issued.certPem }, (request, response) => {
    let body = '';
    request.on('data', (chunk: Buffer) => (body += chunk.toString()));
    request.on('end', () => {
      seen.push({ path: request.url ?? '', body });
      if (request.url === '/join')
        return response.end('#!/bin/sh\necho "ran with $code and $# options"\n');
      response.statusCode = answer.status;
      return response.end(answer.body);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { server, peer: `127.0.0.1:${(server.address() as AddressInfo).port}`, seen };
}

beforeAll(async () => {
  const made = { clusterName: 'demo', clusterId: 'a'.repeat(32), nowWallMs: Date.now() };
  const authority = await makeCertificateAuthority(made);
  const other = await makeCertificateAuthority({ ...made, clusterId: 'b'.repeat(32) });
  caPem = pemOf(authority.certificateDer);
  good = await member('demo', authority);
  foreign = await member('demo', other);
});

afterAll(() => {
  good.server.close();
  foreign.server.close();
});

function target(peers: readonly string[]): {
  caPem: string;
  clusterName: string;
  peers: readonly string[];
  code: string;
} {
  return { caPem, clusterName: 'demo', peers, code };
}

function sh(
  script: string,
  options: { shell?: string; env?: Record<string, string> } = {},
): Promise<{ exit: number; out: string; err: string }> {
  return new Promise((resolve) => {
    const env = { PATH: process.env['PATH'], ...options.env };
    const child = execFile(options.shell ?? 'sh', [], { env, timeout: 20_000 }, (error, out, err) =>
      resolve({ exit: error === null ? 0 : Number(error.code), out, err }),
    );
    child.stdin?.end(script);
  });
}

const dead = '127.0.0.1:1';

describe.each([
  ['curl', renderJoinCommand],
  ['openssl', renderJoinCommandWithoutCurl],
] as const)('the line with %s [coreos:A1 trellis:H8]', (_, render) => {
  test.each(['dash', 'bash'])('runs the script of a member in %s, with the code', async (shell) => {
    const { out, exit } = await sh(render(target([good.peer])), { shell });
    expect({ out, exit }).toEqual({ out: `ran with ${code} and 0 options\n`, exit: 0 });
  });

  test('is one line, passes options on, and tries the next peer when one is off', async () => {
    const line = render({ ...target([dead, good.peer]), options: ['--name', 'h2'] });
    expect(line).not.toContain('\n');
    expect((await sh(line)).out).toBe(`ran with ${code} and 2 options\n`);
  });

  test('runs nothing that comes from a stranger', async () => {
    const before = foreign.seen.length;
    const { out, exit } = await sh(render(target([foreign.peer])));
    expect(out).toBe('');
    expect(exit).not.toBe(0);
    expect(foreign.seen).toHaveLength(before);
  });

  test('a stranger before a member is passed over', async () => {
    expect((await sh(render(target([foreign.peer, good.peer])))).out).toContain('ran with');
  });

  test('leaves the code in no variable', async () => {
    const { out } = await sh(`${render(target([good.peer]))}\nset | grep -c ${code} || true\n`);
    expect(out).toContain('\n0\n');
  });
});

describe('the script', () => {
  const needy = {
    ...hostMinimums,
    cpuCount: 9999,
    memoryBytes: 2 ** 60,
    diskFreeBytes: 2 ** 60,
    kernel: '99.1',
  };

  /** Only as far as the checks: nothing is installed with --check. */
  async function check(options: {
    peers: readonly string[];
    minimums?: typeof needy;
    path?: string;
    given?: string;
    ports?: number[];
  }) {
    // Which ports are free on this machine is not the test's to say.
    const { peers, minimums, ports = [] } = options;
    const script = renderJoinScript({
      caPem,
      clusterName: 'demo',
      peers,
      ports,
      ...(minimums && { minimums }),
    });
    const env = options.path === undefined ? {} : { PATH: options.path };
    const first = `set -- --check --no-engine\ncode=${options.given ?? code}\n`;
    return sh(first + script, { env });
  }

  test('is valid for sh, dash and busybox', () => {
    const script = renderJoinScript({ caPem, clusterName: 'demo', peers: [good.peer] });
    for (const [command, ...args] of [
      ['sh', '-n'],
      ['dash', '-n'],
      ['busybox', 'sh', '-n'],
    ] as const) {
      execFileSync(command, args, { input: script });
    }
    expect(script).not.toMatch(/@[A-Z_]+@/);
  });

  test('asks a member about the code, on no command line, before anything else', async () => {
    answer = { status: 200, body: '{}' };
    good.seen.length = 0;
    const { err, exit } = await check({ peers: [dead, good.peer] });
    expect(err).toContain('can join demo; nothing was installed');
    expect(exit).toBe(0);
    expect(good.seen).toEqual([{ path: '/api/v1/join/check', body: JSON.stringify({ code }) }]);
  });

  test('does the same without curl', async () => {
    answer = { status: 200, body: '{}' };
    good.seen.length = 0;
    const bin = mkdtempSync(path.join(os.tmpdir(), 'no-curl-'));
    const tools = 'sh mktemp id uname cat awk getconf df grep head sed tr openssl date timeout rm';
    for (const tool of tools.split(' ')) symlinkSync(`/usr/bin/${tool}`, path.join(bin, tool));
    const { exit, err } = await check({ peers: [good.peer], path: bin });
    rmSync(bin, { recursive: true });
    expect({ exit, err }).toMatchObject({ exit: 0 });
    expect(good.seen).toEqual([{ path: '/api/v1/join/check', body: JSON.stringify({ code }) }]);
  });

  test('a refused code: clear words, exit 3, nothing installed [trellis:H8]', async () => {
    const message =
      'the invitation code was refused: it has expired; ask for a new one with `trellis invite`';
    answer = { status: 403, body: JSON.stringify({ error: { code: 'INVITE_REFUSED', message } }) };
    const { err, exit } = await check({ peers: [good.peer] });
    expect(err).toContain(`${message}. Nothing was installed`);
    expect(exit).toBe(3);
  });

  test('lists every shortfall at once, exit 3 [trellis:H10 H14]', async () => {
    answer = { status: 200, body: '{}' };
    const { err, exit } = await check({ peers: [good.peer], minimums: needy });
    expect(err).toMatch(/cpu: have \d+, need at least 9999/);
    expect(err).toMatch(/memory: have \d+ MiB, need at least 1099511627776 MiB/);
    expect(err).toMatch(/disk: have \d+ MiB free/);
    expect(err).toMatch(/kernel: have \S+, need at least 99\.1/);
    expect(exit).toBe(3);
  });

  test('a port that is taken is a shortfall', async () => {
    answer = { status: 200, body: '{}' };
    const port = Number(good.peer.split(':')[1]);
    const { err, exit } = await check({ peers: [good.peer], ports: [port] });
    expect(err).toContain(`port ${port}: in use by another process, must be free`);
    expect(exit).toBe(3);
  });

  test('no member answers, or only strangers: exit 1 and nothing was sent', async () => {
    const before = foreign.seen.length;
    const { err, exit } = await check({ peers: [dead, foreign.peer] });
    expect(err).toContain('no member of demo answered');
    expect(exit).toBe(1);
    expect(foreign.seen).toHaveLength(before);
  });

  test('what is no code is refused before any member is asked', async () => {
    const { exit, err } = await check({ peers: [good.peer], given: "'a\"b'" });
    expect({ exit, err }).toMatchObject({
      exit: 2,
      err: expect.stringContaining('not an invitation code'),
    });
  });

  test('half a script does nothing', async () => {
    const script = renderJoinScript({ caPem, clusterName: 'demo', peers: [good.peer] });
    const before = good.seen.length;
    const { out } = await sh(
      `code=${code}\n${script.slice(0, script.lastIndexOf('code=${code-}'))}`,
    );
    expect(out).toBe('');
    expect(good.seen).toHaveLength(before);
  });

  test('the numbers are those of the inventory, also in install.sh', () => {
    const script = renderJoinScript({ caPem, clusterName: 'demo', peers: [good.peer] });
    const install = readFileSync(path.join(root, 'bootstrap/install.sh'), 'utf8');
    const lines = [
      `min_cpus=${hostMinimums.cpuCount}`,
      `min_memory_mib=${hostMinimums.memoryBytes / 2 ** 20}`,
      `min_disk_mib=${hostMinimums.diskFreeBytes / 2 ** 20}`,
      `min_kernel=${hostMinimums.kernel}`,
      `min_engine=${hostMinimums.engine}`,
    ];
    for (const line of lines) {
      expect(script).toContain(`\n${line}\n`);
      expect(install).toContain(`\n${line}\n`);
    }
  });
});

test('cloud-init user data runs the same line', () => {
  const line = renderJoinCommand(target(['10.0.0.1:8443']));
  const data = parse(renderCloudInit(target(['10.0.0.1:8443']))) as {
    write_files: { path: string; permissions: string; content: string }[];
    runcmd: string[][];
  };
  expect(data.write_files[0]).toEqual({
    path: '/run/trellis-join.sh',
    permissions: '0700',
    content: `#!/bin/sh\n${line}\n`,
  });
  expect(data.runcmd).toHaveLength(2);
});

test.each([
  [{ peers: [] }, 'no address'],
  [{ peers: ['10.0.0.1;reboot:1'] }, 'ADDRESS:PORT'],
  [{ clusterName: 'a b' }, 'DNS label'],
  [{ caPem: "'; reboot" }, 'PEM'],
  [{ code: '$(reboot)' }, 'malformed code'],
  [{ options: ['--name', '`x`'] }, 'cannot stand'],
])('values that could break out of the line are refused: %j', (change, reason) => {
  expect(() => renderJoinCommand({ ...target(['10.0.0.1:8443']), ...change })).toThrow(reason);
});

test('install.sh is valid for sh, dash and busybox', () => {
  for (const file of ['install.sh', 'install-common.sh', 'trellis.sh']) {
    const input = readFileSync(path.join(root, 'bootstrap', file));
    for (const [command, ...args] of [
      ['sh', '-n'],
      ['dash', '-n'],
      ['busybox', 'sh', '-n'],
    ] as const) {
      execFileSync(command, args, { input });
    }
  }
});

test('an invitation is handed over as a line with curl, a line without, or user data [trellis:H8]', () => {
  const of = target(['10.0.0.1:8443']);
  expect(renderInvitation(of, 'curl')).toBe(renderJoinCommand(of));
  expect(renderInvitation(of, 'openssl')).toBe(renderJoinCommandWithoutCurl(of));
  expect(renderInvitation(of, 'cloud-init')).toBe(renderCloudInit(of));
});
