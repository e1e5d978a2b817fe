/**
 * Picks from the view what may become rules. Part of it comes from facts of other hosts, and rules are text that root's
 * tools read: nothing that is not exactly an address, a number or a plain name gets past here.
 */
import type { DesiredView, ItemFailure, RoutePort } from '../api.ts';

export interface UsableRoute {
  readonly service: string;
  readonly port: RoutePort;
}

/** Ports with a number that one host forwards; beyond it ports are left out and reported. */
export const routesMax = 10_000;
export const targetsMax = 256;
const commentCharsMax = 200;

export interface UsableRoutes {
  /** Sorted by number and protocol: the same whatever the order in the view. */
  readonly routes: readonly UsableRoute[];
  readonly failures: readonly ItemFailure[];
}

export function usableRoutes(view: Pick<DesiredView, 'routes' | 'advertise'>): UsableRoutes {
  const failures: ItemFailure[] = [];
  const byNumber = new Map<string, UsableRoute>();
  const all = view.routes.flatMap(({ service, ports }) => ports.map((port) => ({ service, port })));
  all.sort(
    (a, b) =>
      compare(a.service, b.service) ||
      compare(a.port.name, b.port.name) ||
      a.port.number - b.port.number,
  );
  for (const route of all) {
    const reason = unusable(route);
    const key = `${route.port.protocol}/${route.port.number}`;
    const other = byNumber.get(key);
    if (reason !== null)
      failures.push(failure(route, 'INVALID', `${reason}; it gets no forwarding rule`));
    else if (other) {
      failures.push(
        failure(
          route,
          'CONFLICT',
          `number ${route.port.number} is also ${itemOf(other)}'s, which is forwarded; give one of them another number`,
        ),
      );
    } else if (byNumber.size >= routesMax) {
      failures.push(
        failure(route, 'INVALID', `more than ${routesMax} ports; it gets no forwarding rule`),
      );
    } else byNumber.set(key, { service: route.service, port: cleaned(route.port, view.advertise) });
  }
  const routes = [...byNumber.values()];
  routes.sort((a, b) => a.port.number - b.port.number || compare(a.port.protocol, b.port.protocol));
  return { routes, failures };
}

export function itemOf({ service, port }: UsableRoute): string {
  return `${service}/${port.name}`;
}

export function isIpv4(text: string): boolean {
  const parts = text.split('.');
  return (
    parts.length === 4 &&
    parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) <= 255)
  );
}

export function isSubnet(text: string): boolean {
  const [address = '', length = ''] = text.split('/');
  return (
    isIpv4(address) && /^([1-9]|[12]\d|3[0-2])$/.test(length) && text === `${address}/${length}`
  );
}

export function isPort(number: number): boolean {
  return Number.isInteger(number) && number >= 1 && number <= 65_535;
}

/** For a rule's comment: what cannot end the quotes or the line, and is short enough for the kernel. */
export function cutOff(text: string): string {
  return text.replaceAll(/[^A-Za-z0-9/._-]/g, '_').slice(0, commentCharsMax);
}

export function failure(route: UsableRoute, code: string, message: string): ItemFailure {
  return { item: itemOf(route), code, message, isTransient: false };
}

function unusable({ port }: UsableRoute): string | null {
  if (!isPort(port.number)) return `${port.number} is no port number`;
  if (!isPort(port.container)) return `${port.container} is no port number`;
  if (port.protocol !== 'tcp' && port.protocol !== 'udp')
    return `protocol ${String(port.protocol)} is unknown`;
  return null;
}

/** Without what is no IPv4 address, without this host among the others, sorted, bounded. */
function cleaned(port: RoutePort, advertise: string): RoutePort {
  const usable = (addresses: readonly string[]) =>
    [...new Set(addresses.filter(isIpv4))].toSorted(compare).slice(0, targetsMax);
  return {
    ...port,
    local: usable(port.local),
    ...(port.inbound === undefined ? {} : { inbound: usable(port.inbound) }),
    remote: usable(port.remote).filter((address) => address !== advertise),
  };
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
