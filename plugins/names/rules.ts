/**
 * The packet filter rules that make service numbers work, as text for iptables-restore. Pure.
 *
 * Three chains of our own, named after the host so that several daemons on one machine share none:
 * - NAT, entered from PREROUTING and OUTPUT: (virtual address, number) goes to one of all live targets, (advertised
 *   address, number) to one of the containers on this host;
 * - POST, entered from POSTROUTING: what was sent to the virtual address leaves with the address of the interface it
 *   leaves by, because the target cannot answer to a link-local source, and because two containers of one bridge would
 *   otherwise answer each other directly, past the translation;
 * - FWD, entered from FORWARD and DOCKER-USER: what we translated may pass, whatever the engine's policy.
 *
 * Balancing: of n targets rule i (from 0) takes a new connection with probability 1/(n-i), the last takes the rest: 1/n
 * each. A container is not sent to itself while there is another target: a frame that has to leave by the bridge port
 * it came in by passes only in hairpin mode, which a container that restarts while no daemon runs does not have.
 */
import type { HostId } from '../../crdt/ids.ts';
import type { RoutePort } from '../api.ts';
import { cutOff, isIpv4, isSubnet, type UsableRoute } from './usable-routes.ts';

export interface RuleInputs {
  readonly hostId: HostId;
  readonly virtualAddress: string;
  readonly advertise: string;
  /** See `usableRoutes`: checked, sorted, no number twice. */
  readonly routes: readonly UsableRoute[];
  /**
   * False when the advertised address is on no interface (behind a one-to-one translation, as in clouds): then what
   * arrives has another address of this host.
   */
  readonly isAdvertiseLocal: boolean;
  /** Subnets of the bridges on which local containers are, e.g. '172.30.1.0/24'. */
  readonly bridgeSubnets: readonly string[];
  /** Numbers that another program listens on here, as 'tcp/20001': left out of what arrives from outside. */
  readonly taken: ReadonlySet<string>;
}

export interface Jump {
  readonly table: 'nat' | 'filter';
  readonly from: string;
  readonly to: string;
}

export interface RuleSet {
  /** Rules of our chains, in order, as iptables-save prints them. */
  readonly nat: readonly string[];
  readonly filter: readonly string[];
  readonly chains: Chains;
  readonly jumps: readonly Jump[];
}

export interface Chains {
  readonly nat: string;
  readonly post: string;
  readonly forward: string;
}

/** At most 28 characters each: what iptables allows. */
export function chainsOf(hostId: HostId): Chains {
  const suffix = hostId.slice(0, 8);
  return {
    nat: `TRELLIS-NAT-${suffix}`,
    post: `TRELLIS-POST-${suffix}`,
    forward: `TRELLIS-FWD-${suffix}`,
  };
}

/** Jumps into our chains. DOCKER-USER only where the engine has made it: it stays ahead of the engine's own rules. */
export function jumpsOf(chains: Chains): Jump[] {
  return [
    { table: 'nat', from: 'PREROUTING', to: chains.nat },
    { table: 'nat', from: 'OUTPUT', to: chains.nat },
    { table: 'nat', from: 'POSTROUTING', to: chains.post },
    { table: 'filter', from: 'FORWARD', to: chains.forward },
    { table: 'filter', from: 'DOCKER-USER', to: chains.forward },
  ];
}

export function renderRules(inputs: RuleInputs): RuleSet {
  const chains = chainsOf(inputs.hostId);
  const post = [
    `-A ${chains.post} -m conntrack --ctstate DNAT --ctorigdst ${inputs.virtualAddress} -j MASQUERADE`,
  ];
  const forward = [
    `-A ${chains.forward} -m conntrack --ctstate DNAT --ctorigdst ${inputs.virtualAddress} -j ACCEPT`,
  ];
  const nat: string[] = [];
  for (const route of inputs.routes) nat.push(...virtualRules(chains.nat, inputs, route));
  const origin = inputs.isAdvertiseLocal ? ` --ctorigdst ${inputs.advertise}` : '';
  const inbound = inputs.routes.filter((route) => hasInbound(inputs, route));
  for (const route of inbound) {
    nat.push(...inboundRules(chains.nat, inputs, route));
    forward.push(
      `-A ${chains.forward} -p ${route.port.protocol} -m conntrack --ctstate DNAT${origin} --ctorigdstport ${route.port.number} -j ACCEPT`,
    );
  }
  if (inbound.length > 0) {
    for (const subnet of inputs.bridgeSubnets.toSorted()) {
      if (!isSubnet(subnet)) continue;
      post.push(
        `-A ${chains.post} -s ${subnet} -d ${subnet} -m conntrack --ctstate DNAT${origin} -j MASQUERADE`,
      );
    }
  }
  return { nat: [...nat, ...post], filter: forward, chains, jumps: jumpsOf(chains) };
}

/** Whether others reach this host's instances of the port by its number. */
export function hasInbound(
  inputs: Pick<RuleInputs, 'advertise' | 'taken'>,
  { port }: UsableRoute,
): boolean {
  if (!isIpv4(inputs.advertise) || inputs.advertise.startsWith('127.')) return false;
  return inboundOf(port).length > 0 && !inputs.taken.has(`${port.protocol}/${port.number}`);
}

/** 'address:port' of everything that may get a connection to the virtual address, local containers first. */
export function targetsOf(port: RoutePort): Target[] {
  return [
    ...port.local.map((address) => ({
      address,
      to: `${address}:${port.container}`,
      isLocal: true,
    })),
    ...port.remote.map((address) => ({ address, to: `${address}:${port.number}`, isLocal: false })),
  ];
}

/** Container addresses that get what other hosts send here. */
export function inboundOf(port: RoutePort): readonly string[] {
  return port.inbound ?? port.local;
}

export interface Target {
  readonly address: string;
  readonly to: string;
  readonly isLocal: boolean;
}

function virtualRules(chain: string, inputs: RuleInputs, route: UsableRoute): string[] {
  return balance(chain, `-d ${inputs.virtualAddress}/32`, route, targetsOf(route.port));
}

function inboundRules(chain: string, inputs: RuleInputs, route: UsableRoute): string[] {
  const local = targetsOf({ ...route.port, local: inboundOf(route.port), remote: [] });
  if (inputs.isAdvertiseLocal) return balance(chain, `-d ${inputs.advertise}/32`, route, local);
  return balance(chain, '', route, local, '-m addrtype --dst-type LOCAL ');
}

function balance(
  chain: string,
  destination: string,
  { service, port }: UsableRoute,
  targets: readonly Target[],
  match = '',
): string[] {
  const rule = (source: string, share: string, to: string) => {
    const ends = [source, destination]
      .filter((part) => part !== '')
      .map((part) => `${part} `)
      .join('');
    return (
      `-A ${chain} ${ends}-p ${port.protocol} -m ${port.protocol} --dport ${port.number} ${match}` +
      `-m comment --comment "${cutOff(`${service}/${port.name}`)}" ${share}-j DNAT --to-destination ${to}`
    );
  };
  const isAlone = targets.length === 1;
  const rules = targets.map((target, i) => {
    const source = target.isLocal && !isAlone ? `! -s ${target.address}/32` : '';
    const left = targets.length - i;
    const share =
      left === 1 ? '' : `-m statistic --mode random --probability ${probability(left)} `;
    return rule(source, share, target.to);
  });
  const [first, last] = [targets[0], targets.at(-1)];
  // The last rule takes the rest, but not from its own target: that goes to the first.
  if (!isAlone && first && last?.isLocal) rules.push(rule(`-s ${last.address}/32`, '', first.to));
  return rules;
}

/** 1/left, as the kernel can hold it (a multiple of 2^-31) and as iptables-save prints it. */
export function probability(left: number): string {
  const unit = 2 ** 31;
  return (Math.round(unit / left) / unit).toFixed(11);
}

/** What iptables-restore --noflush must read to bring the tables from what is there to `rules`. */
export function restoreText(
  rules: RuleSet,
  edits: { readonly nat: readonly string[]; readonly filter: readonly string[] },
): string {
  const { chains } = rules;
  return [
    // The permission to pass comes before the translation that needs it.
    '*filter',
    `:${chains.forward} - [0:0]`,
    ...rules.filter,
    ...edits.filter,
    'COMMIT',
    '*nat',
    `:${chains.nat} - [0:0]`,
    `:${chains.post} - [0:0]`,
    ...rules.nat,
    ...edits.nat,
    'COMMIT',
    '',
  ].join('\n');
}
