/** `trellis names show`: the stable names and numbers of services, and where this host sends them. */
import { z } from 'zod';
import { compareText } from '../../crdt/codec.ts';
import type { Service, ServicePort } from '../../crdt/model.ts';
import { virtualAddressOf } from '../../crdt/virtual-address.ts';
import type { NodeApi } from '../node-api.ts';
import type { NameRow } from './answers.ts';
import { define, envParam, findHost, nodeOf, params, runOn } from './common.ts';
import { hostFactOf, instancesOf } from './host-rows.ts';
import type { Operation } from './operation.ts';

export const namesOperations: readonly Operation[] = [
  define({
    group: 'names',
    command: 'show',
    summary: 'names and numbers of services',
    access: 'viewer',
    isMutation: false,
    params: params({ ...envParam, host: z.string().max(64).optional() }),
    run: (context, given): Promise<unknown> => {
      const node = nodeOf(context, given);
      const host = given.host === undefined ? null : findHost(node, given.host);
      if (host === null || host.id === node.self.host) return Promise.resolve(nameRows(node));
      return runOn(context, host, { group: 'names', command: 'show', params: {} });
    },
  }),
];

export function serviceName(node: NodeApi, service: string): string {
  return `${service}.${node.env}.internal`;
}

function nameRows(node: NodeApi): NameRow[] {
  const view = node.envView();
  return [...view.services.values()]
    .toSorted((a, b) => compareText(a.name, b.name))
    .flatMap((service) =>
      service.ports.map((port) => {
        const number = view.numbers.get(`${service.name}/${port.name}`) ?? null;
        return {
          service: service.name,
          name: serviceName(node, service.name),
          address: virtualAddressOf(node.clusterId),
          port: port.name,
          protocol: port.protocol,
          number,
          container: port.container,
          targets: targetsOf(node, { service, port, number }),
        };
      }),
    );
}

/** As the facts say: own containers by their address, other hosts by their advertised one. */
function targetsOf(
  node: NodeApi,
  what: { service: Service; port: ServicePort; number: number | null },
): string[] {
  const targets = new Set<string>();
  for (const host of node.hosts()) {
    if (host.liveness === 'dead' || host.liveness === 'left') continue;
    for (const fact of instancesOf(node, host).instances) {
      const isUsable = fact.state === 'running' && fact.health !== 'unhealthy';
      if (fact.service !== what.service.name || !isUsable) continue;
      if (host.id === node.self.host) {
        if (fact.address !== null) targets.add(`${fact.address}:${what.port.container}`);
      } else if (what.number !== null) {
        const address = host.address ?? hostFactOf(node, host)?.advertise;
        if (address !== undefined) targets.add(`${address}:${what.number}`);
      }
    }
  }
  return [...targets].toSorted(compareText);
}
