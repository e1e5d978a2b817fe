/** Service names and numbers with real packets, in namespaces, without an engine: containers are namespaces on a bridge. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { LocalHost } from '../../bootstrap/local-cluster/local-host.ts';
import { eventually } from '../await.ts';
import { callNames, portOf, tablesOf, viewOf, virtualAddress } from '../testbed/names-calls.ts';
import { namesStateDir } from '../testbed/names-runner.ts';
import { requestLoop } from '../testbed/request-loop.ts';
import { Testbed } from '../testbed/testbed.ts';

let bed: Testbed;
let h1: LocalHost;
let h2: LocalHost;

const url = `http://${virtualAddress}:20001/`;

/** A network namespace on the host's bridge with a web server that answers its name; address 172.31.N.M. */
async function addContainer(host: LocalHost, name: string, last: number): Promise<string> {
  const address = `172.31.${host.index}.${last}`;
  await host.mustExec(`
    mkdir -p /srv/${name}; echo ${name} > /srv/${name}/index.html
    ip netns add ${name}
    ip link add v${name} type veth peer name eth0 netns ${name}
    ip link set v${name} master tb0 up
    ip -n ${name} link set lo up
    ip -n ${name} link set eth0 up
    ip -n ${name} addr add ${address}/24 dev eth0
    ip -n ${name} route add default via 172.31.${host.index}.1`);
  await host.spawn([
    'nsenter',
    `--net=/run/netns/${name}`,
    'busybox',
    'httpd',
    '-f',
    '-p',
    '80',
    '-h',
    `/srv/${name}`,
  ]);
  const ready = `curl -fs -m 1 http://${address}/`;
  await eventually(async () => (await host.exec(ready)).code === 0, { withinMs: 5_000 });
  return address;
}

async function setUpBridge(host: LocalHost): Promise<void> {
  await host.mustExec(`
    ip link add tb0 type bridge
    ip addr add 172.31.${host.index}.1/24 dev tb0
    ip link set tb0 up
    echo 1 > /proc/sys/net/ipv4/ip_forward
    ${engineRules(host, 'iptables-nft')}`);
}

/** What an engine would have set up: nothing passes but what its containers begin. */
function engineRules({ index }: LocalHost, iptables: string): string {
  return `${iptables} -P FORWARD DROP
    ${iptables} -t nat -A POSTROUTING -s 172.31.${index}.0/24 ! -o tb0 -j MASQUERADE
    ${iptables} -A FORWARD -o tb0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    ${iptables} -A FORWARD -i tb0 ! -o tb0 -j ACCEPT`;
}

/** Answers of 30 requests, each with how often it came. */
async function ask(host: LocalHost, to: string, from?: string): Promise<Record<string, number>> {
  const enter = from === undefined ? '' : `nsenter --net=/run/netns/${from}`;
  const script = `for i in $(seq 30); do ${enter} curl -s -m 1 ${to} || echo FAILED; done | sort | uniq -c`;
  const lines = (await host.mustExec(script, { timeoutMs: 90_000 })).trim().split('\n');
  return Object.fromEntries(
    lines
      .map((line) => line.trim().split(' ').toReversed() as [string, string])
      .map(([name, count]) => [name, Number(count)]),
  );
}

beforeAll(async () => {
  bed = await Testbed.create({ hosts: 2, engines: false });
  [h1, h2] = [bed.host(0), bed.host(1)];
  await Promise.all([setUpBridge(h1), setUpBridge(h2)]);
  await Promise.all([
    addContainer(h1, 'c1', 11),
    addContainer(h1, 'c2', 12),
    addContainer(h2, 'd1', 11),
  ]);
}, 60_000);

afterAll(() => bed?.destroy());

const c1 = '172.31.0.11';
const c2 = '172.31.0.12';
const d1 = '172.31.1.11';

describe.each(['iptables-nft', 'iptables-legacy'])('service addresses with %s', (iptables) => {
  const config = { iptables, hostsFile: '/etc/hosts' };
  const both = () => viewOf(h1, [portOf({ local: [c1, c2], remote: [h2.ip] })]);
  const second = () => viewOf(h2, [portOf({ local: [d1], remote: [h1.ip] })]);

  beforeAll(async () => {
    if (iptables !== 'iptables-legacy') return;
    // The legacy tables do not see the set-up that was made with the others.
    const flush = 'iptables-nft -F; iptables-nft -t nat -F; iptables-nft -P FORWARD ACCEPT';
    for (const host of bed.hosts) await host.mustExec(`${flush}\n${engineRules(host, iptables)}`);
  });

  it('lead from host and containers to local and remote instances, balanced [trellis:R8]', async () => {
    const [result] = await Promise.all([
      callNames(h1, { action: 'reconcile', view: both(), config, times: 2 }),
      callNames(h2, { action: 'reconcile', view: second(), config }),
    ]);
    expect(result.outcomes[0]?.failures).toEqual([]);
    expect(result.outcomes[0]?.changes.length).toBeGreaterThan(1);
    expect(result.outcomes[1]).toMatchObject({ changes: [], failures: [] });
    expect(result.report?.ports[0]).toMatchObject({
      service: 'site',
      number: 20_001,
      inbound: 'forwarded',
    });
    console.log(
      `${iptables}: reconcile took ${result.outcomes.map(({ tookMs }) => tookMs).join(', then ')} ms`,
    );

    expect(Object.keys(await ask(h1, url)).toSorted()).toEqual(['c1', 'c2', 'd1']);
    expect(Object.keys(await ask(h1, url, 'c1')).toSorted()).toEqual(['c2', 'd1']);
    expect(Object.keys(await ask(h1, url, 'c2')).toSorted()).toEqual(['c1', 'd1']);
    const fromSecond = await ask(h2, url, 'd1');
    expect(fromSecond['FAILED']).toBeUndefined();
    expect(Object.keys(fromSecond).every((name) => ['c1', 'c2'].includes(name))).toBe(true);
    // By name, as programs on the host do.
    const named = Object.keys(await ask(h2, 'http://site.prod.internal:20001/'));
    expect(named).toContain('d1');
    expect(named).not.toContain('FAILED');
  });

  it('lead by the advertised address to the instances of that host only', async () => {
    const own = `http://${h1.ip}:20001/`;
    for (const answers of [
      await ask(h1, own),
      await ask(h2, own),
      await ask(h2, own, 'd1'),
      await ask(h1, own, 'c1'),
    ]) {
      expect(Object.keys(answers).every((name) => ['c1', 'c2'].includes(name))).toBe(true);
    }
    expect(Object.keys(await ask(h1, `http://${h2.ip}:20001/`, 'c1'))).toEqual(['d1']);
  });

  it('lead a single instance to itself', async () => {
    await callNames(h1, {
      action: 'reconcile',
      view: viewOf(h1, [portOf({ local: [c1] })]),
      config,
    });
    expect(await ask(h1, url, 'c1')).toEqual({ c1: 30 });
    expect(await ask(h1, `http://${h1.ip}:20001/`, 'c1')).toEqual({ c1: 30 });
    // The same on hosts that do not show bridged frames to the packet filter.
    const bridgeFilter = '/proc/sys/net/bridge/bridge-nf-call-iptables';
    const usual = await h1.mustExec(`cat ${bridgeFilter} 2>/dev/null || echo none`);
    if (usual.trim() !== '1') return;
    await h1.mustExec(`echo 0 > ${bridgeFilter}`);
    expect(await ask(h1, url, 'c1')).toEqual({ c1: 30 });
    expect(await ask(h1, url, 'c2')).toEqual({ c1: 30 });
    await h1.mustExec(`echo 1 > ${bridgeFilter}`);
  });

  it('follow changing targets without a failed request, while no plugin runs in between', async () => {
    await callNames(h1, { action: 'reconcile', view: both(), config });
    const loop = await requestLoop(h1, { url, everyMs: 10 });
    await eventually(() => loop.peek().ok > 20, { withinMs: 5_000 });
    for (const port of [
      portOf({ remote: [h2.ip] }),
      portOf({ local: [c2] }),
      portOf({ local: [c1, c2], remote: [h2.ip] }),
    ]) {
      await callNames(h1, { action: 'reconcile', view: viewOf(h1, [port]), config });
      const seen = loop.peek().ok;
      await eventually(() => loop.peek().ok > seen + 10, { withinMs: 5_000 });
    }
    const { ok, failed, longestGapMs } = await loop.stop();
    console.log(
      `${iptables}: ${ok} requests, ${failed} failed, longest gap ${Math.round(longestGapMs)} ms`,
    );
    expect(failed).toBe(0);
  });

  it('are refused at once, not lost, when no instance is live', async () => {
    await callNames(h1, { action: 'reconcile', view: viewOf(h1, [portOf({})]), config });
    for (const enter of ['', 'nsenter --net=/run/netns/c1']) {
      expect((await h1.exec(`${enter} curl -s -m 2 ${url}`)).code).toBe(7); // Could not connect; 28 would be a time-out.
    }
  });

  it('are repaired when somebody flushes them', async () => {
    const view = both();
    await callNames(h1, { action: 'reconcile', view, config });
    await h1.mustExec(
      `${iptables} -t nat -F TRELLIS-NAT-00000000; ${iptables} -t nat -D PREROUTING -j TRELLIS-NAT-00000000; ip addr del ${virtualAddress}/32 dev lo`,
    );
    const repaired = await callNames(h1, { action: 'reconcile', view, config, times: 2 });
    expect(repaired.outcomes.map(({ changes }) => changes.length)).toEqual([2, 0]);
    expect((await ask(h1, url, 'c1'))['FAILED']).toBeUndefined();
  });

  it('leave a number that another program listens on to that program', async () => {
    const view = both();
    const listener = await h1.spawn(['busybox', 'httpd', '-f', '-p', '20001', '-h', '/tmp']);
    await eventually(
      async () => (await h1.exec(`curl -s -m 1 http://127.0.0.1:20001/`)).code === 0,
      { withinMs: 5_000 },
    );
    const { outcomes, report } = await callNames(h1, { action: 'reconcile', view, config });
    expect(outcomes[0]?.failures).toMatchObject([{ item: 'site/http', code: 'PORT_TAKEN' }]);
    expect(report?.ports[0]?.inbound).toBe('taken');
    expect(
      await h2.mustExec(`curl -s -m 2 -o /dev/null -w '%{http_code}' http://${h1.ip}:20001/`),
    ).toBe('404');
    expect((await ask(h1, url))['FAILED']).toBeUndefined();
    await listener.signal('KILL');
    await listener.exited;
    const again = await callNames(h1, { action: 'reconcile', view, config });
    expect(again.outcomes[0]?.failures).toEqual([]);
    expect((await ask(h2, `http://${h1.ip}:20001/`))['FAILED']).toBeUndefined();
  });

  it('move datagrams of a known flow to a new target', async () => {
    const udp = portOf({ name: 'dns', protocol: 'udp', number: 20_002, container: 5300 });
    const answer = (name: string) =>
      `require('dgram').createSocket('udp4').on('message',function(m,r){this.send('${name}',r.port,r.address)}).bind(5300)`;
    for (const name of ['c1', 'c2'])
      await h1.spawn(['nsenter', `--net=/run/netns/${name}`, process.execPath, '-e', answer(name)]);
    // One socket, one flow: asks every 20 ms and prints each answer.
    const client = `const s=require('dgram').createSocket('udp4');s.on('message',m=>console.log(String(m)));s.bind(7777);setInterval(()=>s.send('x',20002,'${virtualAddress}'),20)`;
    await callNames(h1, {
      action: 'reconcile',
      view: viewOf(h1, [{ ...udp, local: [c1] }]),
      config,
    });
    const asking = await h1.spawn([process.execPath, '-e', client]);
    await eventually(() => asking.log().trimEnd().endsWith('c1'), { withinMs: 5_000 });
    await callNames(h1, {
      action: 'reconcile',
      view: viewOf(h1, [{ ...udp, local: [c2] }]),
      config,
    });
    await eventually(() => asking.log().trimEnd().endsWith('c2'), { withinMs: 5_000 });
    await asking.signal('KILL');
  });

  it('come back after a reboot from what was left on disk', async () => {
    const sorted = async () => (await tablesOf(h1, iptables)).split('\n').toSorted();
    const own = viewOf(h1, [portOf({ local: [c1, c2] })]);
    await callNames(h1, { action: 'reconcile', view: own, config });
    const ownRules = await sorted();
    await callNames(h1, { action: 'reconcile', view: both(), config });
    const script = `${namesStateDir}/restore.sh`;
    const rules = await sorted();
    await h1.mustExec(`ip addr del ${virtualAddress}/32 dev lo
      ${iptables} -t nat -F; ${iptables} -t nat -X; ${iptables} -F; ${iptables} -X
      ${engineRules(h1, iptables)}`);
    expect((await h1.exec(`curl -s -m 2 ${url}`)).code).not.toBe(0);
    await h1.mustExec(script);
    await h1.mustExec(script);
    // A host that boots alone reaches what it runs itself; others are asked again when a daemon knows of them.
    expect(await sorted()).toEqual(ownRules);
    expect((await ask(h1, url, 'c1'))['FAILED']).toBeUndefined();
    const after = await callNames(h1, { action: 'reconcile', view: both(), config });
    expect(after.outcomes[0]).toMatchObject({ changes: [expect.any(String)], failures: [] });
    expect(await sorted()).toEqual(rules);
  });

  it('go without a trace, and nothing else goes', async () => {
    await callNames(h1, { action: 'purge', view: both(), config });
    await h1.mustExec(
      `${iptables} -A INPUT -s 9.9.9.9/32 -j DROP; ${iptables} -t nat -N MINE || true; ${iptables} -t nat -A MINE -p tcp --dport 20001 -j RETURN`,
    );
    h1.writeFile('/etc/hosts', '127.0.0.1 localhost\n# mine\n10.0.0.9 other.internal', 0o640);
    const tables = await tablesOf(h1, iptables);
    const hosts = h1.readFile('/etc/hosts');
    await callNames(h1, { action: 'reconcile', view: both(), config });
    expect(await tablesOf(h1, iptables)).not.toBe(tables);
    expect(h1.readFile('/etc/hosts')).toContain(`${virtualAddress} site.prod.internal`);
    expect(await h1.mustExec('stat -c %a /etc/hosts')).toBe('640\n');
    await callNames(h1, { action: 'purge', view: both(), config });
    expect(await tablesOf(h1, iptables)).toBe(tables);
    expect(h1.readFile('/etc/hosts')).toBe(hosts);
    expect(await h1.mustExec('ip addr show dev lo')).not.toContain(virtualAddress);
    expect(await h1.mustExec(`ls ${namesStateDir}`)).toBe('');
    await callNames(h1, { action: 'purge', view: both(), config });
    await callNames(h2, { action: 'purge', view: second(), config });
  });
});

describe('names on odd hosts', () => {
  it('keep names and address where iptables is missing, and say what to install', async () => {
    const view = viewOf(h1, [portOf({ local: [c1] })]);
    const { outcomes } = await callNames(h1, {
      action: 'reconcile',
      view,
      config: { iptables: 'iptables-none' },
    });
    expect(outcomes[0]?.failures).toMatchObject([
      { item: 'rules', code: 'TOOL_MISSING', isTransient: true },
    ]);
    expect(h1.readFile('/etc/hosts')).toContain('site.prod.internal');
    await callNames(h1, { action: 'purge', view, config: { iptables: 'iptables-none' } });
    expect(h1.readFile('/etc/hosts')).not.toContain('site.prod.internal');
  });

  it('write a hosts file that is a mount point in place', async () => {
    await h2.mustExec('cp /etc/hosts /tmp/hosts; mount --bind /tmp/hosts /etc/hosts');
    const view = viewOf(h2, [portOf({ local: [d1] })]);
    const { outcomes } = await callNames(h2, { action: 'reconcile', view });
    expect(outcomes[0]?.failures).toEqual([]);
    expect(await h2.mustExec('cat /tmp/hosts')).toContain('site.prod.internal');
    expect(await h2.mustExec('ls /etc | grep -c trellis-new || true')).toBe('0\n');
    await callNames(h2, { action: 'purge', view });
    expect(await h2.mustExec('cat /tmp/hosts')).not.toContain('site.prod.internal');
  });
});
