/**
 * The container engine of one simulated host: it outlives the daemon, and after a power-cut brings back what ran, as
 * restart policy `unless-stopped` does. Starting takes a while; what runs may run on while nobody looks.
 */
import type { ObjectId } from '../../crdt/ids.ts';
import type { InstanceFact, InstancesFact } from '../../crdt/model.ts';
import type { SimRandom } from './sim-random.ts';
import type { Scheduler } from './scheduler.ts';

interface Container {
  readonly service: string;
  readonly serviceId: ObjectId;
  readonly slot: string;
  state: 'created' | 'running';
  readonly sinceMs: number;
}

export interface EngineChange {
  readonly atMs: number;
  readonly host: number;
  /** '<service>-<slot>'. */
  readonly instance: string;
  readonly isRunning: boolean;
}

export class SimEngine {
  readonly #host: number;
  readonly #scheduler: Scheduler;
  readonly #random: SimRandom;
  readonly #containers = new Map<string, Container>();
  readonly #onChange: (change: EngineChange) => void;
  #boots = 0;
  isOn = true;
  /** The daemon of this life; told when something started or died. */
  listener: (() => void) | null = null;

  constructor(options: {
    host: number;
    scheduler: Scheduler;
    random: SimRandom;
    onChange: (change: EngineChange) => void;
  }) {
    this.#host = options.host;
    this.#scheduler = options.scheduler;
    this.#random = options.random;
    this.#onChange = options.onChange;
  }

  /** Names of what runs now. */
  running(): readonly string[] {
    if (!this.isOn) return [];
    return [...this.#containers]
      .filter(([, { state }]) => state === 'running')
      .map(([name]) => name);
  }

  names(): readonly string[] {
    return [...this.#containers.keys()];
  }

  start(name: string, of: { service: string; serviceId: ObjectId; slot: string }): void {
    if (this.#containers.has(name)) return;
    const { service, serviceId, slot } = of;
    const container: Container = {
      service,
      serviceId,
      slot,
      state: 'created',
      sinceMs: this.#scheduler.nowMs,
    };
    this.#containers.set(name, container);
    this.#runSoon(name, container);
  }

  remove(name: string): void {
    const container = this.#containers.get(name);
    if (container === undefined) return;
    this.#containers.delete(name);
    if (container.state === 'running') this.#tell(name, false);
  }

  powerOff(): void {
    if (!this.isOn) return;
    for (const name of this.running()) this.#tell(name, false);
    this.isOn = false;
    this.#boots++;
    for (const container of this.#containers.values()) container.state = 'created';
  }

  powerOn(): void {
    if (this.isOn) return;
    this.isOn = true;
    for (const [name, container] of this.#containers) this.#runSoon(name, container);
  }

  fact(): InstancesFact {
    const instances = [...this.#containers].map(([instance, container]): InstanceFact => ({
      service: container.service,
      serviceId: container.serviceId,
      slot: container.slot,
      instance,
      containerId: `${this.#host}-${instance}`,
      address: null,
      state: container.state,
      health: 'none',
      image: 'demo',
      spec: '',
      ports: [],
      sinceMs: Math.round(container.sinceMs),
      restarts: 0,
    }));
    return { engine: { state: 'ok' }, instances };
  }

  #runSoon(name: string, container: Container): void {
    const boot = this.#boots;
    this.#scheduler.after(this.#random.between(100, 800), () => {
      if (boot !== this.#boots || this.#containers.get(name) !== container) return;
      container.state = 'running';
      this.#tell(name, true);
      this.listener?.();
    });
  }

  #tell(instance: string, isRunning: boolean): void {
    this.#onChange({ atMs: this.#scheduler.nowMs, host: this.#host, instance, isRunning });
  }
}
