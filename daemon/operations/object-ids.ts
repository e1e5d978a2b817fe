/** New names for configuration objects: random, made once, never used again. */
import { hex } from '../../crdt/ids.ts';
import type { ObjectId } from '../../crdt/ids.ts';
import { systemRandom } from '../random.ts';

export function newObjectId(): ObjectId {
  return hex(systemRandom.bytes(8)) as ObjectId;
}
