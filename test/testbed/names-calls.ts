/** Helpers for tests of the names plugin: views, and the plugin run inside a host. */
import { resolve } from 'node:path';
import type { LocalHost } from '../../bootstrap/local-cluster/local-host.ts';
import type { ClusterId, HostId } from '../../crdt/ids.ts';
import { virtualAddressOf } from '../../crdt/virtual-address.ts';
import type { DesiredView, ReconcileOutcome, RoutePort } from '../../plugins/api.ts';
import type { NamesReport } from '../../plugins/names/describe.ts';
import type { NamesCall } from './names-runner.ts';

export const clusterId = '5a'.repeat(16) as ClusterId;
export const virtualAddress = virtualAddressOf(clusterId);

export interface NamesResult {
  readonly outcomes: readonly (ReconcileOutcome & { readonly tookMs: number })[];
  readonly report: NamesReport | null;
}

/** A port with number 20001 and container port 80 unless said otherwise. */
export function portOf(changes: Partial<RoutePort>): RoutePort {
  return {
    name: 'http',
    protocol: 'tcp',
    number: 20_001,
    container: 80,
    local: [],
    remote: [],
    ...changes,
  };
}

/** A view with one service 'site' that has these ports. */
export function viewOf(
  host: LocalHost,
  ports: readonly RoutePort[],
  changes: Partial<DesiredView> = {},
): DesiredView {
  return {
    clusterId,
    cluster8: clusterId.slice(0, 8),
    hostId: (`${host.index}`.repeat(8) + 'ab'.repeat(12)) as HostId,
    hostName: host.name,
    env: 'prod',
    advertise: host.ip,
    virtualAddress,
    instances: [],
    keep: [],
    routes: [{ service: 'site', name: 'site.prod.internal', ports }],
    ...changes,
  };
}

export async function callNames(host: LocalHost, call: NamesCall): Promise<NamesResult> {
  const runner = resolve(import.meta.dirname, 'names-runner.ts');
  return JSON.parse(
    await host.mustExec([process.execPath, runner], { input: JSON.stringify(call) }),
  ) as NamesResult;
}

/** Tables without counters, comments and time stamps: what must be equal before and after. */
export async function tablesOf(host: LocalHost, program = 'iptables'): Promise<string> {
  const text = await host.mustExec(`${program}-save`);
  return text
    .split('\n')
    .filter((line) => !line.startsWith('#'))
    .map((line) => line.replace(/ \[\d+:\d+\]$/, ''))
    .join('\n');
}
