/**
 * keepalived on the hosts of a testbed: what an address alone needs to move. It has no quorum, so two hosts have the address
 * in a partition, and it starts nothing: the same web server runs on all hosts all the time.
 */
import type { HostProcess, LocalHost } from '../../bootstrap/local-cluster/local-host.ts';
import { eventually } from '../await.ts';
import { image } from './engine-api.ts';
import { powerCutUntilAnswer } from './failover.ts';

export const keepalivedName = 'keepalived (advert 0.2 s, no quorum, address only)';
const address = '10.44.0.200';
const port = 8_081;
const askEveryMs = 20;

/** The package is there. */
export async function hasKeepalived(host: LocalHost): Promise<boolean> {
  return (await host.exec('command -v keepalived')).code === 0;
}

/** Milliseconds from each power-cut of the host that has the address to the first answer there. */
export async function keepalivedFailovers(
  hosts: readonly LocalHost[],
  rounds: number,
): Promise<number[]> {
  const found: number[] = [];
  const daemons = new Map<LocalHost, HostProcess>();
  for (const host of hosts) {
    await host.mustExec(`docker run -d --name kept --restart always -p ${port}:80 ${image}`);
    daemons.set(host, await startOn(host));
  }
  for (let round = 0; round < rounds; round++) {
    const victim = await holder(hosts);
    const left = hosts.filter((host) => host !== victim);
    // The one that does not take over: it has to hear of the new place of the address.
    const observer = left.at(-1) as LocalHost;
    const urls = [`http://${address}:${port}/hostname`];
    found.push(await powerCutUntilAnswer({ victim, observer, urls, everyMs: askEveryMs }));
    await victim.boot();
    await victim.startEngine();
    daemons.set(victim, await startOn(victim));
  }
  for (const host of hosts) {
    await daemons.get(host)?.signal('TERM');
    await host.mustExec('docker rm -f kept');
  }
  return found;
}

/** None of them takes the address back from another: so do ours not. */
async function startOn(host: LocalHost): Promise<HostProcess> {
  host.writeFile(
    '/run/keepalived-bench.conf',
    `global_defs { router_id ${host.name}
  vrrp_version 3
}
vrrp_instance bench {
  state BACKUP
  nopreempt
  interface eth0
  virtual_router_id 51
  priority ${200 - host.index}
  advert_int 0.2
  virtual_ipaddress { ${address}/24 }
}
`,
  );
  const files = '-f /run/keepalived-bench.conf -p /run/keepalived-bench.pid -r /run/vrrp-bench.pid';
  return host.spawn(`keepalived --dont-fork --log-console --vrrp ${files}`, {
    label: 'keepalived',
  });
}

async function holder(hosts: readonly LocalHost[]): Promise<LocalHost> {
  return eventually(
    async () => {
      const shown = await Promise.all(hosts.map((host) => host.mustExec('ip -o addr show eth0')));
      const found = hosts.filter((_, index) => shown[index]?.includes(`${address}/`));
      return found.length === 1 ? found[0] : null;
    },
    { withinMs: 30_000, everyMs: 250, what: 'one host has the address' },
  );
}
