import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { InventoryFact } from '../../../crdt/model.ts';
import type { PluginContext } from '../../../plugins/api.ts';
import { inventoryPlugin, parseInventoryConfig } from '../../../plugins/inventory/inventory.ts';
import { scopeOf } from '../../../plugins/inventory/network.ts';
import { askEngine, ToolVersions } from '../../../plugins/inventory/tools.ts';

const tree: Record<string, string> = {
  'proc/cpuinfo':
    'processor\t: 0\nmodel name\t: Some CPU\n\nprocessor\t: 1\nmodel name\t: Some CPU\n',
  'proc/meminfo':
    'MemTotal:        1000 kB\nMemFree: 1 kB\nMemAvailable:     400 kB\nSwapTotal: 8 kB\n',
  'proc/loadavg': '0.50 0.25 0.10 1/100 4242\n',
  'proc/self/mounts':
    '/dev/sda1 / ext4 rw 0 0\nproc /proc proc rw 0 0\n/dev/sda1 /again ext4 rw 0 0\nnas:/x /mnt/nas nfs rw 0 0\n' +
    '/dev/sdb1 /srv/big\\040disk xfs rw 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n',
  'proc/self/status': 'Name:\tx\nCapEff:\t0000000000001000\n',
  'proc/sys/kernel/osrelease': '6.1.0-13-amd64\n',
  'proc/sys/kernel/random/boot_id': 'boot-of-the-kernel\n',
  'etc/os-release': 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n',
  'etc/hostname': 'h1\n',
  'etc/machine-id': 'abc123\n',
  'sys/block/sda/size': '2048\n',
  'sys/block/sda/device/model': 'Disk One  \n',
  'sys/block/sda/queue/rotational': '0\n',
  'sys/block/loop0/size': '4096\n',
  'sys/class/net/eth0/address': '52:54:00:12:34:56\n',
  'sys/class/net/eth0/mtu': '1500\n',
  'sys/class/net/eth0/flags': '0x1003\n',
  'sys/class/net/vethab12/mtu': '1500\n',
  'srv/big disk/file': 'x',
};

let root: string;

beforeEach(() => {
  root = mkdtempSync(path.join(os.tmpdir(), 'inventory-'));
  for (const [file, text] of Object.entries(tree)) {
    mkdirSync(path.dirname(path.join(root, file)), { recursive: true });
    writeFileSync(path.join(root, file), text);
  }
});

afterEach(() => rmSync(root, { recursive: true, force: true }));

function start(raw: Record<string, unknown>): {
  published: InventoryFact[];
  now: { ms: number };
  running: ReturnType<typeof inventoryPlugin.start>;
} {
  const published: InventoryFact[] = [];
  const now = { ms: 0 };
  const log = {
    debug: () => undefined,
    info: () => undefined,
    warn: () => undefined,
    error: () => undefined,
  };
  const context = {
    clock: { monotonicMs: () => now.ms, wallMs: () => 77 },
    log,
    publish: (value: InventoryFact) => published.push(value),
  } as unknown as PluginContext;
  const config = parseInventoryConfig({
    sysroot: root,
    engineEndpoint: `unix://${root}/none.sock`,
    ...raw,
  });
  return { published, now, running: inventoryPlugin.start(context, config) };
}

describe('inventory of a prepared tree [trellis:H19]', () => {
  test('reads processors, memory, disks, kernel, OS, identity and privileges', async () => {
    const { published, running } = start({});
    await running;
    expect(published).toHaveLength(1);
    expect(published[0]).toMatchObject({
      v: 1,
      takenAtWallMs: 77,
      hostname: 'h1',
      cpu: { count: 2, physicalCores: null, model: 'Some CPU' },
      memory: { totalBytes: 1_024_000, availableBytes: 409_600, swapBytes: 8_192 },
      disks: [{ name: 'sda', sizeBytes: 1 << 20, model: 'Disk One', isRotational: false }],
      kernel: { release: '6.1.0-13-amd64', cgroup: 'v1' },
      os: { id: 'debian', version: '12', name: 'Debian GNU/Linux 12 (bookworm)' },
      bootId: 'boot-of-the-kernel',
      machineId: 'abc123',
      engine: { state: 'absent', version: null },
      privileges: { isNetAdmin: true },
      load: [0.5, 0.25, 0.1],
      gaps: [],
    });
  });

  test('lists each local file system once, network ones never, and decodes spaces', async () => {
    const { running } = start({ stateDir: '/srv/big disk/state' });
    const fact = (await running).current();
    expect(fact?.filesystems.map(({ mount }) => mount)).toEqual(['/', '/srv/big disk']);
    expect(fact?.stateDisk?.mount).toBe('/srv/big disk');
  });

  test('lists interfaces with MAC, without the ends of containers', async () => {
    const fact = (await start({}).running).current();
    expect(fact?.interfaces).toEqual([
      { name: 'eth0', mac: '52:54:00:12:34:56', mtu: 1500, isUp: true, addresses: [] },
    ]);
  });

  test('names what could not be read and gives the rest', async () => {
    rmSync(path.join(root, 'proc/meminfo'));
    const fact = (await start({}).running).current();
    expect(fact?.gaps).toEqual([expect.stringContaining('proc/meminfo: ENOENT')]);
    expect(fact?.memory.totalBytes).toBe(0);
    expect(fact?.cpu.count).toBe(2);
  });

  test('takes the boot id from another file where one is named', async () => {
    writeFileSync(path.join(root, 'boot'), 'second-boot\n');
    const fact = (await start({ bootIdPath: path.join(root, 'boot') }).running).current();
    expect(fact?.bootId).toBe('second-boot');
  });
});

describe('refreshing [trellis:H20]', () => {
  test('a reconcile takes it again only when it is older than the interval', async () => {
    const { published, now, running } = start({ intervalMs: 1_000 });
    const inventory = await running;
    const reconcile = (): Promise<unknown> =>
      inventory.reconcile(
        {} as Parameters<typeof inventory.reconcile>[0],
        new AbortController().signal,
      );
    now.ms = 999;
    await reconcile();
    expect(published).toHaveLength(1);
    now.ms = 1_000;
    await reconcile();
    expect(published).toHaveLength(2);
  });

  test('rescan sees a change, and calls at the same time share one look', async () => {
    const { published, running } = start({});
    const inventory = await running;
    writeFileSync(path.join(root, 'etc/hostname'), 'renamed\n');
    const [a, b] = await Promise.all([inventory.rescan(), inventory.rescan()]);
    expect(a).toBe(b);
    expect(a.hostname).toBe('renamed');
    expect(published).toHaveLength(2);
  });
});

test('the inventory of this machine has no gaps and agrees with Node', async () => {
  const { running } = start({ sysroot: '/' });
  const fact = (await running).current();
  expect(fact?.gaps).toEqual([]);
  expect(fact?.cpu.count).toBe(os.cpus().length);
  expect(fact?.memory.totalBytes).toBeGreaterThan(0.95 * os.totalmem());
  expect(fact?.kernel.release).toBe(os.release());
  const addresses = fact?.interfaces.flatMap((one) => one.addresses.map(({ address }) => address));
  expect(addresses).toContain('127.0.0.1');
});

test('refuses bad configuration by field name', () => {
  expect(() => parseInventoryConfig({ intervalMs: 'soon' })).toThrow('intervalMs');
  expect(() => parseInventoryConfig({ sysroot: 7 })).toThrow('sysroot');
  expect(() => parseInventoryConfig([])).toThrow('object');
});

test.each([
  ['127.0.0.1', 'loopback'],
  ['10.1.2.3', 'private'],
  ['172.31.0.1', 'private'],
  ['172.32.0.1', 'public'],
  ['192.168.0.1', 'private'],
  ['100.64.0.1', 'private'],
  ['169.254.9.9', 'link'],
  ['8.8.8.8', 'public'],
  ['::1', 'loopback'],
  ['fe80::1', 'link'],
  ['fd00::1', 'private'],
  ['2001:db8::1', 'public'],
] as const)('%s is %s', (address, scope) => expect(scopeOf(address)).toBe(scope));

describe('the engine', () => {
  async function serve(
    handler: http.RequestListener,
  ): Promise<{ endpoint: string; close: () => void }> {
    const server = http.createServer(handler);
    const socket = path.join(root, 'engine.sock');
    await new Promise<void>((resolve) => server.listen(socket, resolve));
    return { endpoint: `unix://${socket}`, close: () => server.close() };
  }

  test('answers with its version', async () => {
    const { endpoint, close } = await serve((_, response) =>
      response.end(JSON.stringify({ Version: '20.10.24', ApiVersion: '1.41' })),
    );
    expect(await askEngine(endpoint)).toEqual({
      state: 'ok',
      endpoint,
      version: '20.10.24',
      apiVersion: '1.41',
    });
    close();
  });

  test('something that answers nonsense is not one', async () => {
    const { endpoint, close } = await serve((_, response) => response.end('hello'));
    expect(await askEngine(endpoint)).toMatchObject({ state: 'hung', version: null });
    close();
  });

  test('one that accepts and never answers is called hung, in bounded time', async () => {
    const held: net.Socket[] = [];
    const server = net.createServer((connection) => held.push(connection));
    const socket = path.join(root, 'hung.sock');
    await new Promise<void>((resolve) => server.listen(socket, resolve));
    expect(await askEngine(`unix://${socket}`)).toMatchObject({ state: 'hung' });
    for (const connection of held) connection.destroy();
    server.close();
  });
});

test('tool versions are asked once and again when the file changes', async () => {
  const tool = path.join(root, 'curl');
  const write = (version: string): void =>
    writeFileSync(tool, `#!/bin/sh\necho run >> ${root}/runs\necho "curl ${version} (x)"\n`, {
      mode: 0o755,
    });
  write('7.88.1');
  const tools = new ToolVersions([root]);
  expect((await tools.read())['curl']).toBe('7.88.1');
  expect((await tools.read())['curl']).toBe('7.88.1');
  write('10.2.33.4');
  const second = await tools.read();
  expect(second['curl']).toBe('10.2.33.4');
  expect(second['haproxy']).toBeNull();
});
