import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { basename } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cgroupName } from '../../bootstrap/local-cluster/run-record.ts';
import { eventually } from '../await.ts';
import { cleanUpAbandoned } from '../testbed/cleanup.ts';
import { makeImage, webImage } from '../testbed/image.ts';
import { requestLoop } from '../testbed/request-loop.ts';
import { Testbed } from '../testbed/testbed.ts';

const timings: Record<string, number> = {};

async function timed<T>(what: string, run: () => Promise<T>): Promise<T> {
  const start = performance.now();
  try {
    return await run();
  } finally {
    timings[what] = Math.round(performance.now() - start);
  }
}

let bed: Testbed;

beforeAll(async () => {
  bed = await timed('two hosts with engines', () => Testbed.create({ hosts: 2, engines: true }));
}, 60_000);

afterAll(async () => {
  await bed?.destroy();
  console.log('testbed timings, ms:', timings);
});

const ping = (from: number, to: number) =>
  bed
    .host(from)
    .exec(['busybox', 'ping', '-c', '1', '-W', '1', bed.host(to).ip])
    .then(({ code }) => code === 0);

describe('testbed', { timeout: 60_000 }, () => {
  it('gives every host a root, a name, a network and an engine of its own', async () => {
    expect(await ping(0, 1)).toBe(true);
    expect((await bed.host(0).exec('hostname')).stdout.trim()).toBe('h1');
    bed.host(0).writeFile('/etc/only-here', 'x');
    expect((await bed.host(0).exec('cat /etc/only-here')).stdout).toBe('x');
    expect((await bed.host(1).exec('cat /etc/only-here')).code).not.toBe(0);
    expect(existsSync('/etc/only-here')).toBe(false);
    const ids = await Promise.all(bed.hosts.map((host) => host.mustExec('docker info -f {{.ID}}')));
    expect(new Set(ids).size).toBe(2);
    expect((await bed.host(0).exec('exit 7')).code).toBe(7);
    expect((await bed.host(0).exec('sleep 60', { timeoutMs: 200 })).code).toBe(137);
    expect((await bed.host(0).exec('cat', { input: 'hello' })).stdout).toBe('hello');
  });

  it('cuts, heals, cuts one way, partitions, loses and slows', async () => {
    await timed('cut', () => bed.switch.cut(1));
    expect(await ping(0, 1)).toBe(false);
    await timed('heal', () => bed.switch.heal(1));
    await eventually(() => ping(0, 1), { withinMs: 5_000 });
    await bed.switch.oneWay(0, 1);
    expect(await ping(0, 1)).toBe(false);
    expect(
      await bed
        .host(0)
        .exec('busybox ping -c 1 -W 1 10.44.0.254')
        .then(({ code }) => code),
    ).toBe(0);
    await bed.switch.partition([[0], [1]]);
    expect(await ping(1, 0)).toBe(false);
    await bed.switch.healAll();
    await eventually(() => ping(0, 1), { withinMs: 5_000 });
    await bed.switch.lose(1, 100);
    expect(await ping(0, 1)).toBe(false);
    await bed.switch.lose(1, 0);
    expect(await ping(0, 1)).toBe(true);
    await bed.switch.slow(1, 256);
    const before = await bed.switch.traffic(1);
    const flood = await bed
      .host(0)
      .mustExec(`busybox ping -q -i 0.002 -c 200 -s 1000 ${bed.host(1).ip} || true`, {
        timeoutMs: 20_000,
      });
    expect(Number(/(\d+)% packet loss/.exec(flood)?.[1])).toBeGreaterThan(10);
    const after = await bed.switch.traffic(1);
    expect(after.receivedBytes - before.receivedBytes).toBeGreaterThan(10_000);
    await bed.switch.heal(1);
  });

  it('runs containers that a power cut kills and a boot finds on the same disk', async () => {
    const host = bed.host(1);
    await timed('image', () => webImage(host, 'demo/site:1', 'one'));
    await host.mustExec('docker run -d --name web --restart unless-stopped -p 8080:80 demo/site:1');
    const loop = await requestLoop(bed.host(0), {
      url: `http://${host.ip}:8080/`,
      everyMs: 20,
      timeoutMs: 300,
    });
    await eventually(() => loop.peek().ok > 5, { withinMs: 5_000 });
    await host.mustExec(
      'echo kept > /root/kept; iptables -N SOME-CHAIN; echo volatile > /run/volatile',
    );
    const bootId = await host.mustExec('cat /proc/sys/kernel/random/boot_id');

    const pid = Number(await host.mustExec("docker inspect -f '{{.State.Pid}}' web"));
    expect(pid).toBeGreaterThan(0);
    await timed('power cut', () => host.powerCut());
    expect(host.isOn).toBe(false);
    await eventually(() => loop.peek().failed > 2, { withinMs: 5_000 });
    await timed('boot without engine', () => host.boot());
    expect(host.readFile('/root/kept')).toBe('kept\n');
    expect(host.exists('/run/volatile')).toBe(false);
    expect(await host.mustExec('cat /proc/sys/kernel/random/boot_id')).not.toBe(bootId);
    expect((await host.exec('iptables -L SOME-CHAIN')).code).not.toBe(0);

    const seen = loop.peek().ok;
    await timed('engine start', () => host.startEngine());
    await eventually(() => loop.peek().ok > seen, { withinMs: 10_000 });
    const result = await loop.stop();
    expect(result.answers['one']).toBe(result.ok);
    expect(result.failed).toBeGreaterThan(0);
    timings['gap of the request loop'] = Math.round(result.longestGapMs);
  });

  it('keeps containers when the engine is killed and stops them when it is stopped', async () => {
    const host = bed.host(0);
    await makeImage(host, 'demo/idle:1');
    await host.mustExec('docker run -d --name idle demo/idle:1');
    const pid = (await host.mustExec("docker inspect -f '{{.State.Pid}}' idle")).trim();
    await host.stopEngine('kill');
    expect((await host.exec(`kill -0 ${pid}`)).code).toBe(0);
    await host.startEngine();
    await timed('engine stop', () => host.stopEngine('stop'));
    expect((await host.exec(`kill -0 ${pid}`)).code).not.toBe(0);
    await host.startEngine();
  });

  it('changes an address', async () => {
    await bed.host(1).changeAddress('10.44.0.77');
    expect(await ping(0, 1)).toBe(true);
    expect((await bed.host(0).exec('busybox ping -c 1 -W 1 10.44.0.2')).code).not.toBe(0);
  });

  it('brings up three more hosts with engines in time and leaves nothing behind', async () => {
    const start = performance.now();
    const second = await timed('three hosts with engines', () =>
      Testbed.create({ hosts: 3, engines: true }),
    );
    try {
      expect(performance.now() - start).toBeLessThan(15_000);
    } finally {
      await timed('destroy of three', () => second.destroy());
    }
    expect(existsSync(second.dir)).toBe(false);
    for (const host of second.hosts)
      expect(existsSync(`/sys/fs/cgroup/memory/${cgroupName(second.dir, host.name)}`)).toBe(false);
  });

  it('loses its hosts with a killed run, and a later run removes what is left', async () => {
    const script = `
      import { Testbed } from '${import.meta.dirname}/../testbed/testbed.ts';
      const bed = await Testbed.create({ hosts: 1, engines: false });
      console.log(JSON.stringify({ dir: bed.dir, init: bed.host(0).initPid }));
      setInterval(() => undefined, 1000);`;
    const run = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const line = await new Promise<string>((resolve) =>
      run.stdout.once('data', (chunk: Buffer) => resolve(chunk.toString())),
    );
    const { dir, init } = JSON.parse(line) as { dir: string; init: number };
    expect(existsSync(`/proc/${init}`)).toBe(true);
    expect(await cleanUpAbandoned()).not.toContain(basename(dir));
    run.kill('SIGKILL');
    await eventually(() => !existsSync(`/proc/${init}`), { withinMs: 5_000 });
    expect(existsSync(dir)).toBe(true);
    expect(await cleanUpAbandoned()).toContain(basename(dir));
    expect(existsSync(dir)).toBe(false);
  });

  it('brings up twenty hosts without engines quickly', async () => {
    const light = await timed('twenty hosts without engines', () =>
      Testbed.create({ hosts: 20, engines: false }),
    );
    try {
      expect((await light.host(19).exec(`busybox ping -c 1 -W 1 ${light.host(0).ip}`)).code).toBe(
        0,
      );
    } finally {
      await timed('destroy of twenty', () => light.destroy());
    }
  });
});
