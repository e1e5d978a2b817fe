/**
 * The kernel's own traffic gate: a second line that needs no process. Packets to and from the addresses of exclusive
 * containers pass only while their address stands in a set whose elements run out by themselves when authority does; so
 * traffic ends in time although guard and daemon were killed.
 *
 * An nft table of our own: its chains come before the packet filter's of everybody else (a drop there is final, whoever
 * accepts later, established connections included), and its sets count milliseconds, which ipset's do not. One nft in
 * interactive mode takes the refreshes of all leases on its standard input: a new process each time costs twenty times as
 * much. A line is one transaction; "add, delete, add" restarts a clock on every kernel, also when the element has run out.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { reasonOf } from '../../errors.ts';
import type { Log } from '../../ports.ts';

/** Before the packet filter's 0, where engines and iptables have their rules. */
const priority = -20;
/** Addresses of one command; a line of several is one transaction. */
const addressesPerLineMax = 256;
const restartMs = 1_000;
/** Parked work has no end: nor has its element. */
const endlessMs = 86_400_000;
/** Lines that wait for a slow nft; then it is given up and started anew with the whole state. */
const unreadBytesMax = 1 << 20;
const errorCharsMax = 300;

export interface TrafficState {
  readonly addresses: readonly string[];
  /** On the authority clock; null: cut; beyond `endlessMs` from now: without end. */
  readonly untilMs: number | null;
}

export class TrafficGate {
  readonly #table: string;
  readonly #log: Log;
  readonly #nowMs: () => number;
  readonly #command: readonly string[];
  readonly #leases = new Map<string, TrafficState>();
  readonly #before: ReadonlyMap<string, number>;
  #child: ChildProcess | null = null;
  #restart: NodeJS.Timeout | null = null;
  #isClosed = false;
  /** Why the kernel does not hold the gate; null: it does. A warning: the cgroup gate is the proof. */
  fault: string | null = null;
  lines = 0;

  constructor(options: {
    /** First 8 digits of the cluster and first 4 of the host: several hosts may share a machine. */
    readonly cluster8: string;
    readonly host4: string;
    readonly log: Log;
    /** Authority clock. */
    readonly nowMs: () => number;
    /** Of leases that are open already, when a guard continues. */
    readonly untilMs?: ReadonlyMap<string, number>;
    /** Another way to nft, e.g. into another network namespace. */
    readonly command?: readonly string[];
  }) {
    this.#table = `trellis_x_${options.cluster8}_${options.host4}`;
    this.#log = options.log;
    this.#nowMs = options.nowMs;
    this.#before = options.untilMs ?? new Map();
    this.#command = options.command ?? ['nft'];
  }

  /** All leases that have addresses; what is not listed passes again. Starts the tool when there are any. */
  setLeases(wanted: ReadonlyMap<string, readonly string[]>): void {
    let isChanged = false;
    for (const name of this.#leases.keys()) {
      if (!wanted.has(name)) isChanged = this.#leases.delete(name) || isChanged;
    }
    for (const [name, addresses] of wanted) {
      const known = this.#leases.get(name);
      const usable = addresses.filter(isIpv4);
      if (known?.addresses.join() === usable.join()) continue;
      this.#leases.set(name, {
        addresses: usable,
        untilMs: known?.untilMs ?? this.#before.get(name) ?? null,
      });
      isChanged = true;
    }
    if (!isChanged) return;
    if (this.#child === null && this.#leases.size > 0) this.#start();
    else this.#writeAll();
  }

  /** Lets traffic pass until then; null: cuts it now. Takes effect at `flush`. */
  set(name: string, untilMs: number | null): void {
    const known = this.#leases.get(name);
    if (known === undefined) return;
    this.#leases.set(name, { ...known, untilMs });
    this.#dirty.add(name);
  }

  readonly #dirty = new Set<string>();

  /** What was set since the last one, in as few lines as fit. */
  flush(): void {
    if (this.#dirty.size === 0) return;
    const states = [...this.#dirty].flatMap((name) => this.#leases.get(name) ?? []);
    this.#dirty.clear();
    this.#write(this.#refreshLines(states));
  }

  /** Leaves the table: its sets run out by themselves, which is what it is for. */
  close(): void {
    this.#isClosed = true;
    if (this.#restart !== null) clearTimeout(this.#restart);
    this.#child?.stdin?.end();
  }

  /** Takes the table away: nothing is exclusive here any more. */
  remove(): void {
    this.#write([`delete table ip ${this.#table}`]);
    this.close();
  }

  #start(): void {
    if (this.#isClosed) return;
    const [program = 'nft', ...args] = this.#command;
    const child = spawn(program, [...args, '-i'], { stdio: ['pipe', 'ignore', 'pipe'] });
    this.#child = child;
    this.fault = null;
    child.on('error', (error) => this.#ended(child, `nft could not be started: ${error.message}`));
    child.on('exit', (status, signal) => this.#ended(child, `nft ended (${signal ?? status})`));
    child.stdin?.on('error', (error) => this.#ended(child, reasonOf(error)));
    child.stderr?.on('data', (bytes: Buffer) => {
      const text = bytes.toString('utf8').trim().slice(0, errorCharsMax);
      if (text === '') return;
      this.fault = text.split('\n')[0] ?? text;
      this.#log.warn('guard.traffic-gate', { error: text });
    });
    this.#writeAll();
  }

  #ended(child: ChildProcess, why: string): void {
    if (this.#child !== child) return;
    this.#child = null;
    child.kill('SIGKILL');
    if (this.#isClosed) return;
    if (this.fault !== why) this.#log.warn('guard.traffic-gate', { error: why });
    this.fault = why;
    this.#restart = setTimeout(() => {
      if (this.#leases.size > 0) this.#start();
    }, restartMs);
    this.#restart.unref();
  }

  /** The table as a whole, in one transaction; then the clocks. */
  #writeAll(): void {
    const table = `ip ${this.#table}`;
    const addresses = [...this.#leases.values()].flatMap((lease) => lease.addresses);
    const all = [...new Set(addresses)];
    const chain = (hook: string, rules: readonly string[]): string =>
      `chain ${hook} { type filter hook ${hook} priority ${priority}; policy accept; ${rules.join('; ')}; }`;
    const to = 'ip daddr @exclusive ip daddr != @live drop';
    const from = 'ip saddr @exclusive ip saddr != @live drop';
    const sets = [
      'set exclusive { type ipv4_addr; }',
      'set live { type ipv4_addr; flags timeout; }',
    ];
    const body = [
      ...sets,
      chain('forward', [to, from]),
      chain('output', [to]),
      chain('input', [from]),
    ].join('; ');
    // The first `add` makes sure that there is something to delete.
    const lines = [`add table ${table}; delete table ${table}; add table ${table} { ${body}; }`];
    const fill =
      all.length === 0
        ? []
        : [...chunksOf(all)].map(
            (chunk) => `add element ${table} exclusive { ${chunk.join(', ')} }`,
          );
    const states = [...this.#leases.values()];
    // In one transaction as far as it fits: no packet meets a gate without its clocks.
    const refresh = this.#refreshLines(states);
    this.#write([[...lines, ...fill, ...refresh].join('; ')]);
  }

  #refreshLines(states: readonly TrafficState[]): string[] {
    const set = `ip ${this.#table} live`;
    const nowMs = this.#nowMs();
    const lines: string[] = [];
    const byTime = new Map<number, string[]>();
    for (const { addresses, untilMs } of states) {
      const leftMs = untilMs === null ? 0 : Math.max(0, Math.floor(untilMs - nowMs));
      byTime.set(leftMs, [...(byTime.get(leftMs) ?? []), ...addresses]);
    }
    for (const [leftMs, addresses] of byTime) {
      for (const chunk of chunksOf([...new Set(addresses)])) {
        const there = chunk.map((address) => `${address} timeout 1s`).join(', ');
        const names = chunk.join(', ');
        const parts = [`add element ${set} { ${there} }`, `delete element ${set} { ${names} }`];
        if (leftMs > 0) {
          const end = leftMs > endlessMs ? '' : ` timeout ${leftMs}ms`;
          const timed = chunk.map((address) => `${address}${end}`).join(', ');
          parts.push(`add element ${set} { ${timed} }`);
        }
        lines.push(parts.join('; '));
      }
    }
    return lines;
  }

  #write(lines: readonly string[]): void {
    const stdin = this.#child?.stdin;
    if (stdin === null || stdin === undefined || lines.length === 0) return;
    this.lines += lines.length;
    stdin.write(lines.map((line) => `${line}\n`).join(''));
    if (stdin.writableLength > unreadBytesMax && this.#child !== null) {
      this.#ended(this.#child, 'nft does not read');
    }
  }
}

function* chunksOf(list: readonly string[]): Generator<readonly string[]> {
  for (let start = 0; start < list.length; start += addressesPerLineMax) {
    yield list.slice(start, start + addressesPerLineMax);
  }
}

/** Container addresses of the engine's networks; anything else would be text in a command. */
function isIpv4(text: string): boolean {
  return /^(\d{1,3}\.){3}\d{1,3}$/.test(text);
}
