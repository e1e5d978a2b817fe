/** The image manifest that the cluster keeps: OCI, layers uncompressed so that a layer's digest is its diff id. Pure. */
import { readFileSync } from 'node:fs';
import type { Hash } from '../../crdt/ids.ts';
import type { Blobs } from '../api.ts';
import { manifestMediaType } from './registry.ts';

export const manifestBytesMax = 4 << 20;
export const layersMax = 512;

export interface BlobRef {
  readonly hash: Hash;
  readonly sizeBytes: number;
}

export interface ImageManifest {
  readonly config: BlobRef;
  /** Lowest first. */
  readonly layers: readonly BlobRef[];
}

/** Equal images give equal bytes. */
export function encodeManifest(image: ImageManifest): Uint8Array {
  const descriptor = (mediaType: string, { hash, sizeBytes }: BlobRef): object => ({
    mediaType,
    digest: `sha256:${hash}`,
    size: sizeBytes,
  });
  return Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: manifestMediaType,
      config: descriptor('application/vnd.oci.image.config.v1+json', image.config),
      layers: image.layers.map((layer) =>
        descriptor('application/vnd.oci.image.layer.v1.tar', layer),
      ),
    }),
  );
}

/** Bytes from a peer: null unless they are a manifest as `encodeManifest` makes it, within our bounds. */
export function decodeManifest(bytes: Uint8Array): ImageManifest | null {
  if (bytes.length > manifestBytesMax) return null;
  let raw: { config?: unknown; layers?: unknown };
  try {
    raw = JSON.parse(Buffer.from(bytes).toString('utf8')) as typeof raw;
  } catch {
    // Not JSON: the caller says which image is damaged.
    return null;
  }
  const config = toRef(raw?.config);
  if (config === null || !Array.isArray(raw.layers) || raw.layers.length > layersMax) return null;
  const layers = raw.layers.map(toRef);
  return layers.some((layer) => layer === null) ? null : { config, layers: layers as BlobRef[] };
}

/**
 * Blobs that the given image manifests need, themselves included, for the collection of garbage. Reads local manifests
 * only; one that is not here keeps nothing but itself.
 */
export function referencedBlobs(blobs: Pick<Blobs, 'path'>, manifests: Iterable<Hash>): Set<Hash> {
  const hashes = new Set<Hash>();
  for (const manifest of manifests) {
    hashes.add(manifest);
    const path = blobs.path(manifest);
    const image = path === null ? null : decodeManifest(readFileSync(path));
    if (image === null) continue;
    for (const { hash } of [image.config, ...image.layers]) hashes.add(hash);
  }
  return hashes;
}

/** Diff ids of an image configuration, lowest first; null when it is not one. */
export function diffIdsOf(config: Uint8Array): Hash[] | null {
  try {
    const raw = JSON.parse(Buffer.from(config).toString('utf8')) as {
      rootfs?: { diff_ids?: unknown };
    };
    const ids = raw.rootfs?.diff_ids;
    if (!Array.isArray(ids) || ids.length > layersMax) return null;
    const hashes = ids.map(hashOf);
    return hashes.some((hash) => hash === null) ? null : (hashes as Hash[]);
  } catch {
    // Not JSON.
    return null;
  }
}

/** 'sha256:<64 hex>' to the hash. */
export function hashOf(digest: unknown): Hash | null {
  const match = typeof digest === 'string' ? /^sha256:([0-9a-f]{64})$/.exec(digest) : null;
  return match === null ? null : (match[1] as Hash);
}

function toRef(raw: unknown): BlobRef | null {
  const { digest, size } = (raw ?? {}) as { digest?: unknown; size?: unknown };
  const hash = hashOf(digest);
  return hash !== null && typeof size === 'number' && Number.isSafeInteger(size) && size >= 0
    ? { hash, sizeBytes: size }
    : null;
}
