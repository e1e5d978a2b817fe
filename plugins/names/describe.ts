/** What `trellis names show` says: where each name and number leads on this host, and why. Pure. */
import type { DesiredView } from '../api.ts';
import { chainsOf, inboundOf, targetsOf, type Chains } from './rules.ts';
import { itemOf, usableRoutes, type UsableRoute } from './usable-routes.ts';

export interface NamesReport {
  readonly virtualAddress: string;
  readonly advertise: string;
  readonly chains: Chains;
  readonly hostsFile: string | null;
  readonly ports: readonly PortReport[];
  /** What could not be done, as in the last reconcile. */
  readonly failures: readonly {
    readonly item: string;
    readonly code: string;
    readonly message: string;
  }[];
}

export interface PortReport {
  readonly service: string;
  readonly port: string;
  /** '<service>.<env>.internal'; empty when the view gives the service no name. */
  readonly name: string;
  readonly protocol: 'tcp' | 'udp';
  readonly number: number;
  /** Where connections to the name and number go, with the share of new ones (0 to 1). */
  readonly targets: readonly {
    readonly to: string;
    readonly share: number;
    readonly why: string;
  }[];
  /** What others get who come to this host's address with the number. */
  readonly inbound: 'forwarded' | 'taken' | 'nothing-here';
  readonly why: string;
}

export function describeNames(
  view: DesiredView,
  state: {
    readonly taken: ReadonlySet<string>;
    readonly hostsFile: string | null;
    readonly failures: NamesReport['failures'];
  },
): NamesReport {
  const names = new Map(view.routes.map((route) => [route.service, route.name]));
  return {
    virtualAddress: view.virtualAddress,
    advertise: view.advertise,
    chains: chainsOf(view.hostId),
    hostsFile: state.hostsFile,
    ports: usableRoutes(view).routes.map((route) =>
      describePort(route, names.get(route.service) ?? '', state.taken),
    ),
    failures: state.failures.map(({ item, code, message }) => ({ item, code, message })),
  };
}

function describePort(route: UsableRoute, name: string, taken: ReadonlySet<string>): PortReport {
  const { port } = route;
  const targets = targetsOf(port);
  const isTaken = taken.has(`${port.protocol}/${port.number}`);
  const inbound = inboundOf(port).length === 0 ? 'nothing-here' : isTaken ? 'taken' : 'forwarded';
  return {
    service: route.service,
    port: port.name,
    name,
    protocol: port.protocol,
    number: port.number,
    targets: targets.map(({ to, address, isLocal }) => ({
      to,
      share: 1 / targets.length,
      why: isLocal
        ? 'instance on this host'
        : `instances on the host at ${address}, which balances between its own`,
    })),
    inbound,
    why: whyOf(itemOf(route), targets.length, inbound),
  };
}

function whyOf(item: string, targets: number, inbound: PortReport['inbound']): string {
  if (targets === 0) return `no instance of ${item} is live: connections are refused`;
  if (inbound === 'taken')
    return 'another program on this host listens on the number: others are not served from here';
  return `${targets} live ${targets === 1 ? 'target' : 'targets'}`;
}
