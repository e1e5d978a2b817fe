/**
 * Crockford's base 32: digits and letters without I, L, O and U, so that what is read aloud or typed from paper comes
 * out right. Written in lower case and groups; read in any case, with or without separators, I and L as 1, O as 0.
 */
const alphabet = '0123456789abcdefghjkmnpqrstvwxyz';

/** Bytes as groups of `group` characters joined by '-'. Bits that fill no character are padded with zeros. */
export function base32(bytes: Uint8Array, group = 4): string {
  let text = '';
  let bits = 0;
  let value = 0;
  for (const byte of bytes) {
    value = (value << 8) | byte;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      text += alphabet[(value >> bits) & 31];
    }
    value &= 31;
  }
  if (bits > 0) text += alphabet[(value << (5 - bits)) & 31];
  return (text.match(new RegExp(`.{1,${group}}`, 'g')) ?? []).join('-');
}

/** Exactly `length` bytes, or null when it is not that. */
export function unbase32(text: string, length: number): Uint8Array | null {
  const plain = canonical(text);
  if (plain === null || plain.length !== Math.ceil((length * 8) / 5)) return null;
  const out = new Uint8Array(length);
  let bits = 0;
  let value = 0;
  let at = 0;
  for (const letter of plain) {
    value = ((value << 5) | alphabet.indexOf(letter)) & 0xfff;
    bits += 5;
    if (bits >= 8 && at < length) {
      bits -= 8;
      out[at++] = (value >> bits) & 0xff;
    }
  }
  // One text for every value: a mistyped last letter must not pass because only its padding differs.
  if ((value & ((1 << bits) - 1)) !== 0) return null;
  return out;
}

/** Lower case, without separators, look-alikes resolved; null when a character is none of ours. */
export function canonical(text: string): string | null {
  const plain = text
    .toLowerCase()
    .replaceAll(/[\s-]/g, '')
    .replaceAll(/[il]/g, '1')
    .replaceAll('o', '0');
  return /^[0-9a-hjkmnp-tv-z]*$/.test(plain) ? plain : null;
}
