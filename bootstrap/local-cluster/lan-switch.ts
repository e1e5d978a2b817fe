/**
 * The switch that joins local hosts: a bridge in a network namespace of its own, so that no engine's packet filter on
 * the machine sees its frames. It can cut, lose and slow, per host and per direction.
 *
 * Losses and one-way cuts are an nftables bridge table that is rendered whole from what is wanted and replaced in one
 * transaction at each change. The switch itself has the gateway address, so that a host which is cut off also loses
 * its gateway, and knows no other network: packets to anywhere else are answered "unreachable" at once.
 */
import { mustRun } from './run-command.ts';
import { ClusterError } from '../../daemon/errors.ts';

export const gatewayAddress = '10.44.0.254';
export const prefixLength = 24;

export function hostAddress(index: number): string {
  return `10.44.0.${index + 1}`;
}

/** Bytes at the host's port of the switch, from the host's side. */
export interface Traffic {
  readonly sentBytes: number;
  readonly receivedBytes: number;
}

export class LanSwitch {
  /** Process that keeps the namespace. */
  readonly pid: number;
  readonly #cut = new Set<number>();
  /** 'from>to' */
  readonly #dropped = new Set<string>();
  readonly #lossPercent = new Map<number, number>();
  readonly #kbit = new Map<number, number>();
  /** One change at a time: two renders must not overtake each other. */
  #queue: Promise<unknown> = Promise.resolve();

  constructor(pid: number) {
    this.pid = pid;
  }

  /** Makes the bridge; once per namespace. */
  async setUp(): Promise<void> {
    await this.#inside(`
      ip link set lo up
      ip link add br0 type bridge
      ip addr add ${gatewayAddress}/${prefixLength} dev br0
      ip link set br0 up
      echo 1 > /proc/sys/net/ipv4/ip_forward`);
  }

  /** Plugs a host in: its end becomes eth0 in the namespace of `initPid`. */
  async plug(host: number, initPid: number): Promise<void> {
    await this.unplug(host);
    await this.#inside(`
      ip link add ${port(host)} type veth peer name eth0 address ${macAddress(host)} netns ${initPid}
      ip link set ${port(host)} master br0
      ip link set ${port(host)} ${this.#cut.has(host) ? 'down' : 'up'}
      ${this.#slowCommand(host)}`);
  }

  /** Removes the port and with it the host's eth0, if there is one. */
  async unplug(host: number): Promise<void> {
    await this.#inside(`ip link del ${port(host)} 2>/dev/null || true`);
  }

  /** Nothing in, nothing out: the link is down at the switch, the host still believes in its own. */
  async cut(host: number): Promise<void> {
    this.#cut.add(host);
    await this.#inside(`ip link set ${port(host)} down`);
  }

  /** Undoes everything that was done to this host: cut, one-way cuts, loss, slowness. */
  async heal(host: number): Promise<void> {
    this.#cut.delete(host);
    this.#lossPercent.delete(host);
    const wasSlow = this.#kbit.delete(host);
    for (const pair of this.#dropped) {
      if (pair.split('>').includes(String(host))) this.#dropped.delete(pair);
    }
    await this.#render();
    await this.#inside(
      `ip link set ${port(host)} up${wasSlow ? `\ntc qdisc del dev ${port(host)} root` : ''}`,
    );
  }

  async healAll(): Promise<void> {
    const hosts = new Set([...this.#cut, ...this.#lossPercent.keys(), ...this.#kbit.keys()]);
    this.#dropped.clear();
    await this.#render();
    for (const host of hosts) await this.heal(host);
  }

  /** Drops every frame from one host to another; the way back stays open. */
  async oneWay(from: number, to: number): Promise<void> {
    this.#dropped.add(`${from}>${to}`);
    await this.#render();
  }

  /** Loses this share of the frames from and, independently, to the host; 0 ends it. */
  async lose(host: number, percent: number): Promise<void> {
    if (!(percent >= 0 && percent <= 100))
      throw new ClusterError('INVALID', { reason: `loss of ${percent} percent` });
    this.#lossPercent.set(host, percent);
    await this.#render();
  }

  /** Limits what reaches the host to this rate; 0 ends it. (What it sends is limited at the receivers.) */
  async slow(host: number, kbit: number): Promise<void> {
    const wasSlow = this.#kbit.has(host);
    if (kbit > 0) this.#kbit.set(host, kbit);
    else this.#kbit.delete(host);
    await this.#inside(
      `${wasSlow ? `tc qdisc del dev ${port(host)} root` : ''}\n${this.#slowCommand(host)}`,
    );
  }

  /** Hosts of different groups cannot reach each other; replaces earlier partitions and one-way cuts. */
  async partition(groups: readonly (readonly number[])[]): Promise<void> {
    this.#dropped.clear();
    groups.forEach((group, i) => {
      const others = groups.filter((_, j) => j !== i).flat();
      for (const from of group) for (const to of others) this.#dropped.add(`${from}>${to}`);
    });
    await this.#render();
  }

  /** Bytes since the host was plugged in (frames, with their headers). */
  async traffic(host: number): Promise<Traffic> {
    const [link] = JSON.parse(await this.#inside(`ip -s -j link show ${port(host)}`)) as [
      { stats64: { rx: { bytes: number }; tx: { bytes: number } } },
    ];
    return { sentBytes: link.stats64.rx.bytes, receivedBytes: link.stats64.tx.bytes };
  }

  #slowCommand(host: number): string {
    const kbit = this.#kbit.get(host);
    if (kbit === undefined) return '';
    return `tc qdisc add dev ${port(host)} root tbf rate ${kbit}kbit burst ${Math.max(16, kbit >> 6)}kb latency 400ms`;
  }

  #render(): Promise<string> {
    const losses = [...this.#lossPercent].filter(([, percent]) => percent > 0);
    const loss = (keyword: string) =>
      losses.map(
        ([host, percent]) =>
          `${keyword} "${port(host)}" numgen random mod 1000 <= ${Math.ceil(percent * 10) - 1} drop`,
      );
    const drops = [...this.#dropped].map((pair) => {
      const [from, to] = pair.split('>').map(Number) as [number, number];
      return `iifname "${port(from)}" oifname "${port(to)}" drop`;
    });
    const chain = (hook: string, rules: string[]) =>
      `chain ${hook} {\ntype filter hook ${hook} priority 0;\n${rules.join('\n')}\n}`;
    const text = [
      'table bridge faults {}',
      'delete table bridge faults',
      'table bridge faults {',
      chain('forward', [...drops, ...loss('iifname'), ...loss('oifname')]),
      chain('input', loss('iifname')),
      chain('output', loss('oifname')),
      '}',
    ].join('\n');
    return this.#inNamespace(['nft', '-f', '-'], text);
  }

  #inside(script: string): Promise<string> {
    return this.#inNamespace(['sh', '-e', '-s'], script);
  }

  #inNamespace(command: string[], input: string): Promise<string> {
    const run = () =>
      mustRun('nsenter', ['-t', String(this.pid), '-n', '--', ...command], { input });
    const result = this.#queue.then(run);
    this.#queue = result.catch(() => undefined); // The caller gets the error; the next change goes on.
    return result;
  }
}

/** A card keeps its address over a reboot; a new one would hide behind the neighbours' caches for seconds. */
function macAddress(host: number): string {
  return `02:54:00:00:00:${(host + 1).toString(16).padStart(2, '0')}`;
}

function port(host: number): string {
  return `p${host}`;
}
