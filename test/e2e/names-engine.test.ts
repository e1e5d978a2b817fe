/** Service addresses beside a real engine, which sets FORWARD to DROP and rewrites its own rules when it starts. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { LocalHost } from '../../bootstrap/local-cluster/local-host.ts';
import { eventually } from '../await.ts';
import { makeImage, webImage } from '../testbed/image.ts';
import { callNames, portOf, tablesOf, viewOf, virtualAddress } from '../testbed/names-calls.ts';
import { namesStateDir } from '../testbed/names-runner.ts';
import { requestLoop } from '../testbed/request-loop.ts';
import { Testbed } from '../testbed/testbed.ts';

let bed: Testbed;
let h1: LocalHost;
let h2: LocalHost;
let untouched: string;

const url = `http://${virtualAddress}:20001/`;
const local = '172.30.9.11';
const view = () => viewOf(h1, [portOf({ local: [local] })]);
const consumer = () => viewOf(h2, [portOf({ remote: [h1.ip] })]);

const get = (host: LocalHost, to: string) =>
  host.exec(`curl -fs -m 2 ${to}`).then(({ stdout }) => stdout.trim());
const getFrom = (container: string, to: string) =>
  h1.docker(['exec', container, 'curl', '-fs', '-m', '2', to]).then(({ stdout }) => stdout.trim());

beforeAll(async () => {
  bed = await Testbed.create({ hosts: 2, engines: true });
  [h1, h2] = [bed.host(0), bed.host(1)];
  await webImage(h1, 'demo/site:1', 'one');
  await makeImage(h1, 'demo/curl:1', { programs: ['/usr/bin/curl'] });
  await h1.mustExec(`
    docker network create --subnet 172.30.9.0/24 -o com.docker.network.bridge.name=tr-test site
    docker run -d --name web --restart unless-stopped --network site --ip ${local} demo/site:1
    docker run -d --name other --restart unless-stopped demo/curl:1
    docker run -d --name beside --restart unless-stopped --network site --ip 172.30.9.12 demo/curl:1`);
  untouched = await tablesOf(h1);
  const results = await Promise.all([
    callNames(h1, { action: 'reconcile', view: view(), times: 2 }),
    callNames(h2, { action: 'reconcile', view: consumer() }),
  ]);
  expect(results[0].outcomes[1]).toMatchObject({ changes: [], failures: [] });
}, 90_000);

afterAll(() => bed?.destroy());

/**
 * From hosts and from a container of the same network always; from one of another network (`isRepaired`) only as long as
 * the engine has not put its walls before our rules, which the next reconcile undoes.
 */
async function expectReachable({ isRepaired }: { isRepaired: boolean }): Promise<void> {
  expect(await h1.mustExec('iptables -S FORWARD')).toContain('-P FORWARD DROP');
  const ways = [
    () => get(h1, url),
    () => get(h2, url),
    () => get(h2, `http://${h1.ip}:20001/`),
    () => getFrom('beside', url),
    ...(isRepaired ? [() => getFrom('other', url)] : []),
  ];
  for (const way of ways)
    await eventually(async () => (await way()) === 'one', { withinMs: 10_000, what: String(way) });
}

describe('service addresses beside an engine', { timeout: 90_000 }, () => {
  it('pass its DROP policy and the walls between its networks [trellis:R8]', async () => {
    await expectReachable({ isRepaired: true });
    // The number is ours alone: nothing is published by the engine.
    expect((await h1.docker(['port', 'web'])).stdout).toBe('');
    expect(await h1.mustExec('iptables -S DOCKER-USER')).toContain('-j TRELLIS-FWD-00000000');
  });

  it('go on when the engine restarts and when a container restarts, without the daemon [trellis:R3]', async () => {
    h1.configureEngine({ 'live-restore': true });
    await h1.mustExec('kill -HUP $(cat /run/docker.pid)');
    const loop = await requestLoop(h2, { url, everyMs: 20 });
    await h1.stopEngine('kill');
    await h1.startEngine();
    await expectReachable({ isRepaired: false });
    await h1.stopEngine('stop');
    await h1.startEngine();
    await expectReachable({ isRepaired: false });
    expect(loop.peek().failed).toBe(0);
    await h1.mustExec('docker restart -t 0 web');
    await expectReachable({ isRepaired: false });
    const result = await loop.stop();
    console.log(
      `restart of the container: ${result.failed} of ${result.ok + result.failed} failed, gap ${Math.round(result.longestGapMs)} ms`,
    );
    const { outcomes } = await callNames(h1, { action: 'reconcile', view: view() });
    expect(outcomes[0]?.failures).toEqual([]);
    const again = await callNames(h1, { action: 'reconcile', view: view() });
    expect(again.outcomes[0]).toMatchObject({ changes: [], failures: [] });
    await expectReachable({ isRepaired: true });
  });

  it('let a container that restarted without the daemon reach itself after the next reconcile', async () => {
    await h1.mustExec('docker restart -t 0 web');
    await callNames(h1, { action: 'reconcile', view: view() });
    const pid = (await h1.mustExec("docker inspect -f '{{.State.Pid}}' web")).trim();
    expect(await h1.mustExec(`nsenter -t ${pid} -n curl -fs -m 2 ${url}`)).toBe('one\n');
  });

  it.each(['before', 'after'])(
    'come back from disk when the script runs %s the engine starts [trellis:R3]',
    async (order) => {
      await h1.powerCut();
      await h1.boot();
      if (order === 'before') await h1.mustExec(`${namesStateDir}/restore.sh`);
      await h1.startEngine();
      if (order === 'after') await h1.mustExec(`${namesStateDir}/restore.sh`);
      await expectReachable({ isRepaired: false });
      const { outcomes } = await callNames(h1, { action: 'reconcile', view: view() });
      expect(outcomes[0]?.failures).toEqual([]);
      await expectReachable({ isRepaired: true });
    },
  );

  it('leave the engine as it was', async () => {
    await callNames(h1, { action: 'purge', view: view() });
    const sorted = (text: string) => text.split('\n').toSorted();
    expect(sorted(await tablesOf(h1))).toEqual(sorted(untouched));
  });
});
