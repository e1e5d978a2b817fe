/**
 * A fast 32-bit hash for choices that only have to be even and the same on every host: which number a port gets, which
 * host a tie goes to. Never for anything that somebody may want to forge; that is sha-256's.
 *
 * FNV-1a over UTF-16 code units, then the finaliser of MurmurHash3, because FNV alone barely mixes its last bytes and
 * names of slots differ exactly there.
 */
export function hash32(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    h = Math.imul(h ^ (unit & 0xff), 0x01000193);
    h = Math.imul(h ^ (unit >>> 8), 0x01000193);
  }
  return mix32(h);
}

/** Weight of a pair in rendezvous hashing (Thaler and Ravishankar 1998): the highest weight wins. */
export function pairWeight(a: number, b: number): number {
  return mix32(Math.imul(a, 0x9e3779b1) ^ b);
}

function mix32(value: number): number {
  let h = value;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
