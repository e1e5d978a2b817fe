/**
 * What this version writes: durable records, and frames of one message each on new connections, with a renewal as it looks when
 * all was said before. Run this file to print it; a new version's fixture is kept beside the old ones in
 * `test/fixtures/golden/`.
 */
import { hex } from '../../../crdt/ids.ts';
import { FrameEncoder } from '../../../daemon/lease/codec.ts';
import { encodeBatch } from '../../../daemon/lease/durable.ts';
import type { Message } from '../../../daemon/lease/messages.ts';
import { sampleMessages, sampleRecords } from './messages.ts';

export function goldenFrames(): Record<string, string> {
  const first = Object.entries(sampleMessages).map(([kind, message]) => [
    kind,
    frameOf(new FrameEncoder(), message),
  ]);
  const { accept } = sampleMessages;
  const known = new FrameEncoder();
  frameOf(known, accept);
  return { ...Object.fromEntries(first), 'accept again': frameOf(known, accept) };
}

export function goldenFiles(): Record<string, string> {
  return {
    log: sampleRecords.map((record) => hex(encodeBatch([record]))).join(''),
  };
}

function frameOf(encoder: FrameEncoder, message: Message): string {
  return encoder.encode([message]).map(hex).join(' ');
}

if (import.meta.main) {
  console.log(JSON.stringify({ frames: goldenFrames(), files: goldenFiles() }, null, 2));
}
