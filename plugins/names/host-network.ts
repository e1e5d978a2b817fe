/** What the names plugin has to know of this host's interfaces and sockets, and the little it changes there. */
import { readFile } from 'node:fs/promises';
import { mustRunTool, runTool } from './tools.ts';
import { isIpv4 } from './usable-routes.ts';

export interface Interface {
  readonly name: string;
  readonly addresses: readonly { readonly address: string; readonly prefixLength: number }[];
}

/** IPv4 only. Throws PluginError. */
export async function readInterfaces(signal?: AbortSignal): Promise<Interface[]> {
  const raw = JSON.parse(
    await mustRunTool('ip', ['-j', '-4', 'addr', 'show'], signal && { signal }),
  ) as {
    ifname?: string;
    addr_info?: { local?: string; prefixlen?: number }[];
  }[];
  // iproute2 prints an empty object for every interface that the filter leaves out.
  return raw
    .filter((link) => link.ifname !== undefined)
    .map((link) => ({
      name: link.ifname ?? '',
      addresses: (link.addr_info ?? []).map(({ local = '', prefixlen = 32 }) => ({
        address: local,
        prefixLength: prefixlen,
      })),
    }));
}

export function hasAddress(interfaces: readonly Interface[], address: string): boolean {
  return interfaces.some((link) => link.addresses.some((own) => own.address === address));
}

/** Scope host: never chosen as source for others, never announced. */
export async function addVirtualAddress(address: string, signal?: AbortSignal): Promise<void> {
  await mustRunTool(
    'ip',
    ['addr', 'add', `${address}/32`, 'dev', 'lo', 'scope', 'host'],
    signal && { signal },
  );
}

export async function removeVirtualAddress(address: string, signal?: AbortSignal): Promise<void> {
  await mustRunTool('ip', ['addr', 'del', `${address}/32`, 'dev', 'lo'], signal && { signal });
}

/** Interfaces that hold one of the addresses in their subnet, with that subnet: the bridges of local containers. */
export function bridgesOf(
  interfaces: readonly Interface[],
  addresses: readonly string[],
): { name: string; subnet: string }[] {
  const found: { name: string; subnet: string }[] = [];
  for (const { name, addresses: own } of interfaces) {
    for (const { address, prefixLength } of own) {
      const subnet = subnetOf(address, prefixLength);
      const holds = addresses.some(
        (other) => other !== address && subnetOf(other, prefixLength) === subnet,
      );
      if (prefixLength < 32 && holds) found.push({ name, subnet });
    }
  }
  return found;
}

export function subnetOf(address: string, prefixLength: number): string {
  const number = address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
  const size = 2 ** (32 - prefixLength);
  const base = Math.floor(number / size) * size;
  return `${[24, 16, 8, 0].map((shift) => Math.floor(base / 2 ** shift) % 256).join('.')}/${prefixLength}`;
}

/**
 * Lets a container reach itself by its service's name: its frame has to leave by the bridge port it came in by. New
 * ports start without, so this is looked at each time. Returns the ports that were changed. Throws PluginError.
 */
export async function setHairpin(
  bridges: readonly string[],
  signal?: AbortSignal,
): Promise<string[]> {
  if (bridges.length === 0) return [];
  const links = JSON.parse(
    (await mustRunTool('bridge', ['-d', '-j', 'link', 'show'], signal && { signal })) || '[]',
  ) as {
    ifname: string;
    master?: string;
    hairpin?: boolean;
  }[];
  const ports = links
    .filter((link) => bridges.includes(link.master ?? '') && link.hairpin === false)
    .map((link) => link.ifname);
  const changed: string[] = [];
  for (const port of ports) {
    const result = await runTool(
      'bridge',
      ['link', 'set', 'dev', port, 'hairpin', 'on'],
      signal && { signal },
    );
    // A container that ended meanwhile took its port along.
    if (result.code === 0) changed.push(port);
  }
  return changed;
}

/** 'tcp/20001' for everything that other programs listen on at `advertise` or at all addresses. */
export async function listeners(advertise: string): Promise<Set<string>> {
  const found = new Set<string>();
  for (const protocol of ['tcp', 'udp'] as const) {
    for (const family of ['', '6']) {
      const text = await readFile(`/proc/self/net/${protocol}${family}`, 'utf8').catch(noFamily);
      for (const port of parseSockets(text, protocol, advertise)) found.add(`${protocol}/${port}`);
    }
  }
  return found;
}

/** A kernel without IPv6 has no such file. */
function noFamily(error: NodeJS.ErrnoException): string {
  if (error.code === 'ENOENT') return '';
  throw error;
}

/** Ports in a /proc/net/{tcp,udp}{,6} table. Pure. */
export function parseSockets(text: string, protocol: 'tcp' | 'udp', advertise: string): number[] {
  const wanted = new Set([
    '00000000',
    '0'.repeat(32),
    hexOf(advertise),
    `0000000000000000FFFF0000${hexOf(advertise)}`,
  ]);
  // Listening (tcp); not connected to anybody (udp).
  const state = protocol === 'tcp' ? '0A' : '07';
  const ports: number[] = [];
  for (const line of text.split('\n').slice(1)) {
    const [, local = '', , actual] = line.trim().split(/\s+/);
    const [address = '', port = ''] = local.split(':');
    if (actual === state && wanted.has(address)) ports.push(Number.parseInt(port, 16));
  }
  return ports;
}

/** As the kernel prints it on a little-endian machine: bytes in reverse. */
function hexOf(address: string): string {
  if (!isIpv4(address)) return '';
  const parts = address
    .split('.')
    .map((part) => Number(part).toString(16).toUpperCase().padStart(2, '0'));
  return parts.toReversed().join('');
}

/** At most so many are asked for one by one; beyond it all UDP flows to the address are forgotten. */
const flushedPortsMax = 64;

/**
 * Forgets the flows of UDP ports whose targets changed: datagrams of a known flow never meet the new rules. TCP is left
 * alone: connections to targets that are draining must end in peace. Returns false when conntrack is missing.
 */
export async function flushUdp(
  addresses: readonly string[],
  ports: readonly number[],
  signal?: AbortSignal,
): Promise<boolean> {
  const choices =
    ports.length > flushedPortsMax ? [[]] : ports.map((port) => ['--orig-port-dst', String(port)]);
  for (const address of addresses) {
    for (const choice of choices) {
      // Exit code 1: there was no such flow.
      const result = await runTool(
        'conntrack',
        ['-D', '-p', 'udp', '--orig-dst', address, ...choice],
        signal && { signal },
      );
      if (result.isMissing) return false;
    }
  }
  return true;
}
