/** Questions to the engine of a host, the same for us and for peers. */
import { eventually } from '../await.ts';
import { mustRun } from '../../bootstrap/local-cluster/run-command.ts';
import type { LocalHost } from '../../bootstrap/local-cluster/local-host.ts';
import { webImage } from '../testbed/image.ts';
import { ask } from './daemons.ts';

/** No registry answers there: who wants to pull it is refused at once and takes the one that is here. */
export const image = 'localhost:1/bench:1';

export function engineSocket(host: LocalHost): string {
  return `${host.rootPath}/run/docker.sock`;
}

/** A small web server, the same image on every engine. */
export async function spreadImage(hosts: readonly LocalHost[]): Promise<void> {
  const [first, ...others] = hosts as [LocalHost, ...LocalHost[]];
  await webImage(first, image, 'bench');
  await first.mustExec(`docker save -o /run/bench.tar ${image}`);
  for (const host of others) {
    await mustRun('cp', [`${first.rootPath}/run/bench.tar`, `${host.rootPath}/run/bench.tar`]);
    await host.mustExec('docker load -q -i /run/bench.tar', { timeoutMs: 60_000 });
  }
}

/** Names of running containers, of all kinds. */
export async function runningOn(host: LocalHost): Promise<readonly string[]> {
  const { status, text } = await ask(engineSocket(host), '/containers/json');
  if (status !== 200)
    throw new Error(`the engine of ${host.name}: ${status} ${text.slice(0, 200)}`);
  return (JSON.parse(text) as { Names: string[] }[]).map(({ Names }) => Names[0] ?? '');
}

export async function runningOnAll(hosts: readonly LocalHost[]): Promise<readonly string[]> {
  return (await Promise.all(hosts.filter((host) => host.isOn).map(runningOn))).flat();
}

/** Resolves when exactly `count` containers run whose name holds `part`. */
export async function untilRunning(
  hosts: readonly LocalHost[],
  part: string,
  count: number,
  withinMs: number,
): Promise<void> {
  await eventually(
    async () => {
      const found = (await runningOnAll(hosts)).filter((name) => name.includes(part)).length;
      if (found !== count) throw new Error(`${found} of ${count} containers of ${part} run`);
      return true;
    },
    { withinMs, everyMs: 50, what: `${count} containers of ${part}` },
  );
}

/** Index of the one host on which a container with this name part runs. */
export async function hostRunning(hosts: readonly LocalHost[], part: string): Promise<number> {
  for (const host of hosts.filter((one) => one.isOn)) {
    if ((await runningOn(host)).some((name) => name.includes(part))) return host.index;
  }
  throw new Error(`${part} runs nowhere`);
}
