/**
 * A cluster with one exclusive writer on a disk that all hosts see, for tests that break things on purpose and then read
 * from what was written who was active when.
 */
import { expect } from 'vitest';
import { join } from 'node:path';
import { eventually } from '../await.ts';
import { TestCluster } from './cluster.ts';
import {
  monotonicMs,
  proofOf,
  sizeOf,
  writerImage,
  writerYaml,
  type Proof,
  type Tenure,
} from './exclusive-proof.ts';

export const lease = 'storage writer-disk';

export interface RigOptions {
  readonly hosts: number;
  /** As in a file, e.g. '{ profile: fast, onLoss: freeze }'. */
  readonly lease?: string;
  /** Index of the host to which the writer sends datagrams too; it has no role, and no engine is needed there. */
  readonly probeOn?: number;
  /** Default: what so many hosts choose by themselves. */
  readonly voters?: number;
}

export class ExclusiveRig {
  readonly cluster: TestCluster;
  readonly file: string;

  readonly #probeOn: number | undefined;

  private constructor(cluster: TestCluster, probeOn: number | undefined) {
    this.cluster = cluster;
    this.#probeOn = probeOn;
    this.file = join(cluster.bed.dir, 'shared', 'writer.log');
  }

  static async create(options: RigOptions): Promise<ExclusiveRig> {
    const cluster = await TestCluster.create({
      hosts: options.hosts,
      roles: Array.from({ length: options.hosts }, (_, index) =>
        index === options.probeOn ? [] : ['data'],
      ),
      hasSharedDisk: true,
    });
    return ExclusiveRig.on(cluster, options);
  }

  /**
   * On a cluster with a shared disk whose hosts have the role 'data'. The writer runs and every other host is ready to take
   * over; the cluster is gone when that fails.
   */
  static async on(cluster: TestCluster, options: RigOptions): Promise<ExclusiveRig> {
    const rig = new ExclusiveRig(cluster, options.probeOn);
    try {
      await writerImage(cluster.bed.host(0), 'demo/writer:1');
      const { hosts, lease: settings, probeOn } = options;
      await rig.waitVoters(options.voters ?? (hosts >= 5 ? 5 : hosts >= 3 ? 3 : 1));
      const yaml = writerYaml({
        name: 'writer',
        role: 'data',
        image: 'demo/writer:1',
        ...(settings === undefined ? {} : { lease: settings }),
        ...(probeOn === undefined ? {} : { probe: cluster.bed.host(probeOn).ip }),
      });
      await cluster.mustApply(0, `${yaml}roles: { data: {} }\n`, []);
      await rig.waitWriting();
      await rig.waitReady();
      return rig;
    } catch (error) {
      await cluster.destroy();
      throw error;
    }
  }

  async waitVoters(count: number): Promise<void> {
    await eventually(
      async () => {
        const { chosen } = await this.cluster.leaseStatus(0);
        return chosen?.config.voters.length === count;
      },
      { withinMs: 120_000, everyMs: 250, what: `${count} voters` },
    );
  }

  /** Something is written from `sinceMs` on by a host other than `notBy`; resolves to its tenure. */
  async waitWriting(
    options: { notBy?: string; sinceMs?: number; withinMs?: number } = {},
  ): Promise<Tenure> {
    const sinceMs = options.sinceMs ?? monotonicMs();
    return eventually(
      () => {
        const last = this.proof().tenures.at(-1);
        return last !== undefined && last.lastMs > sinceMs && last.host !== options.notBy
          ? last
          : null;
      },
      { withinMs: options.withinMs ?? 60_000, everyMs: 20, what: 'the writer writes' },
    );
  }

  /** Every host of the role that is on says that it would take the lease. */
  async waitReady(): Promise<void> {
    const ready = this.cluster.bed.hosts.filter(
      (host) => host.isOn && host.index !== this.#probeOn,
    );
    for (const { index } of ready) {
      await eventually(
        async () => {
          const status = await this.cluster.leaseStatus(index);
          const row = status.leases.find(({ title }) => title === lease);
          if (row?.mayAcquire !== true || !status.hasQuorum || status.silentMs > 0)
            throw new Error(
              `h${index + 1}: ${row?.why ?? 'unknown'}, quorum ${status.hasQuorum}, silent ${status.silentMs}`,
            );
          return true;
        },
        { withinMs: 60_000, everyMs: 100, what: `h${index + 1} is ready to take over` },
      );
    }
  }

  /** Index of the host whose workload wrote last. */
  async holder(): Promise<number> {
    const { host } = await this.waitWriting();
    return this.cluster.bed.hosts.findIndex(({ name }) => name === host);
  }

  proof(offset = 0): Proof {
    return proofOf(this.file, offset);
  }

  get size(): number {
    return sizeOf(this.file);
  }

  /** The point of it all. */
  expectNeverTwo(offset = 0): void {
    const { overlaps, falls } = this.proof(offset);
    expect(overlaps).toEqual([]);
    expect(falls).toEqual([]);
  }

  /** The host is as it was before its power was cut: booted, its daemon runs, it is ready to take over. */
  async restore(index: number): Promise<void> {
    const host = this.cluster.bed.host(index);
    await host.boot();
    await host.startEngine();
    await this.cluster.startDaemon(index);
    // The login of before lived in memory.
    await this.cluster.login(index);
    await this.waitReady();
  }
}
