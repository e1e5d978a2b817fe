/**
 * The one address to which every service name of a cluster leads, on every host of it: link-local, so that no router
 * carries it, and derived from the cluster, so that nobody has to agree on it.
 */
import type { ClusterId } from './ids.ts';

const lowestOctet = 1;
const octets = 254;
/** Where clouds serve instance metadata. */
const metadataAddress = '169.254.169.254';

/** '169.254.x.y' with x and y in 1 to 254: RFC 3927 reserves the first and the last 256 addresses. */
export function virtualAddressOf(clusterId: ClusterId): string {
  const number = Number.parseInt(clusterId.slice(0, 12), 16) % (octets * octets);
  const address = `169.254.${lowestOctet + Math.floor(number / octets)}.${lowestOctet + (number % octets)}`;
  return address === metadataAddress ? '169.254.169.253' : address;
}
