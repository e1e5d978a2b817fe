/** `trellis image push` and `ls`: images that the cluster itself holds. */
import { z } from 'zod';
import { compareText } from '../../crdt/codec.ts';
import { pointerOf } from '../../crdt/pointer.ts';
import type { ContainerRuntime } from '../../plugins/api.ts';
import type { LeafPut } from '../../crdt/leaves.ts';
import { ClusterError } from '../errors.ts';
import type { EditAnswer, ImageRow } from './answers.ts';
import {
  define,
  editDocument,
  envParam,
  nodeOf,
  params,
  sessionOf,
  waitForSpread,
  waitParams,
} from './common.ts';
import type { Operation, OperationContext } from './operation.ts';

export const imageReference = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}$/);

export const imageOperations: readonly Operation[] = [
  define({
    group: 'image',
    command: 'ls',
    summary: 'images that the cluster holds',
    access: 'viewer',
    isMutation: false,
    params: params(envParam),
    run: (context, given): Promise<ImageRow[]> => {
      const images = [...nodeOf(context, given).envView().images.values()];
      return Promise.resolve(images.toSorted((a, b) => compareText(a.reference, b.reference)));
    },
  }),
  define({
    group: 'image',
    command: 'push',
    summary: 'put an image of the local engine into the cluster',
    access: 'operator',
    isMutation: true,
    timeLimitMs: 3_600_000,
    params: params({ ...waitParams, image: imageReference }),
    run: async (context, given): Promise<ImageRow & EditAnswer> => {
      nodeOf(context, given);
      sessionOf(context, 'image push');
      const { row, put } = await pushImage(context, given.image);
      const edit = { message: `push image ${row.reference}`, puts: [put] };
      const receipt = await editDocument(context, edit);
      if (!given.wait || receipt.hash === null) return { ...row, ...receipt };
      const seenBy = await waitForSpread(context, receipt.hash, given.timeoutMs);
      return { ...row, ...receipt, seenBy };
    },
  }),
];

/** Blobs are stored; the edit that tells the cluster of them is left to the caller. */
export async function pushImage(
  context: OperationContext,
  reference: string,
): Promise<{ row: ImageRow; put: LeafPut }> {
  const runtime = runtimeOf(context);
  context.progress(`putting image ${reference} into the cluster`);
  let said = '';
  const pushed = await runtime.pushImage(reference, {
    signal: context.signal,
    onProgress: (what, doneBytes, totalBytes) => {
      const words = `${reference}: ${what} ${tenths(doneBytes, totalBytes)}`;
      if (words !== said) context.progress(words);
      said = words;
    },
  });
  const { manifest, imageId, sizeBytes } = pushed;
  const pointer = pointerOf('images', pushed.reference);
  const put: LeafPut = { object: 'settings', pointer, value: [manifest, imageId, sizeBytes] };
  return { row: { reference: pushed.reference, manifest, imageId, sizeBytes }, put };
}

export function runtimeOf(context: OperationContext): ContainerRuntime {
  if (context.runtime !== null) return context.runtime;
  const reason = 'this daemon runs without one';
  throw new ClusterError('ENGINE_UNREACHABLE', { endpoint: '(none)', reason });
}

/** In steps of ten: a person wants to see that it goes on, not every chunk. */
function tenths(done: number, total: number): string {
  return total > 0 ? `${Math.floor((10 * done) / total) * 10} %` : '';
}
