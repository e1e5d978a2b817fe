/**
 * From bare machine to member and back, for real: hosts that never saw Trellis, no network but the bridge between them.
 * What a host has written to its disk is exactly its upper directory, so "nothing is left" can be compared file by file.
 */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { buildBundle } from '../../bootstrap/build.ts';
import { repoDir, type LocalHost } from '../../bootstrap/local-cluster/local-host.ts';
import { eventually } from '../await.ts';
import { Testbed } from '../testbed/testbed.ts';

let bed: Testbed;
let dir: string;
let bundle: string;

beforeAll(async () => {
  dir = mkdtempSync('/var/tmp/trellis-install-');
  bundle = (await buildBundle(dir)).file;
  bed = await Testbed.create({ hosts: 4, engines: true, hasTrellis: false });
}, 240_000);

afterAll(async () => {
  await bed?.destroy();
  rmSync(dir, { recursive: true, force: true });
});

/** Everything the host has on its own disk, without what engines and logs write by themselves. */
function written(host: LocalHost): string[] {
  const upper = path.join(host.dir, 'upper');
  const files = readdirSync(upper, { recursive: true, withFileTypes: true });
  return files
    .filter((entry) => !entry.isDirectory())
    .map((entry) => path.relative(upper, path.join(entry.parentPath, entry.name)))
    .filter(
      (file) =>
        !/^(var\/lib\/docker|var\/lib\/containerd|var\/cache|var\/lib\/apt|etc\/hosts$)/.test(file),
    )
    .sort();
}

async function json<T>(host: LocalHost, ...args: string[]): Promise<T> {
  return JSON.parse(await host.mustExec(['trellis', ...args, '--json'])) as T;
}

interface Host {
  readonly name: string;
  readonly state: string;
}

async function states(host: LocalHost): Promise<string[]> {
  const found = await json<readonly Host[] | { hosts: readonly Host[] }>(host, 'host', 'ls');
  const hosts = 'hosts' in found ? found.hosts : found;
  return hosts.map(({ name, state }) => `${name} ${state}`).sort();
}

function invite(
  host: LocalHost,
  ...args: string[]
): Promise<{ id: string; command: string; code: string }> {
  return json(host, 'invite', ...args);
}

const paste = (host: LocalHost, line: string) =>
  host.exec(['sh', '-c', line], { timeoutMs: 180_000 });

describe('bare machines', { timeout: 240_000 }, () => {
  test('install.sh makes the first host from a bundle file [trellis:H9 H13 H15]', async () => {
    const command = ['sh', `${repoDir}/bootstrap/install.sh`, '--bundle', bundle, '--name', 'shop'];
    const { code, stderr } = await bed.host(0).exec(command, { timeoutMs: 180_000 });
    expect({ code, stderr }).toMatchObject({ code: 0 });
    await eventually(async () => (await states(bed.host(0))).join() === 'h1 ready', {
      withinMs: 30_000,
    });
  });

  test('a second host joins by one line, and both agree [coreos:A1 trellis:H8]', async () => {
    const { command } = await invite(bed.host(0));
    const started = performance.now();
    const { code, stderr } = await paste(bed.host(1), command);
    expect({ code, stderr }).toMatchObject({ code: 0 });
    console.log(`from line to ready: ${Math.round(performance.now() - started)} ms`);
    for (const host of [bed.host(0), bed.host(1)]) {
      await eventually(
        async () => expect(await states(host)).toEqual(['h1 ready', 'h2 ready']) ?? true,
        {
          withinMs: 30_000,
        },
      );
    }
  });

  test('the code of a used invite installs nothing and says why [trellis:H8]', async () => {
    const { command, id } = await invite(bed.host(0));
    await bed.host(0).mustExec(['trellis', 'invite', 'revoke', id, '--yes']);
    const before = written(bed.host(2));
    const { code, stderr } = await paste(bed.host(2), command);
    expect(code).toBe(3);
    expect(stderr).toContain('the invitation code was refused');
    expect(stderr).toContain('Nothing was installed');
    expect(written(bed.host(2))).toEqual(before);
  });

  test('a member is not installed over', async () => {
    const { command } = await invite(bed.host(0));
    const before = written(bed.host(1)).filter((file) => file.startsWith('usr/local'));
    const { code, stderr } = await paste(bed.host(1), command);
    expect(code).toBe(3);
    expect(stderr).toContain('already belongs to a cluster');
    expect(written(bed.host(1)).filter((file) => file.startsWith('usr/local'))).toEqual(before);
    expect((await states(bed.host(1))).sort()).toEqual(['h1 ready', 'h2 ready']);
  });

  test('a port that somebody else has is named, and that somebody is left alone [trellis:H3 H10]', async () => {
    const { command } = await invite(bed.host(0));
    const host = bed.host(2);
    const squatter = await host.spawn(['busybox', 'nc', '-l', '-p', '7440']);
    const before = written(host);
    const { code, stderr } = await paste(host, command);
    expect(code).toBe(3);
    expect(stderr).toContain('port 7440: in use by another process');
    expect(written(host)).toEqual(before);
    expect((await host.exec(['kill', '-0', String(squatter.pid)])).code).toBe(0);
    await squatter.signal('KILL');
  });

  test('a failure half-way takes everything back', async () => {
    const { command } = await invite(bed.host(0), '--host-name', 'h1');
    const host = bed.host(2);
    const before = written(host);
    const { code, stderr } = await paste(host, command);
    expect(code).not.toBe(0);
    expect(stderr).toContain('a host named h1 exists already');
    expect(stderr).toContain('nothing of this installation is left');
    expect(written(host)).toEqual(before);
    expect((await host.exec('pgrep -f [d]aemon.mjs')).stdout).toBe('');
  });

  test('the third joins through the second after the first was switched off', async () => {
    const { command } = await invite(bed.host(0));
    expect(command).toContain(`${bed.host(1).ip}:8443`);
    await bed.host(0).powerCut();
    const { code, stderr } = await paste(bed.host(3), command);
    expect({ code, stderr }).toMatchObject({ code: 0 });
    await eventually(async () => (await states(bed.host(3))).includes('h4 ready'), {
      withinMs: 30_000,
    });
  });

  test('uninstalling leaves nothing', async () => {
    const host = bed.host(3);
    const script = 'sh /usr/local/lib/trellis/*/share/install.sh uninstall';
    const { code, stderr } = await host.exec(script, { timeoutMs: 120_000 });
    expect({ code, stderr }).toMatchObject({ code: 0 });
    expect(written(host).filter((file) => file.includes('trellis'))).toEqual([]);
    expect((await host.exec('pgrep -f [d]aemon.mjs')).stdout).toBe('');
    expect((await host.exec('iptables-save')).stdout.toLowerCase()).not.toContain('trellis');
    expect((await host.exec('docker network ls')).stdout).not.toContain('trellis');
  });
});
