/** IPv4 networks as numbers: choosing one that collides with nothing, and fixed addresses inside it. Pure. */

export interface Subnet {
  /** First address as an unsigned number. */
  readonly base: number;
  readonly length: number;
}

/** Ours: 1024 addresses. The last quarter is left to the engine for what people attach by hand. */
export const ownLength = 22;
/** First usable address is the gateway; instances get offsets from here. */
const firstOffset = 2;
const lastOffset = 767;
/** Addresses one host can give out; more instances than that are refused. */
export const addressesMax = lastOffset - firstOffset + 1;

/** Null unless 'a.b.c.d/n' (host bits are cleared). */
export function parseSubnet(text: string): Subnet | null {
  const match = /^(\d+\.\d+\.\d+\.\d+)\/(\d+)$/.exec(text);
  const address = match === null ? null : parseAddress(match[1] ?? '');
  const length = Number(match?.[2]);
  if (address === null || length > 32) return null;
  return { base: (address & mask(length)) >>> 0, length };
}

export function formatSubnet({ base, length }: Subnet): string {
  return `${formatAddress(base)}/${length}`;
}

export function parseAddress(text: string): number | null {
  const parts = text.split('.').map(Number);
  if (parts.length !== 4 || parts.some((part) => !Number.isInteger(part) || part < 0 || part > 255))
    return null;
  return parts.reduce((sum, part) => sum * 256 + part, 0);
}

export function formatAddress(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join('.');
}

export function overlaps(a: Subnet, b: Subnet): boolean {
  const shorter = mask(Math.min(a.length, b.length));
  return ((a.base ^ b.base) & shorter) === 0;
}

/**
 * Candidates in order of preference: 64 blocks of 10.213.0.0/16 from a start that depends on the host, so that hosts
 * tend to differ, then blocks of the other two private ranges for networks that use all of 10.0.0.0/8.
 */
export function candidateSubnets(hostId: string): Subnet[] {
  const start = Number.parseInt(hostId.slice(0, 2), 16) % 64 || 0;
  const out: Subnet[] = [];
  for (let i = 0; i < 64; i++)
    out.push({ base: number(10, 213, 4 * ((start + i) % 64)), length: ownLength });
  for (let i = 0; i < 16; i++)
    out.push({ base: number(172, 16, 128 + 4 * ((start + i) % 16)), length: ownLength });
  for (let i = 0; i < 16; i++)
    out.push({ base: number(192, 168, 128 + 4 * ((start + i) % 16)), length: ownLength });
  return out;
}

/** Networks of /proc/net/route (little-endian hex), without the default route, which contains everything. */
export function parseRoutes(text: string): Subnet[] {
  const out: Subnet[] = [];
  for (const line of text.split('\n').slice(1)) {
    const fields = line.trim().split(/\s+/);
    const base = swap(Number.parseInt(fields[1] ?? '', 16));
    const netmask = swap(Number.parseInt(fields[7] ?? '', 16));
    if (!Number.isFinite(base) || !Number.isFinite(netmask) || netmask === 0) continue;
    out.push({ base, length: popCount(netmask) });
  }
  return out;
}

export interface Allocation {
  readonly subnet: string;
  /** Instance to address. */
  readonly addresses: Readonly<Record<string, string>>;
}

/**
 * Addresses for `wanted`, keeping what they have; others keep theirs too, so that an instance that comes back has the
 * address it had, until room is needed. Returns the same object when nothing changes, and null when `wanted` does not fit.
 */
export function allocate(allocation: Allocation, wanted: readonly string[]): Allocation | null {
  const subnet = parseSubnet(allocation.subnet);
  if (subnet === null || wanted.length > addressesMax) return null;
  const missing = wanted.filter((instance) => allocation.addresses[instance] === undefined);
  if (missing.length === 0) return allocation;
  const needed = new Set(wanted);
  const kept = Object.entries(allocation.addresses);
  const idle = kept.filter(([instance]) => !needed.has(instance));
  const surplus = kept.length + missing.length - addressesMax;
  const dropped = new Set(idle.slice(0, Math.max(0, surplus)).map(([instance]) => instance));
  const addresses = Object.fromEntries(kept.filter(([instance]) => !dropped.has(instance)));
  const taken = new Set(Object.values(addresses));
  let offset = firstOffset;
  for (const instance of missing) {
    while (taken.has(formatAddress(subnet.base + offset))) offset++;
    const address = formatAddress(subnet.base + offset);
    taken.add(address);
    addresses[instance] = address;
  }
  return { subnet: allocation.subnet, addresses };
}

/** Takes over addresses that containers have already, after the file was lost. Returns the same object when nothing changes. */
export function reclaim(allocation: Allocation, claims: ReadonlyMap<string, string>): Allocation {
  const addresses: Record<string, string> = { ...allocation.addresses };
  const taken = new Set(Object.values(addresses));
  let isChanged = false;
  for (const [instance, address] of claims) {
    if (addresses[instance] !== undefined || taken.has(address)) continue;
    const next = { subnet: allocation.subnet, addresses: { ...addresses, [instance]: address } };
    if (checkAllocation(next) === null) continue;
    addresses[instance] = address;
    taken.add(address);
    isChanged = true;
  }
  return isChanged ? { subnet: allocation.subnet, addresses } : allocation;
}

/** What was read from a file: null unless every entry is sane. */
export function checkAllocation(raw: unknown): Allocation | null {
  const { subnet: text, addresses } = (raw ?? {}) as { subnet?: unknown; addresses?: unknown };
  const subnet = typeof text === 'string' ? parseSubnet(text) : null;
  if (
    subnet === null ||
    typeof text !== 'string' ||
    typeof addresses !== 'object' ||
    addresses === null
  )
    return null;
  const values = Object.values(addresses);
  if (values.length > addressesMax || new Set(values).size !== values.length) return null;
  const isSane = values.every((value) => {
    const address = typeof value === 'string' ? parseAddress(value) : null;
    return (
      address !== null &&
      address >= subnet.base + firstOffset &&
      address <= subnet.base + lastOffset
    );
  });
  return isSane ? { subnet: text, addresses: addresses as Record<string, string> } : null;
}

function mask(length: number): number {
  return length === 0 ? 0 : (0xffff_ffff << (32 - length)) >>> 0;
}

function number(a: number, b: number, c: number): number {
  return ((a * 256 + b) * 256 + c) * 256;
}

function swap(value: number): number {
  return (
    (((value & 255) << 24) |
      ((value & 0xff00) << 8) |
      ((value >>> 8) & 0xff00) |
      (value >>> 24)) >>>
    0
  );
}

function popCount(value: number): number {
  let count = 0;
  for (let rest = value >>> 0; rest !== 0; rest &= rest - 1) count++;
  return count;
}
