/** Interfaces with their addresses, and how far each address reaches. */
import type { NetworkInterfaceInfo } from 'node:os';
import type { InventoryFact } from '../../crdt/model.ts';
import { liveInterfaces, namesIn, textOf, type Source } from './source.ts';

const interfacesMax = 32;
const addressesPerInterfaceMax = 16;

type Interface = InventoryFact['interfaces'][number];
type Scope = Interface['addresses'][number]['scope'];

export async function readInterfaces(source: Source): Promise<readonly Interface[]> {
  const addresses = liveInterfaces(source);
  // The host's ends of container links come and go with the containers and say nothing about the host.
  const names = (await namesIn(source, 'sys/class/net')).filter((name) => !name.startsWith('veth'));
  const interfaces = names.slice(0, interfacesMax).map(async (name): Promise<Interface> => {
    const read = async (file: string): Promise<string> =>
      ((await textOf(source, `sys/class/net/${name}/${file}`)) ?? '').trim();
    const mac = await read('address');
    // Bit 0 of the flags is IFF_UP; `operstate` is 'unknown' for loopback and tunnels.
    const flags = Number((await read('flags')) || 0);
    return {
      name,
      mac: /^(?!00:00:00:00:00:00$)[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(mac) ? mac : null,
      mtu: Number(await read('mtu')) || 0,
      isUp: (flags & 1) === 1,
      addresses: (addresses[name] ?? []).slice(0, addressesPerInterfaceMax).map(described),
    };
  });
  return Promise.all(interfaces);
}

function described(info: NetworkInterfaceInfo): Interface['addresses'][number] {
  return {
    address: info.address,
    prefixBits: Number(info.cidr?.split('/')[1] ?? (info.family === 'IPv4' ? 32 : 128)),
    scope: scopeOf(info.address),
  };
}

/** RFC 1918, 3927, 4193, 4291 and 6598. */
export function scopeOf(address: string): Scope {
  if (address.includes(':')) {
    const lower = address.toLowerCase();
    if (lower === '::1') return 'loopback';
    if (/^fe[89ab]/.test(lower)) return 'link';
    return /^f[cd]/.test(lower) ? 'private' : 'public';
  }
  const [a = 0, b = 0] = address.split('.').map(Number);
  if (a === 127) return 'loopback';
  if (a === 169 && b === 254) return 'link';
  const isPrivate = a === 10 || (a === 172 && b >= 16 && b <= 31) || (a === 192 && b === 168);
  const isCarrier = a === 100 && b >= 64 && b <= 127;
  return isPrivate || isCarrier ? 'private' : 'public';
}
