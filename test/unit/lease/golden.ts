/**
 * What this version writes: frames of one message each (their version, then the JSON), and durable records. Run this file
 * to print it; a new version's fixture is kept beside the old ones in `test/fixtures/golden/`.
 */
import { hex } from '../../../crdt/ids.ts';
import { encodeFrame } from '../../../daemon/lease/codec.ts';
import { encodeBatch } from '../../../daemon/lease/durable.ts';
import { sampleMessages, sampleRecords } from './messages.ts';

export function goldenFrames(): Record<string, string> {
  return Object.fromEntries(
    Object.entries(sampleMessages).map(([kind, message]) => {
      const frame = encodeFrame([message]);
      return [kind, `${frame[0]}${new TextDecoder().decode(frame.subarray(1))}`];
    }),
  );
}

export function goldenFiles(): Record<string, string> {
  return {
    log: sampleRecords.map((record) => hex(encodeBatch([record]))).join(''),
  };
}

if (import.meta.main) {
  console.log(JSON.stringify({ frames: goldenFrames(), files: goldenFiles() }, null, 2));
}
