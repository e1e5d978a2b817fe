/** Frames that wait for one peer, bounded in bytes. At the limit the oldest go: the newest state matters most. */
export class Outbox {
  readonly #bytesMax: number;
  #frames: Uint8Array[] = [];
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get isEmpty(): boolean {
    return this.#frames.length === 0;
  }

  /** Returns how many old frames had to go. */
  add(frame: Uint8Array): number {
    let dropped = 0;
    while (this.#frames.length > 0 && this.#bytes + frame.length > this.#bytesMax) {
      this.#bytes -= this.#frames.shift()?.length ?? 0;
      dropped++;
    }
    this.#frames.push(frame);
    this.#bytes += frame.length;
    return dropped;
  }

  /** The oldest frames that fit `bytesMax` together, at least one. */
  take(bytesMax: number): Uint8Array[] {
    let bytes = 0;
    let count = 0;
    for (const frame of this.#frames) {
      if (count > 0 && bytes + frame.length > bytesMax) break;
      bytes += frame.length;
      count++;
    }
    this.#bytes -= bytes;
    return this.#frames.splice(0, count);
  }

  clear(): number {
    const dropped = this.#frames.length;
    this.#frames = [];
    this.#bytes = 0;
    return dropped;
  }
}
