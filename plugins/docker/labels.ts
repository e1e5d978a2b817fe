/** Labels of our containers: how they are found again, and what was wanted when they were made. */
import type { HostId, ClusterId } from '../../crdt/ids.ts';

export const label = {
  cluster: 'trellis.cluster',
  host: 'trellis.host',
  env: 'trellis.env',
  service: 'trellis.service',
  serviceId: 'trellis.service-id',
  instance: 'trellis.instance',
  /** Hash of the desired instance. */
  spec: 'trellis.spec',
  /** What this host added: fixed address and published ports. */
  bind: 'trellis.bind',
  /** Only on what is exclusive: the lease under whose gate it is. */
  lease: 'trellis.lease',
} as const;

export interface Self {
  readonly clusterId: ClusterId;
  readonly hostId: HostId;
}

export function isOurs(labels: Readonly<Record<string, string>>, self: Self): boolean {
  return (
    labels[label.cluster] === self.clusterId &&
    labels[label.host] === self.hostId &&
    labels[label.instance] !== undefined
  );
}

export function containerNameOf(self: Self, instance: string): string {
  return `trellis-${self.clusterId.slice(0, 8)}-${instance}`;
}
