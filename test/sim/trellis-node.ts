/**
 * The real `daemon/node.ts` on simulated ports, with what surrounds it in production reduced to the least: an operator's
 * session per life, a container engine, and a reconciler that follows the node's desired view.
 */
import type { ObjectId } from '../../crdt/ids.ts';
import type { LeafPut } from '../../crdt/leaves.ts';
import type { HostFact } from '../../crdt/model.ts';
import type { SignedBytes } from '../../crdt/records.ts';
import { ClusterError } from '../../daemon/errors.ts';
import type { Config } from '../../daemon/config.ts';
import type { EditReceipt } from '../../daemon/node-api.ts';
import { TrellisNode } from '../../daemon/node.ts';
import { plan } from '../../daemon/plan/plan.ts';
import { noLeases } from '../../daemon/plan/planning.ts';
import type { ClusterKit, KitHost, KitSession } from '../cluster-kit.ts';
import type { SimEngine } from './sim-engine.ts';
import type { SimNode, SimPorts } from './world.ts';

/** Between a change of what is desired and the reconciler's look. */
const reconcileMs = 50;
const lookAgainMs = 5_000;

export interface TrellisSimOptions {
  readonly ports: SimPorts;
  readonly config: Config;
  readonly kit: ClusterKit;
  readonly host: KitHost;
  readonly index: number;
  /** Counts the lives of this host, from 1. */
  readonly life: number;
  /** The roster that `init` and `join` left on disk; read only by the first life. */
  readonly founding: readonly SignedBytes[];
  readonly engine: SimEngine;
  plannerLease(): number | null;
}

export class TrellisSimNode implements SimNode {
  readonly node: TrellisNode;
  readonly #options: TrellisSimOptions;
  readonly #sessions = new Map<string, KitSession>();
  #current: KitSession | null = null;
  #sessionCount = 0;
  #isReconcileDue = false;

  constructor(options: TrellisSimOptions) {
    this.#options = options;
    const { ports, config, kit, host, life } = options;
    this.node = new TrellisNode({
      clusterId: kit.clusterId,
      self: { node: host.node, host: host.host },
      keys: host.keys,
      incarnation: life,
      ports,
      config,
      signer: {
        sign: (id, bytes) => {
          const session = this.#sessions.get(id);
          if (session === undefined)
            throw new ClusterError('LOGIN_REQUIRED', { action: 'an edit' });
          return session.keys.sign(bytes);
        },
        retire: (id) => {
          this.#sessions.delete(id);
          if (this.#current?.session.id === id) this.#current = null;
        },
      },
      hasGateway: () => true,
      leases: { ...noLeases, plannerLease: () => options.plannerLease() },
    });
  }

  start(): void {
    const { founding, engine, life } = this.#options;
    this.node.start();
    if (life === 1) for (const record of founding) this.node.addRecord(record);
    engine.powerOn();
    engine.listener = () => this.#requestReconcile(0);
    this.#publishHost();
    this.node.onChange(() => this.#requestReconcile(reconcileMs));
    this.#lookAgain();
  }

  stop(): void {
    this.node.stop();
  }

  /** As an operator logged in on this host; `done` may never be called when the node crashes first. */
  edit(
    puts: readonly LeafPut[],
    done: (result: EditReceipt | ClusterError) => void,
    doc?: string,
  ): void {
    const session = this.#session();
    if (session === null) {
      done(new ClusterError('LOGIN_REQUIRED', { action: 'an edit' }));
      return;
    }
    this.node.edit(session.session, doc ?? this.#doc(), { message: 'simulated', puts }, done);
  }

  /** Plans what the document says now and commits it. */
  apply(done: (error: ClusterError | null) => void): void {
    const session = this.#session();
    const inputs = this.node.planInputs();
    const { crypto } = this.#options.ports;
    const proposal = { inputs, plan: plan(inputs, (bytes) => crypto.sha256(bytes)) };
    this.node.commitPlan(session?.session ?? null, proposal, (result) =>
      done(result instanceof ClusterError ? result : null),
    );
  }

  #doc(): string {
    return `env/${this.#options.kit.env}`;
  }

  /** One per life, and a new one when the last had to be retired. */
  #session(): KitSession | null {
    if (this.#current !== null) return this.#current;
    const { kit, host, index, life } = this.#options;
    const session = kit.namedSession(
      host,
      `host ${index} life ${life} number ${++this.#sessionCount}`,
    );
    const outcome = this.node.addRecord(session.record);
    if (outcome.kind !== 'added') return null;
    this.#sessions.set(session.session.id, session);
    this.#current = session;
    return session;
  }

  #publishHost(): void {
    const { host, index, ports, life } = this.#options;
    const address = `10.0.0.${index + 1}`;
    const fact: HostFact = {
      name: host.name,
      version: '0.1.0',
      addresses: [address],
      advertise: address,
      peerPort: 7440,
      apiPort: 8443,
      isReady: true,
      isLeaving: false,
      isDraining: false,
      bootId: `${index}-${life}`,
      engine: 'ok',
      plan: null,
      isBusy: false,
    };
    this.node.publishFact('host', fact);
    this.node.publishFact('inventory', { cpu: { count: 4 }, memory: { totalBytes: 2 ** 33 } });
    ports.log.debug('sim.started', { life });
  }

  #lookAgain(): void {
    this.#requestReconcile(0);
    this.#options.ports.clock.setTimer(lookAgainMs, () => this.#lookAgain());
  }

  #requestReconcile(delayMs: number): void {
    if (this.#isReconcileDue) return;
    this.#isReconcileDue = true;
    this.#options.ports.clock.setTimer(delayMs, () => {
      this.#isReconcileDue = false;
      this.#reconcile();
    });
  }

  #reconcile(): void {
    const { engine, index } = this.#options;
    const view = this.node.desiredView(`10.0.0.${index + 1}`);
    if (view !== null) {
      const wanted = new Map(view.instances.map((instance) => [instance.instance, instance]));
      for (const name of engine.names())
        if (!wanted.has(name) && !view.keep.includes(name)) engine.remove(name);
      for (const [name, instance] of wanted)
        engine.start(name, { ...instance, serviceId: instance.serviceId as ObjectId });
    }
    this.node.publishFact('docker', engine.fact());
  }
}
