/** The daemon's end of the guard's socket, against a guard that says what the test wants. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import type { Server, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { ClusterId, HostId } from '../../crdt/ids.ts';
import { systemClock } from '../../daemon/clock.ts';
import { keyPairFromSeed, systemCrypto } from '../../daemon/crypto.ts';
import { ensureLeaseIdentity } from '../../daemon/lease-identity.ts';
import { LeaseLink } from '../../daemon/lease-link.ts';
import { readLeaseCertificate } from '../../daemon/lease/certificate.ts';
import type {
  FromGuard,
  GuardDesired,
  GuardNotice,
  GuardStatus,
  LeaseStatus,
  ToGuard,
} from '../../daemon/lease/guard-api.ts';
import { systemRandom } from '../../daemon/random.ts';
import { eventually } from '../await.ts';

const db = 'service/prod/00000000000000aa';
const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
let dir: string;

/** Listens like a guard and keeps what it hears. */
class FakeGuard {
  readonly heard: ToGuard[] = [];
  readonly #server: Server;
  #socket: Socket | null = null;

  constructor(path: string) {
    this.#server = createServer((socket) => {
      this.#socket = socket;
      let text = '';
      socket.on('data', (chunk) => {
        const lines = (text + chunk.toString()).split('\n');
        text = lines.pop() ?? '';
        this.heard.push(...lines.map((line) => JSON.parse(line) as ToGuard));
      });
      socket.on('error', () => socket.destroy());
    }).listen(path);
  }

  say(...lines: FromGuard[]): void {
    this.#socket?.write(lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
  }

  hello(v = 1): void {
    this.say({ kind: 'hello', v, version: '1.0.0', pid: 7, leasePort: 7441 });
  }

  drop(): void {
    this.#socket?.destroy();
  }

  async close(): Promise<void> {
    this.drop();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  kinds(): string[] {
    return this.heard.map(({ kind }) => kind);
  }
}

function status(lease: Partial<LeaseStatus> = {}): GuardStatus {
  const one = { name: db, state: 'active', epoch: 4, holder: null, gate: 'open', ...lease };
  const empty = { chosen: null, hasQuorum: true, isParked: false, silentMs: 0, gateFault: null };
  return { ...empty, env: 'prod', voters: [], leases: [one] } as unknown as GuardStatus;
}

const desired = (env: string): GuardDesired => ({ env }) as unknown as GuardDesired;

describe('the link', () => {
  let guard: FakeGuard;
  let link: LeaseLink;
  let notices: GuardNotice[];
  let changes: number;
  const socketPath = (): string => join(dir, 'guard.sock');
  const signal = new AbortController().signal;

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'trellis-link-'));
    guard = new FakeGuard(socketPath());
    notices = [];
    changes = 0;
    link = new LeaseLink({
      start: { stateDir: dir, runDir: dir, listen: '127.0.0.1:0' },
      maySpawn: false,
      version: '1.0.0',
      hostName: () => 'h1',
      clock: systemClock,
      log: silent,
      facts: () => [],
      onNotice: (notice) => notices.push(notice),
    });
    link.onChange(() => changes++);
  });
  afterEach(async () => {
    await link.stop();
    await guard.close();
    rmSync(dir, { recursive: true });
  });

  const connected = async (): Promise<void> => {
    link.start();
    await eventually(() => guard.kinds().includes('hello'), { withinMs: 5_000 });
    guard.hello();
    await eventually(() => link.guard !== null, { withinMs: 5_000 });
  };

  test('says what is wanted after every connect, and only when it has changed', async () => {
    link.push(desired('a'));
    link.push(desired('b'));
    await connected();
    await eventually(() => guard.kinds().includes('status'), { withinMs: 5_000 });
    const wishes = () =>
      guard.heard.flatMap((line) => (line.kind === 'desired' ? [line.desired.env] : []));
    expect(wishes()).toEqual(['b']);
    link.push(desired('b'));
    link.push(desired('c'));
    await eventually(() => wishes().length === 2, { withinMs: 5_000 });
    expect(wishes()).toEqual(['b', 'c']);
    guard.drop();
    await eventually(() => link.guard === null, { withinMs: 5_000 });
    await eventually(() => guard.kinds().filter((kind) => kind === 'hello').length === 2, {
      withinMs: 5_000,
    });
    guard.hello();
    await eventually(() => wishes().length === 3, { withinMs: 5_000 });
    expect(wishes().at(-1)).toBe('c');
  });

  test('gates are as the newest word says, and closed to us while nobody speaks', async () => {
    await connected();
    guard.say({ kind: 'status', id: null, status: status() });
    await eventually(() => link.gates().get(db), { withinMs: 5_000 });
    expect(link.gates().get(db)).toEqual({ epoch: 4, mayStart: true });
    guard.say({ kind: 'status', id: null, status: status({ state: 'handing-over' }) });
    await eventually(() => link.gates().get(db)?.mayStart === false, { withinMs: 5_000 });
    guard.say({
      kind: 'notice',
      notice: { kind: 'closed', name: db, epoch: 4, isKilled: true, why: '' },
    });
    await eventually(() => notices.length === 1, { withinMs: 5_000 });
    expect(link.gates().size).toBe(0);
    guard.say({
      kind: 'notice',
      notice: { kind: 'open', name: db, epoch: 5, isResumed: false },
    });
    await eventually(() => link.gates().get(db)?.epoch === 5, { withinMs: 5_000 });
    guard.drop();
    await eventually(() => link.guard === null, { withinMs: 5_000 });
    expect([link.gates().size, link.status(), link.leasePort]).toEqual([0, null, 0]);
  });

  test('is quiet about what changes by itself', async () => {
    await connected();
    guard.say({ kind: 'status', id: null, status: status({ remainMs: 1_000 }) });
    await eventually(() => link.status() !== null, { withinMs: 5_000 });
    const before = changes;
    guard.say({ kind: 'status', id: null, status: status({ remainMs: 900 }) });
    await eventually(() => link.status()?.leases[0]?.remainMs === 900, { withinMs: 5_000 });
    expect(changes).toBe(before);
  });

  test('matches answers to commands, and fails them when the guard goes', async () => {
    await expect(link.testGate(signal)).rejects.toMatchObject({ code: 'GUARD_UNREACHABLE' });
    await connected();
    const release = link.command({ kind: 'release', name: db, reason: '' }, signal);
    const park = link.command({ kind: 'park', name: null }, signal);
    const ids = async (): Promise<number[]> =>
      eventually(
        () => {
          const found = guard.heard.flatMap((line) => (line.kind === 'command' ? [line.id] : []));
          return found.length === 2 && found;
        },
        { withinMs: 5_000 },
      );
    const [first = 0, second = 0] = await ids();
    guard.say({ kind: 'reply', id: second, reply: { isOk: true, epoch: 9 } });
    expect(await park).toEqual({ isOk: true, epoch: 9 });
    guard.say({
      kind: 'reply',
      id: first,
      reply: { isOk: false, code: 'LEASE_BUSY', details: {} },
    });
    expect(await release).toMatchObject({ isOk: false, code: 'LEASE_BUSY' });
    const lost = link.command({ kind: 'unpark', name: null }, signal);
    const aborted = link.command({ kind: 'park', name: db }, AbortSignal.timeout(1));
    await expect(aborted).rejects.toMatchObject({ name: 'TimeoutError' });
    guard.drop();
    await expect(lost).rejects.toMatchObject({ code: 'GUARD_UNREACHABLE' });
  });

  test('does not speak with a guard of another age', async () => {
    link.start();
    await eventually(() => guard.kinds().includes('hello'), { withinMs: 5_000 });
    guard.hello(3);
    await eventually(() => guard.kinds().filter((kind) => kind === 'hello').length === 2, {
      withinMs: 5_000,
    });
    expect(link.guard).toBeNull();
  });
});

describe('the key of the guard', () => {
  const hostKeys = keyPairFromSeed(new Uint8Array(32).fill(1));
  const member = {
    clusterId: 'c'.repeat(32) as ClusterId,
    host: 'a'.repeat(32) as HostId,
    hostKeys,
  };
  const certificate = (at: string) =>
    JSON.parse(readFileSync(join(at, 'certificate.json'), 'utf8')) as object;

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'trellis-lease-'));
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  test('is made once, is nobody else’s to read, and is certified by the host', () => {
    const at = join(dir, 'lease');
    ensureLeaseIdentity(at, member, systemRandom);
    const [key, first] = [readFileSync(join(at, 'key'), 'utf8'), certificate(at)];
    expect(key).toMatch(/^[0-9a-f]{64}\n$/);
    expect(statSync(join(at, 'key')).mode & 0o077).toBe(0);
    expect(readLeaseCertificate(first, systemCrypto)).toMatchObject({ v: 1, host: member.host });
    ensureLeaseIdentity(at, member, systemRandom);
    expect([readFileSync(join(at, 'key'), 'utf8'), certificate(at)]).toEqual([key, first]);
    const other = { ...member, clusterId: 'd'.repeat(32) as ClusterId };
    ensureLeaseIdentity(at, other, systemRandom);
    expect(certificate(at)).toMatchObject({ clusterId: other.clusterId });
    expect(readFileSync(join(at, 'key'), 'utf8')).toBe(key);
  });

  test('a damaged one is made again; a certificate that was changed is none', () => {
    const at = join(dir, 'lease');
    mkdirSync(at);
    writeFileSync(join(at, 'key'), 'torn');
    writeFileSync(join(at, 'certificate.json'), '{"v":');
    ensureLeaseIdentity(at, member, systemRandom);
    expect(readFileSync(join(at, 'key'), 'utf8')).toMatch(/^[0-9a-f]{64}\n$/);
    const made = certificate(at);
    expect(readLeaseCertificate(made, systemCrypto)).not.toBeNull();
    for (const change of [{ host: 'b'.repeat(32) }, { v: 2 }, { sig: 'f'.repeat(128) }])
      expect(readLeaseCertificate({ ...made, ...change }, systemCrypto)).toBeNull();
    expect(readLeaseCertificate('x', systemCrypto)).toBeNull();
  });
});
