/**
 * What the workload itself wrote down, and what it proves: no two hosts wrote at the same time, and no write came under an
 * epoch lower than one before it. All hosts are on one machine, so that their monotonic clocks are one.
 */
import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { LocalHost } from '../../bootstrap/local-cluster/local-host.ts';
import { makeImage } from './image.ts';

export interface Tenure {
  readonly host: string;
  readonly epoch: number;
  /** Monotonic clock of the machine, milliseconds. */
  readonly firstMs: number;
  readonly lastMs: number;
  readonly writes: number;
}

export interface Proof {
  /** One per host and epoch, by first write. */
  readonly tenures: readonly Tenure[];
  /** Pairs that wrote within the same time. */
  readonly overlaps: readonly string[];
  /** Writes that arrived under a lower epoch than one before them. */
  readonly falls: readonly string[];
}

const readBytesMax = 64 << 20;
const program = 'exclusive-writer';

/** An image whose command is the writer; its file is `/srv/shared/<file>`, its name the host's. */
export async function writerImage(host: LocalHost, reference: string): Promise<string> {
  const binary = `/run/testbed/${program}`;
  const source = join(import.meta.dirname, `${program}.c`);
  await host.mustExec(
    `mkdir -p /run/testbed && gcc -O2 -static -o ${binary} ${source} && test -x ${binary}`,
    { timeoutMs: 60_000 },
  );
  return makeImage(host, reference, { programs: [binary], command: ['sh'] });
}

/** The service `name`: exclusive, follows a storage that is the shared disk, writes into it. */
export function writerYaml(options: {
  readonly name: string;
  readonly role: string;
  readonly image: string;
  readonly lease?: string;
  readonly placement?: string;
  /** Address to which every line is sent as a datagram too. */
  readonly probe?: string;
}): string {
  const { name, role, image, lease, placement } = options;
  const probe = options.probe === undefined ? '' : `, "${options.probe}"`;
  return `apiVersion: trellis/v1
services:
  ${name}:
    role: ${role}
    image: ${image}
    exclusive: true
    follows: ${name}-disk
    command: ["/run/testbed/${program}", "/srv/shared/${name}.log", "{{host.name}}"${probe}]
    stopGrace: 1s
    ports: [ { name: http, container: 80 } ]
storage:
  ${name}-disk:
    role: ${role}
    driver: local
    exclusive: true
    path: /srv/shared${lease === undefined ? '' : `\n    lease: ${lease}`}${placement === undefined ? '' : `\n    placement: ${placement}`}
`;
}

/** Everything that was written from `offset` on, in the order in which it arrived at the disk. */
export function proofOf(file: string, offset = 0): Proof {
  const tenures: {
    host: string;
    epoch: number;
    firstMs: number;
    lastMs: number;
    writes: number;
  }[] = [];
  const falls: string[] = [];
  let highest = 0;
  for (const line of readFrom(file, offset).split('\n')) {
    const [epochText = '', nsText = '', host = ''] = line.split(' ');
    if (host === '') continue;
    const epoch = Number(epochText);
    const atMs = Number(BigInt(nsText)) / 1e6;
    if (epoch < highest) falls.push(`${host} wrote under ${epoch} after ${highest}`);
    highest = Math.max(highest, epoch);
    const known = tenures.find((one) => one.host === host && one.epoch === epoch);
    if (known === undefined) tenures.push({ host, epoch, firstMs: atMs, lastMs: atMs, writes: 1 });
    else {
      known.lastMs = Math.max(known.lastMs, atMs);
      known.writes++;
    }
  }
  return { tenures, overlaps: overlapsOf(tenures), falls: falls.slice(0, 20) };
}

export function sizeOf(file: string): number {
  return statSync(file, { throwIfNoEntry: false })?.size ?? 0;
}

function overlapsOf(tenures: readonly Tenure[]): string[] {
  const found: string[] = [];
  for (const [index, one] of tenures.entries()) {
    for (const other of tenures.slice(index + 1)) {
      if (one.firstMs <= other.lastMs && other.firstMs <= one.lastMs)
        found.push(`${one.host}@${one.epoch} and ${other.host}@${other.epoch}`);
    }
  }
  return found;
}

function readFrom(file: string, offset: number): string {
  const bytes = Buffer.alloc(Math.min(readBytesMax, Math.max(0, sizeOf(file) - offset)));
  const fd = openSync(file, 'r');
  try {
    return bytes.subarray(0, readSync(fd, bytes, 0, bytes.length, offset)).toString();
  } finally {
    closeSync(fd);
  }
}

/** Milliseconds of the machine's monotonic clock: the same as in the file. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}
