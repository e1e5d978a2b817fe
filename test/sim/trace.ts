/**
 * A running hash of everything that happened: every delivered frame, timer and storage effect. The same seed twice must
 * give the same hash; if it does not, something read a clock, a random source or an iteration order it should not.
 */
export class Trace {
  #low = 0x811c9dc5 | 0;
  #high = 0x27d4eb2f | 0;
  #count = 0;

  get count(): number {
    return this.#count;
  }

  /** `kind` is a short constant, `detail` a number such as a length, `bytes` the content when there is one. */
  mix(kind: number, node: number, atMs: number, detail: number, bytes?: Uint8Array): void {
    this.#count++;
    this.#word((kind << 16) ^ node);
    this.#word(Math.floor(atMs * 1000) | 0);
    this.#word(detail | 0);
    if (bytes === undefined) return;
    for (let i = 0; i < bytes.length; i++)
      this.#low = Math.imul(this.#low ^ (bytes[i] as number), 0x01000193);
    this.#word(bytes.length);
  }

  hash(): string {
    return text(this.#high) + text(this.#low);
  }

  #word(word: number): void {
    this.#low = Math.imul(this.#low ^ word, 0x85ebca6b);
    this.#high = Math.imul(this.#high ^ (this.#low >>> 15) ^ word, 0xc2b2ae35);
    this.#high ^= this.#high >>> 13;
  }
}

export const traceKind = {
  timer: 1,
  frame: 2,
  peer: 3,
  sync: 4,
  crash: 5,
  start: 6,
  pause: 7,
  resume: 8,
} as const;

function text(word: number): string {
  return (word >>> 0).toString(16).padStart(8, '0');
}
