/** The thinnest node around `Membership`: its own frames, one timer. Lets the failure detector run alone. */
import { decode, encode } from '../../crdt/codec.ts';
import type { NodeId } from '../../crdt/ids.ts';
import { defaultConfig, type Config } from '../../daemon/config.ts';
import { Membership, type StatusChange } from '../../daemon/membership/membership.ts';
import type { Timer } from '../../daemon/ports.ts';
import { World, type SimNode, type SimPorts, type WorldOptions } from './world.ts';

export interface SeenChange extends StatusChange {
  /** Simulated time, the same for all nodes. */
  readonly atMs: number;
  readonly by: number;
}

export class MembershipNode implements SimNode {
  readonly membership: Membership;
  readonly #ports: SimPorts;
  readonly #roster: readonly NodeId[];
  #timer: Timer | null = null;
  #armedMs = Number.POSITIVE_INFINITY;

  constructor(options: {
    ports: SimPorts;
    roster: readonly NodeId[];
    config: Config;
    onChange: (change: StatusChange) => void;
  }) {
    const { ports, roster, config, onChange } = options;
    this.#ports = ports;
    this.#roster = roster;
    this.membership = new Membership({
      self: ports.self,
      config,
      random: ports.random,
      log: ports.log,
      send: (to, body) => ports.network.send(to, encode({ t: 'swim', ...body })),
      onChange,
    });
  }

  start(): void {
    const { clock, network } = this.#ports;
    network.onFrame((from, frame) => {
      this.membership.onFrame(from, decode(frame), clock.monotonicMs());
      this.#rearm();
    });
    network.onPeer((peer, isConnected) => {
      this.membership.onConnection(peer, isConnected, clock.monotonicMs());
      this.#rearm();
    });
    this.membership.setRoster(this.#roster, clock.monotonicMs());
    this.#rearm();
  }

  stop(): void {
    this.membership.leave(this.#ports.clock.monotonicMs());
  }

  #rearm(): void {
    const dueMs = this.membership.nextDeadlineMs();
    if (dueMs >= this.#armedMs) return;
    this.#timer?.cancel();
    this.#armedMs = dueMs;
    const { clock } = this.#ports;
    this.#timer = clock.setTimer(dueMs - clock.monotonicMs(), () => {
      this.#armedMs = Number.POSITIVE_INFINITY;
      this.membership.tick(clock.monotonicMs());
      this.#rearm();
    });
  }
}

export class MembershipWorld extends World<MembershipNode> {
  readonly changes: SeenChange[];

  constructor(
    options: Omit<WorldOptions<MembershipNode>, 'factory' | 'pending'> & {
      config?: Config;
      /** One per life; sees every change of status as it happens and throws on a breach. */
      makeChecker?: () => { onChange(change: StatusChange): void };
    },
  ) {
    const changes: SeenChange[] = [];
    super({
      ...options,
      factory: (ports, index) => {
        const checker = options.makeChecker?.();
        return new MembershipNode({
          ports,
          roster: this.ids,
          config: options.config ?? defaultConfig,
          onChange: (change) => {
            checker?.onChange(change);
            changes.push({ ...change, atMs: this.nowMs, by: index });
          },
        });
      },
      pending: (world) => disagreement(world),
    });
    this.changes = changes;
    this.startAll();
  }

  status(by: number, about: number): string {
    return this.node(by).membership.statusOf(this.ids[about] as NodeId);
  }

  /** Changes to one status about one node, whoever saw them. */
  changesTo(status: string, about?: number): readonly SeenChange[] {
    const node = about === undefined ? undefined : this.ids[about];
    return this.changes.filter(
      (change) => change.status === status && (node === undefined || change.node === node),
    );
  }
}

/** Everybody who runs sees everybody who runs alive, and all others dead or left; else the first that does not. */
export function disagreement(world: World<MembershipNode>): string | null {
  for (const by of world.up()) {
    for (let about = 0; about < world.nodeCount; about++) {
      if (about === by) continue;
      const status = world.node(by).membership.statusOf(world.ids[about] as NodeId);
      const isRight = world.isUp(about)
        ? status === 'alive'
        : status === 'dead' || status === 'left';
      if (!isRight) return `n${by} sees n${about} ${status}`;
    }
  }
  return null;
}
