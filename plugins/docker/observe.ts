/**
 * What runs on this host, as its engine says: kept up to date from events, checked by a full look now and then, and
 * published as the fact 'docker'. Nothing is published while nothing changes.
 *
 * Exclusive containers are only ever listed: the engine's answers to everything else may hang behind a closed gate.
 *
 * With the engine away the last known instances stay listed as 'unknown': they may well still run.
 */
import type { ContainerInfo, ContainerInspectInfo } from 'dockerode';
import type { InstanceFact, InstancesFact } from '../../crdt/model.ts';
import type { DesiredInstance, DesiredView, PluginContext } from '../api.ts';
import type { DockerConfig } from './config.ts';
import type { Containers } from './containers.ts';
import type { Engine, EngineEvent } from './engine.ts';
import { isMissing, reasonOf } from './errors.ts';
import type { SeenContainer } from './exclusive.ts';
import type { Gates } from './gates.ts';
import { Limiter } from './files.ts';
import { Prober, type Target } from './health.ts';
import { isOurs, label } from './labels.ts';
import type { Network } from './network.ts';

const inspectsMax = 4;
/** Instances in the fact; it must stay below 256 KiB. */
const instancesMax = 300;
/** The first change is published after this, so that a burst becomes one fact. */
const publishDelayMs = 20;
/** After a start, running instances are asked once before their health is published, but not longer than this. */
const settleMsMax = 1_500;
const reasonCharsMax = 200;

/** Looks at a list for what an event has announced, and the time between two. */
const listLooksMax = 40;
const listLookMs = 25;

/** A question to the engine about one container. */
interface Question {
  /** What the list said; '' when something has happened since. */
  readonly listed: string;
  /** By the list alone: see `exclusive.ts`. */
  readonly isListed: boolean;
  /** What the newest event says of it; undefined: nothing. */
  isRunning: boolean | undefined;
  /** Something has happened since it was asked. */
  isStale: boolean;
}

/** What we remember of a container. */
interface Seen {
  readonly id: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly address: string | null;
  readonly state: InstanceFact['state'];
  readonly isRunning: boolean;
  readonly reason: string | undefined;
  readonly engineHealth: InstanceFact['health'];
  readonly sinceMs: number;
  readonly startedMs: number;
  readonly restarts: number;
  readonly image: string;
  /** What the engine's list said when it was inspected; the same again means nothing changed. */
  readonly listed: string;
}

export class Observer {
  readonly #engine: Engine;
  readonly #context: PluginContext;
  readonly #config: DockerConfig;
  readonly #network: Network;
  readonly #containers: Containers;
  readonly #gates: Gates;
  readonly #prober: Prober;
  readonly #inspects = new Limiter(inspectsMax);
  readonly #seen = new Map<string, Seen>();
  readonly #inspecting = new Map<string, Question & { work: Promise<void> }>();
  #view: DesiredView | null = null;
  #fact: InstancesFact = { engine: { state: 'absent' }, instances: [] };
  #published = '';
  #publishTimer: NodeJS.Timeout | null = null;
  #lookTimer: NodeJS.Timeout | null = null;
  #looking: Promise<void> | null = null;
  #lookAgain = false;
  #firstChangeMs: number | null = null;
  #hasLooked = false;
  #isStopped = false;
  /** Called after each full look with the engine there. */
  readonly #onLook: () => Promise<void>;

  constructor(parts: {
    engine: Engine;
    context: PluginContext;
    config: DockerConfig;
    network: Network;
    containers: Containers;
    gates: Gates;
    onLook: () => Promise<void>;
  }) {
    this.#engine = parts.engine;
    this.#context = parts.context;
    this.#config = parts.config;
    this.#network = parts.network;
    this.#containers = parts.containers;
    this.#gates = parts.gates;
    this.#onLook = parts.onLook;
    this.#prober = new Prober({
      wallMs: () => parts.context.clock.wallMs(),
      onChange: () => this.changed(),
    });
  }

  fact(): InstancesFact {
    return this.#fact;
  }

  /** Of an instance, by its right name. */
  containerOf(instance: string): SeenContainer | null {
    const name = this.#desired(instance)?.containerName;
    for (const seen of this.#seen.values()) if (seen.name === name) return seen;
    return null;
  }

  /** By id or name; null: not one of ours. */
  labelsOf(container: string): SeenContainer['labels'] | null {
    for (const seen of this.#seen.values())
      if (seen.name === container || seen.id.startsWith(container)) return seen.labels;
    return null;
  }

  /** Gates have opened or closed: what is behind a closed one is not asked for its health. */
  gatesChanged(): void {
    this.#watchHealth();
    this.changed();
  }

  /** Instances that have a container of ours. */
  instances(): string[] {
    return [...this.#seen.values()].map(({ labels }) => labels[label.instance] ?? '');
  }

  setView(view: DesiredView): void {
    this.#view = view;
    this.#watchHealth();
    this.changed();
  }

  /** Looks at everything now, and again at every interval. */
  start(): void {
    void this.look();
    this.#lookTimer = setInterval(() => void this.look(), this.#config.lookIntervalMs);
    this.#lookTimer.unref();
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    if (this.#lookTimer !== null) clearInterval(this.#lookTimer);
    if (this.#publishTimer !== null) clearTimeout(this.#publishTimer);
    this.#prober.stop();
    await this.#looking;
  }

  /** Something may have changed: publish soon. */
  changed(): void {
    if (this.#isStopped || this.#publishTimer !== null) return;
    this.#publishTimer = setTimeout(() => {
      this.#publishTimer = null;
      this.#publish();
    }, publishDelayMs);
  }

  /** An event of a container of ours. */
  onEvent(event: EngineEvent): void {
    if (!isOurs(event.labels, this.#context.self)) return;
    if (event.action === 'destroy') {
      this.#seen.delete(event.id);
      this.#watchHealth();
      this.changed();
      this.#wantReconcile(event.labels['name'] ?? '', 'a container was removed');
      return;
    }
    if (!relevant.some((action) => event.action.startsWith(action))) return;
    const isListed = event.labels[label.lease] !== undefined;
    const isRunning = outcomeOf[event.action];
    void this.#inspect(event.id, { listed: '', isListed, isRunning }).then(() =>
      this.#afterEvent(event.id),
    );
  }

  /** Events may have been lost: nothing remembered is trusted. */
  relist(): void {
    for (const [id, seen] of this.#seen) this.#seen.set(id, { ...seen, listed: '' });
    void this.look();
  }

  /** Full look; calls during one make it look once more afterwards. Never rejects. */
  look(): Promise<void> {
    if (this.#looking !== null) {
      this.#lookAgain = true;
      return this.#looking;
    }
    this.#looking = this.#lookOnce()
      .catch((error: unknown) =>
        this.#context.log.debug('docker.look-failed', { reason: reasonOf(error) }),
      )
      .finally(() => {
        this.#looking = null;
        if (!this.#lookAgain || this.#isStopped) return;
        this.#lookAgain = false;
        void this.look();
      });
    return this.#looking;
  }

  async #lookOnce(): Promise<void> {
    if (this.#engine.state !== 'ok') return this.changed();
    const { self } = this.#context;
    const filters = {
      label: [`${label.cluster}=${self.clusterId}`, `${label.host}=${self.hostId}`],
    };
    const list = await this.#engine.call('list containers', (signal) =>
      this.#engine.docker.listContainers({ all: true, filters, abortSignal: signal }),
    );
    const all = list.filter(({ Labels }) => isOurs(Labels, self));
    const ours = all.slice(0, instancesMax);
    if (all.length > ours.length)
      this.#context.log.warn('docker.too-many-instances', { count: all.length, max: instancesMax });
    const ids = new Set(ours.map(({ Id }) => Id));
    for (const id of this.#seen.keys()) if (!ids.has(id)) this.#seen.delete(id);
    await Promise.all(
      ours.map(async (info) => {
        const { Id, State, Status, Names, Labels } = info;
        if (Labels[label.lease] !== undefined) return this.#takeListed(info);
        const listed = `${State} ${healthIn(Status)} ${Names.join(' ')}`;
        if (this.#seen.get(Id)?.listed !== listed)
          await this.#inspect(Id, { listed, isListed: false, isRunning: undefined });
      }),
    );
    this.#hasLooked = true;
    this.#watchHealth();
    this.changed();
    await this.#onLook();
  }

  /**
   * One question per container at a time: answers cannot overtake each other, and a burst of events costs one more
   * question and not one each. Never rejects.
   */
  #inspect(id: string, how: Omit<Question, 'isStale'>): Promise<void> {
    const running = this.#inspecting.get(id);
    if (running !== undefined) {
      running.isStale = true;
      running.isRunning = how.isRunning ?? running.isRunning;
      return running.work;
    }
    const entry = { ...how, isStale: false, work: Promise.resolve() };
    entry.work = this.#inspectUntilFresh(id, entry).finally(() => this.#inspecting.delete(id));
    this.#inspecting.set(id, entry);
    return entry.work;
  }

  async #inspectUntilFresh(id: string, entry: Question): Promise<void> {
    do {
      entry.isStale = false;
      try {
        if (entry.isListed) await this.#listUntilTrue(id, entry);
        else await this.#inspectOnce(id, entry);
      } catch (error) {
        if (isMissing(error)) this.#seen.delete(id);
        else this.#context.log.debug('docker.inspect-failed', { id, reason: reasonOf(error) });
      }
    } while (entry.isStale && !this.#isStopped);
  }

  async #inspectOnce(id: string, entry: Question): Promise<void> {
    const info = await this.#inspects.run(() =>
      this.#engine.call(`inspect ${id}`, (signal) =>
        this.#engine.docker.getContainer(id).inspect({ abortSignal: signal }),
      ),
    );
    this.#seen.set(id, toSeen(info, this.#network.name, entry.isStale ? '' : entry.listed));
  }

  /** The engine sends an event a moment before its list shows what has happened. */
  async #listUntilTrue(id: string, entry: Question): Promise<void> {
    for (let looks = 0; looks < listLooksMax && !this.#isStopped; looks++) {
      await this.#listOne(id);
      const seen = this.#seen.get(id);
      const { isRunning } = entry;
      if (isRunning === undefined || seen === undefined || seen.isRunning === isRunning) return;
      await new Promise((resolve) => setTimeout(resolve, listLookMs));
    }
  }

  async #listOne(id: string): Promise<void> {
    const filters = { id: [id] };
    const [info] = await this.#engine.call('list containers', (signal) =>
      this.#engine.docker.listContainers({ all: true, filters, abortSignal: signal }),
    );
    if (info === undefined) this.#seen.delete(id);
    else this.#takeListed(info);
  }

  #takeListed(info: ContainerInfo): void {
    const { name, network } = { name: info.Id, network: this.#network.name };
    const wallMs = this.#context.clock.wallMs();
    this.#seen.set(name, toSeenListed(info, { network, before: this.#seen.get(name), wallMs }));
  }

  #afterEvent(id: string): void {
    const seen = this.#seen.get(id);
    this.#watchHealth();
    this.changed();
    if (
      seen === undefined ||
      seen.state === 'running' ||
      seen.reason?.startsWith(crashLoop) === true
    )
      return;
    this.#wantReconcile(seen.name, `${seen.name} is ${seen.state}`);
  }

  #wantReconcile(container: string, reason: string): void {
    if (!this.#isStopped && !this.#containers.isBusy(container))
      this.#context.requestReconcile(reason);
  }

  #watchHealth(): void {
    const targets = new Map<string, Target>();
    for (const seen of this.#seen.values()) {
      const instance = this.#desired(seen.labels[label.instance] ?? '');
      const check = instance?.health;
      if (
        instance === undefined ||
        check === undefined ||
        check.kind === 'exec' ||
        !seen.isRunning ||
        seen.address === null ||
        (instance.exclusive !== undefined && !this.#gates.isOpen(instance.exclusive.lease))
      )
        continue;
      const port = instance.ports.find(({ name }) => name === check.port) ?? instance.ports[0];
      if (port === undefined) continue;
      targets.set(instance.instance, {
        containerId: seen.id,
        address: seen.address,
        port: port.container,
        check,
        startedMs: seen.startedMs,
      });
    }
    this.#prober.watch(targets);
  }

  #desired(instance: string): DesiredInstance | undefined {
    return this.#view?.instances.find((desired) => desired.instance === instance);
  }

  #publish(): void {
    // Before the first view nobody knows ports, and before the first probe nobody knows health.
    if (this.#view === null) return;
    if (this.#published === '' && !this.#isReadyToSpeak()) return this.changed();
    this.#fact = { engine: this.#engineFact(), instances: this.#instances(this.#view) };
    const text = JSON.stringify(this.#fact);
    if (text === this.#published) return;
    this.#published = text;
    this.#context.publish(this.#fact);
  }

  /** The first fact after a start waits, within bounds, for what would change it at once: the first look and health. */
  #isReadyToSpeak(): boolean {
    const nowMs = this.#context.clock.monotonicMs();
    this.#firstChangeMs ??= nowMs;
    if (nowMs - this.#firstChangeMs >= settleMsMax) return true;
    return this.#hasLooked && this.#prober.isSettled();
  }

  #engineFact(): InstancesFact['engine'] {
    const { state, reason, version } = this.#engine;
    return {
      state,
      ...(version === null ? {} : { version: version.version }),
      ...(state === 'ok' || reason === '' ? {} : { reason: reason.slice(0, reasonCharsMax) }),
    };
  }

  #instances(view: DesiredView): InstanceFact[] {
    const facts = new Map<string, InstanceFact>();
    for (const seen of this.#seen.values()) {
      const instance = seen.labels[label.instance] ?? '';
      const fact = this.#factOf(instance, seen, view);
      // A duplicate is on its way out; the one with the right name counts.
      if (!facts.has(instance) || seen.name === this.#desired(instance)?.containerName)
        facts.set(instance, fact);
    }
    for (const desired of view.instances)
      if (!facts.has(desired.instance))
        facts.set(desired.instance, this.#absentFact(desired, view));
    return [...facts.values()]
      .toSorted((a, b) => (a.instance < b.instance ? -1 : 1))
      .slice(0, instancesMax);
  }

  #factOf(instance: string, seen: Seen, view: DesiredView): InstanceFact {
    const desired = this.#desired(instance);
    const service = seen.labels[label.service] ?? '';
    const situation = seen.isRunning ? null : this.#containers.situationOf(instance);
    const isUnknown = this.#engine.state !== 'ok';
    const state = isUnknown ? 'unknown' : situation?.state === 'failed' ? 'failed' : seen.state;
    const reason = isUnknown ? this.#engine.reason : (situation?.reason ?? seen.reason);
    return {
      service,
      serviceId: (seen.labels[label.serviceId] ?? '') as InstanceFact['serviceId'],
      slot: instance.slice(service.length + 1),
      instance,
      containerId: seen.id,
      address: seen.address,
      state,
      health: seen.isRunning ? (this.#prober.status(instance) ?? seen.engineHealth) : 'none',
      image:
        desired?.spec === seen.labels[label.spec] ? (desired?.image ?? seen.image) : seen.image,
      spec: seen.labels[label.spec] ?? '',
      ports: desired === undefined ? [] : portsOf(desired, view),
      sinceMs: seen.sinceMs,
      ...(reason === undefined || reason === '' ? {} : { reason: reason.slice(0, reasonCharsMax) }),
      restarts: seen.restarts,
    };
  }

  #absentFact(desired: DesiredInstance, view: DesiredView): InstanceFact {
    const situation = this.#containers.situationOf(desired.instance);
    const isUnknown = this.#engine.state !== 'ok';
    const reason = isUnknown ? this.#engine.reason : situation?.reason;
    return {
      service: desired.service,
      serviceId: desired.serviceId,
      slot: desired.slot,
      instance: desired.instance,
      containerId: '',
      address: this.#network.addressOf(desired.instance),
      state: isUnknown ? 'unknown' : (situation?.state ?? 'waiting'),
      health: 'none',
      image: desired.image,
      spec: desired.spec,
      ports: portsOf(desired, view),
      sinceMs: 0,
      ...(reason === undefined || reason === '' ? {} : { reason: reason.slice(0, reasonCharsMax) }),
      restarts: 0,
    };
  }
}

/** Beginnings of the actions after which a container may be in another state. */
const relevant = [
  'create',
  'start',
  'die',
  'stop',
  'kill',
  'oom',
  'pause',
  'unpause',
  'restart',
  'rename',
  'health_status',
] as const;
/** Whether it runs after an event. */
const outcomeOf: Readonly<Record<string, boolean>> = { start: true, die: false, stop: false };
const crashLoop = 'CRASH_LOOP';

function portsOf(desired: DesiredInstance, view: DesiredView): InstanceFact['ports'] {
  const route = view.routes.find(({ service }) => service === desired.service);
  return desired.ports.map(({ name, container, host }) => ({
    name,
    container,
    host: host ?? null,
    number: route?.ports.find((port) => port.name === name)?.number ?? null,
  }));
}

/** 'Up 3 minutes (healthy)': the time passes, the word in brackets counts. */
function healthIn(status: string): string {
  return /\((healthy|unhealthy|health: starting|Paused)\)/.exec(status)?.[1] ?? '';
}

/** A container as the engine describes it, in our words. */
export function toSeen(info: ContainerInspectInfo, network: string, listed: string): Seen {
  const { State: state } = info;
  const endpoint = info.NetworkSettings.Networks[network] as
    | { IPAMConfig?: { IPv4Address?: string } | null; IPAddress?: string }
    | undefined;
  const address = endpoint?.IPAMConfig?.IPv4Address ?? endpoint?.IPAddress ?? '';
  const isRunning = state.Running && !state.Restarting && !state.Paused;
  const startedMs = timeOf(state.StartedAt);
  const endedMs = timeOf(state.FinishedAt);
  return {
    id: info.Id,
    name: info.Name.replace(/^\//, ''),
    labels: info.Config.Labels,
    address: address === '' ? null : address,
    ...stateOf(info),
    isRunning,
    engineHealth: healthOf(state.Health?.Status),
    sinceMs: (isRunning ? startedMs : endedMs) || timeOf(info.Created),
    startedMs,
    restarts: info.RestartCount,
    image: info.Config.Image,
    listed,
  };
}

/**
 * The same from a list, which knows neither times nor what is behind words like 'Exited (137) 2 minutes ago'. Times are
 * when we saw it change.
 */
export function toSeenListed(
  info: ContainerInfo,
  known: { network: string; before: Seen | undefined; wallMs: number },
): Seen {
  const { State: word, Status: status } = info;
  const endpoint = info.NetworkSettings.Networks[known.network] as
    | { IPAMConfig?: { IPv4Address?: string } | null; IPAddress?: string }
    | undefined;
  const address = endpoint?.IPAMConfig?.IPv4Address ?? endpoint?.IPAddress ?? '';
  const isRunning = word === 'running' && !status.includes('(Paused)');
  const before = known.before?.listed === word ? known.before : undefined;
  const sinceMs = before?.sinceMs ?? (word === 'created' ? info.Created * 1000 : known.wallMs);
  return {
    id: info.Id,
    name: (info.Names[0] ?? '').replace(/^\//, ''),
    labels: info.Labels,
    address: address === '' ? null : address,
    ...stateListed(word, status),
    isRunning,
    engineHealth: healthOf(/\((?:health: )?(healthy|unhealthy|starting)\)/.exec(status)?.[1]),
    sinceMs,
    startedMs: isRunning ? sinceMs : 0,
    restarts: 0,
    image: info.Image,
    listed: word,
  };
}

function stateListed(word: string, status: string): Pick<Seen, 'state' | 'reason'> {
  if (word === 'running') return { state: 'running', reason: undefined };
  if (word === 'created') return { state: 'created', reason: undefined };
  if (word === 'paused') return { state: 'exited', reason: 'PAUSED' };
  if (word === 'dead') return { state: 'failed', reason: 'DEAD: the engine could not remove it' };
  const code = /\((\d+)\)/.exec(status)?.[1];
  return { state: 'exited', reason: `EXITED: exit code ${code ?? 'unknown'}` };
}

function stateOf({ State: state }: ContainerInspectInfo): Pick<Seen, 'state' | 'reason'> {
  const end = state.OOMKilled ? 'killed for lack of memory' : `exit code ${state.ExitCode}`;
  if (state.Restarting)
    return { state: 'failed', reason: `${crashLoop}: ${end}; the engine starts it again` };
  if (state.Paused) return { state: 'exited', reason: 'PAUSED' };
  if (state.Running) return { state: 'running', reason: undefined };
  if (state.Status === 'created')
    return state.Error === ''
      ? { state: 'created', reason: undefined }
      : { state: 'failed', reason: `ENGINE_REFUSED: ${state.Error}` };
  if (state.Dead) return { state: 'failed', reason: 'DEAD: the engine could not remove it' };
  return { state: 'exited', reason: `EXITED: ${state.Error === '' ? end : state.Error}` };
}

function healthOf(status: string | undefined): InstanceFact['health'] {
  return status === 'healthy' || status === 'unhealthy' || status === 'starting' ? status : 'none';
}

/** The engine writes year 1 for "never". */
function timeOf(text: string): number {
  const ms = Date.parse(text);
  return Number.isFinite(ms) && ms > 0 ? ms : 0;
}
