/**
 * Addresses of this host at which peers may reach it. They are facts that change under a running daemon (a new lease, a
 * replaced card), and the system sends no event: the list is polled.
 */
import { networkInterfaces } from 'node:os';

export interface LocalAddress {
  readonly interface: string;
  readonly address: string;
  readonly family: 'ip4' | 'ip6';
}

/** Interfaces of container engines and the like: their addresses mean another host elsewhere. */
const virtualInterface =
  /^(docker|br-|veth|trellis|tr-[0-9a-f]{12}$|virbr|cni|flannel|cali|tunl|kube|podman|lxc|dummy)/;

/**
 * The system is asked at most this often: the list grows with every running container, and it is wanted at every change of
 * the node.
 */
const keptMs = 500;
let kept: { readonly list: readonly LocalAddress[]; readonly atMs: number } | null = null;

/** Usable addresses, sorted, IPv4 first; without loopback, link-local and container networks. At most half a second old. */
export function localAddresses(): readonly LocalAddress[] {
  const nowMs = performance.now();
  if (kept === null || nowMs - kept.atMs >= keptMs) kept = { list: readAddresses(), atMs: nowMs };
  return kept.list;
}

function readAddresses(): readonly LocalAddress[] {
  const out: LocalAddress[] = [];
  for (const [name, entries] of Object.entries(networkInterfaces())) {
    if (virtualInterface.test(name)) continue;
    for (const { address, family, internal } of entries ?? []) {
      if (internal || address.startsWith('169.254.') || address.startsWith('fe80:')) continue;
      out.push({ interface: name, address, family: family === 'IPv6' ? 'ip6' : 'ip4' });
    }
  }
  const key = (item: LocalAddress): string => `${item.family} ${item.interface} ${item.address}`;
  return out.toSorted((a, b) => (key(a) < key(b) ? -1 : 1));
}

/** Calls `changed` with the new list when it differs from the last look. Returns stop. */
export function watchLocalAddresses(
  changed: (addresses: readonly LocalAddress[]) => void,
  options: { readonly everyMs?: number; readonly read?: () => readonly LocalAddress[] } = {},
): () => void {
  const read = options.read ?? localAddresses;
  let last = JSON.stringify(read());
  const timer = setInterval(() => {
    const now = read();
    const text = JSON.stringify(now);
    if (text === last) return;
    last = text;
    changed(now);
  }, options.everyMs ?? 2_000);
  timer.unref();
  return () => clearInterval(timer);
}
