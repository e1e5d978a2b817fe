/** N hosts of one cluster, all members from the start, with engines that outlive their daemons. */
import { pointerOf } from '../../crdt/pointer.ts';
import type { ObjectId } from '../../crdt/ids.ts';
import type { LeafPut } from '../../crdt/leaves.ts';
import { roleToLeaves, serviceToLeaves, type ServiceSpec } from '../../crdt/service-leaves.ts';
import { defaultConfig, type Config } from '../../daemon/config.ts';
import { ClusterKit, type KitHost } from '../cluster-kit.ts';
import { documentsDifference } from './checkers/equal-documents.ts';
import { SimCrypto } from './sim-crypto.ts';
import { SimEngine, type EngineChange } from './sim-engine.ts';
import { SimRandom } from './sim-random.ts';
import { TrellisSimNode } from './trellis-node.ts';
import { World, type WorldOptions } from './world.ts';

export class TrellisWorld extends World<TrellisSimNode> {
  readonly kit: ClusterKit;
  readonly kitHosts: readonly KitHost[];
  readonly engines: readonly SimEngine[];
  /** Every start and end of a container, in order. */
  readonly engineChanges: EngineChange[];

  constructor(
    options: Omit<WorldOptions<TrellisSimNode>, 'factory' | 'pending'> & {
      config?: Config;
      roles?: readonly string[];
    },
  ) {
    const crypto = options.crypto ?? new SimCrypto();
    const kit = new ClusterKit(crypto, { label: `seed ${options.seed}` });
    const kitHosts: KitHost[] = [];
    const engines: SimEngine[] = [];
    const changes: EngineChange[] = [];
    const lives: number[] = [];
    const founding = [kit.authorityRecord, kit.operatorRecord];
    const planner = new PerfectPlannerLease();
    super({
      ...options,
      factory: (ports, index) => {
        lives[index] = (lives[index] ?? 0) + 1;
        return new TrellisSimNode({
          ports,
          config: options.config ?? defaultConfig,
          kit,
          host: kitHosts[index] as KitHost,
          index,
          life: lives[index],
          founding,
          engine: engines[index] as SimEngine,
          plannerLease: () => planner.epochOf(index),
        });
      },
      pending: (world) => pendingOf(world as TrellisWorld),
    });
    for (const [index, node] of this.ids.entries()) {
      const keys = crypto.keyPair(this.keySeed(index));
      const host: KitHost = { ...kit.host(index), node, keys };
      kitHosts.push(host);
      founding.push(kit.member(host, { roles: options.roles ?? ['web'] }));
      engines.push(
        new SimEngine({
          host: index,
          scheduler: this.scheduler,
          random: new SimRandom(`${options.seed}/engine${index}`),
          onChange: (change) => changes.push(change),
        }),
      );
    }
    this.kit = kit;
    this.kitHosts = kitHosts;
    this.engines = engines;
    this.engineChanges = changes;
    planner.up = () => this.up();
    this.startAll();
  }

  override crash(index: number, how: 'kill' | 'power' = 'kill'): void {
    const wasUp = this.isUp(index);
    super.crash(index, how);
    const engine = this.engines[index];
    if (!wasUp || engine === undefined) return;
    engine.listener = null;
    if (how === 'power') engine.powerOff();
  }

  /** Indexes of hosts on which this instance runs now. */
  hostsRunning(instance: string): readonly number[] {
    return this.engines.flatMap((engine, index) =>
      engine.running().includes(instance) ? [index] : [],
    );
  }
}

/**
 * The lease of the planner without its protocol, which has a simulator of its own: at any moment the lowest host that is up
 * holds it, whoever reaches whom, and every change of holder raises the epoch.
 */
class PerfectPlannerLease {
  up: () => readonly number[] = () => [];
  #holder = -1;
  #epoch = 0;

  /** Null: another host holds it. */
  epochOf(index: number): number | null {
    const lowest = this.up()[0] ?? -1;
    if (lowest !== this.#holder) {
      this.#holder = lowest;
      this.#epoch += 1;
    }
    return index === lowest ? this.#epoch : null;
  }
}

/** What a service and its role put into an empty environment. */
export function serviceLeaves(
  spec: ServiceSpec,
  ids: { service: ObjectId; role: ObjectId },
): readonly LeafPut[] {
  const put = (
    object: ObjectId,
    leaves: Iterable<readonly [string, LeafPut['value']]>,
  ): LeafPut[] => [...leaves].map(([pointer, value]) => ({ object, pointer, value }));
  return [
    ...put(ids.role, roleToLeaves({ name: spec.role, source: 'sim' })),
    ...put(ids.service, serviceToLeaves({ source: 'sim', ...spec })),
    { object: 'names', pointer: pointerOf('role', spec.role), value: ids.role },
    { object: 'names', pointer: pointerOf('service', spec.name), value: ids.service },
  ];
}

function pendingOf(world: TrellisWorld): string | null {
  const up = world.up();
  for (const by of up) {
    for (const member of world.node(by).node.members()) {
      if (member.isSelf) continue;
      const about = world.ids.indexOf(member.node);
      if (world.isUp(about) !== (member.liveness === 'alive'))
        return `n${by} sees n${about} ${member.liveness}`;
    }
  }
  return documentsDifference(
    up.map((index) => ({ name: `n${index}`, node: world.node(index).node })),
  );
}
