/** Bytes to lines, with a bound: a peer that never ends its line costs at most `lineBytesMax`. */

const newline = 10;

export class LineSplitter {
  readonly #lineBytesMax: number;
  #parts: Buffer[] = [];
  #bytes = 0;

  constructor(lineBytesMax: number) {
    this.#lineBytesMax = lineBytesMax;
  }

  /** Whole lines without their ends; null when a line is too long: give the connection up. */
  push(chunk: Buffer): string[] | null {
    const lines: string[] = [];
    let from = 0;
    for (let end = chunk.indexOf(newline); end !== -1; end = chunk.indexOf(newline, from)) {
      const part = chunk.subarray(from, end);
      if (this.#bytes + part.length > this.#lineBytesMax) return null;
      lines.push(
        this.#parts.length === 0
          ? part.toString('utf8')
          : Buffer.concat([...this.#parts, part]).toString('utf8'),
      );
      this.#parts = [];
      this.#bytes = 0;
      from = end + 1;
    }
    const rest = chunk.subarray(from);
    if (rest.length > 0) {
      this.#parts.push(rest);
      this.#bytes += rest.length;
    }
    return this.#bytes > this.#lineBytesMax ? null : lines;
  }
}
