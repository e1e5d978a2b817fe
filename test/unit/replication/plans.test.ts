import { describe, expect, test } from 'vitest';
import { encode } from '../../../crdt/codec.ts';
import { hex } from '../../../crdt/ids.ts';
import type { Hash, HostId, ObjectId } from '../../../crdt/ids.ts';
import type { Plan, PlanInputs, Service } from '../../../crdt/model.ts';
import { seal } from '../../../crdt/records.ts';
import type { PlanRecord, SignedBytes } from '../../../crdt/records.ts';
import { decidedHash, planPartBytes, Plans } from '../../../daemon/replication/plans.ts';
import type { DecidedInputs } from '../../../daemon/replication/plans.ts';
import { ClusterKit } from '../../cluster-kit.ts';
import type { KitHost } from '../../cluster-kit.ts';
import { SimCrypto } from '../../sim/sim-crypto.ts';

const crypto = new SimCrypto();
const kit = new ClusterKit(crypto);
const login = kit.session(kit.host(0));
const env = 'prod';

function service(name: string, image = 'x:1'): Service {
  return {
    id: hex(crypto.sha256(encode(name))).slice(0, 16) as ObjectId,
    name,
    source: 'test',
    role: 'web',
    image,
    command: [],
    count: { perRole: { min: 1, max: 1 } },
    ports: [],
    env: {},
    resources: {},
    dependsOn: [],
    placement: { policy: 'spread', where: {} },
    onIsolation: 'keep',
    stopGraceMs: 1,
    isEnabled: true,
    restarts: 0,
  };
}

function inputsOf(services: readonly Service[], hosts: readonly string[] = ['h1']): PlanInputs {
  return {
    v: 1,
    env,
    roles: [],
    services,
    images: [],
    numbers: [],
    previous: [],
    hosts: hosts.map((name) => ({
      id: name as HostId,
      name,
      roles: ['web'],
      meta: {},
      isAlive: true,
      isDrained: false,
      cpu: 1,
      memoryBytes: 1,
    })),
  };
}

/** Everything on the first host. */
function compute(inputs: PlanInputs): Plan {
  const host = inputs.hosts[0]?.id ?? ('' as HostId);
  return {
    v: 1,
    env: inputs.env,
    inputHash: '' as Hash,
    unplaceable: [],
    warnings: [],
    placements: inputs.services.map(({ id, name }) => ({
      service: id,
      serviceName: name,
      slot: '0',
      host,
    })),
  };
}

interface Made {
  readonly signed: SignedBytes;
  readonly blobs: ReadonlyMap<Hash, Uint8Array>;
}

const hashOf = (bytes: Uint8Array): Hash => hex(crypto.sha256(bytes)) as Hash;

class Peer {
  readonly plans: Plans;
  /** What the document says. */
  now: DecidedInputs = inputsOf([]);
  isSessionKnown = true;
  /** Heads that its documents do not hold yet. */
  readonly missing = new Set<Hash>();

  constructor() {
    this.plans = new Plans({
      clusterId: kit.clusterId,
      crypto,
      blobBytesMax: 4 << 20,
      sessionKey: () => (this.isSessionKnown ? login.keys.publicKey : null),
      mayPlan: () => true,
      isMemberOf: (node, of) => of === env && node !== kit.host(9).node,
      compute,
      desired: () => this.now,
      hasHeads: (heads) =>
        Object.values(heads).every((known) => known.every((head) => !this.missing.has(head))),
    });
  }

  make(inputs: PlanInputs, by: KitHost | null = null, changes: Partial<PlanRecord> = {}): Made {
    return this.makeFrom(encode(compute(inputs)), encode(inputs), by, {
      decided: decidedHash(inputs, crypto),
      ...changes,
    });
  }

  makeFrom(
    plan: Uint8Array,
    inputs: Uint8Array,
    by: KitHost | null,
    changes: Partial<PlanRecord>,
  ): Made {
    const next = this.plans.next(env);
    const record: PlanRecord = {
      kind: 'plan',
      v: 1,
      clusterId: kit.clusterId,
      env,
      ...next,
      past: [...next.past],
      inputHash: hashOf(inputs),
      inputBlob: hashOf(inputs),
      blob: hashOf(plan),
      ...(by === null ? { session: login.session.id } : { host: by.keys.publicKey }),
      at: 0,
      ...changes,
    };
    const keys = by === null ? login.keys : by.keys;
    const signed = seal(record, (bytes) => keys.sign(bytes));
    return { signed, blobs: new Map([plan, inputs].map((blob) => [hashOf(blob), blob])) };
  }

  commit(inputs: PlanInputs, by: KitHost | null = null, changes: Partial<PlanRecord> = {}): Made {
    const made = this.make(inputs, by, changes);
    expect(this.take(made)).toBe('adopted');
    return made;
  }

  take(made: Made): string {
    return this.plans.accept(made.signed, made.blobs);
  }

  images(): readonly string[] {
    return this.plans.current(env)?.committed.inputs.services.map((one) => one.image) ?? [];
  }
}

const image = (name: string): PlanInputs => inputsOf([service('site', name)]);

describe('the order of plans', () => {
  test('the highest wins whole, in any order of arrival', () => {
    const [a, b] = [new Peer(), new Peer()];
    const first = a.commit(image('x:1'));
    const second = a.commit(image('x:2'));
    b.take(second);
    expect(b.take(first)).toBe('known');
    expect(b.images()).toEqual(['x:2']);
    expect(b.plans.heads()).toEqual(a.plans.heads());
    expect(b.plans.isMergePending(env)).toBe(false);
  });

  test('of two with one number the same wins everywhere, and both sides know that work is missing', () => {
    const [a, b] = [new Peer(), new Peer()];
    b.take(a.commit(image('x:1')));
    const [onA, onB] = [a.commit(image('x:2')), b.commit(image('x:3'))];
    a.take(onB);
    b.take(onA);
    expect(a.plans.heads()).toEqual(b.plans.heads());
    for (const peer of [a, b]) expect(peer.plans.isMergePending(env)).toBe(true);
    const merged = a.commit(inputsOf([service('site', 'x:2'), service('other', 'x:3')]));
    b.take(merged);
    for (const peer of [a, b]) expect(peer.plans.isMergePending(env)).toBe(false);
    // Whoever comes late with the loser starts nothing anew.
    for (const late of [onA, onB]) b.take(late);
    expect(b.plans.isMergePending(env)).toBe(false);
  });

  test('a rival is not settled before the edits that it was made of are here', () => {
    const [a, b] = [new Peer(), new Peer()];
    b.take(a.commit(image('x:1')));
    const [mine, yours] = [hashOf(new Uint8Array([1])), hashOf(new Uint8Array([2]))];
    const onA = a.commit(image('x:2'), null, { heads: { cluster: [], 'env/prod': [mine] } });
    const onB = b.commit(image('x:3'), null, { heads: { cluster: [], 'env/prod': [yours] } });
    a.missing.add(yours);
    b.missing.add(mine);
    a.take(onB);
    b.take(onA);
    for (const [peer, other] of [
      [a, b],
      [b, a],
    ] as const) {
      // One of them follows the plan whose edits it has not got, the other has to wait for those of its rival.
      expect(peer.plans.isMergePending(env)).toBe(false);
      const early = peer.make(image('x:4'));
      const third = new Peer();
      for (const made of [onA, onB, early]) third.take(made);
      expect(third.images()).toEqual(['x:4']);
      expect(third.plans.isMergePending(env)).toBe(true);
      peer.missing.clear();
      expect(peer.plans.isMergePending(env)).toBe(true);
      expect(other.plans.heads()).toEqual(peer.plans.heads());
    }
    b.take(a.commit(inputsOf([service('site', 'x:2'), service('other', 'x:3')])));
    for (const peer of [a, b]) expect(peer.plans.isMergePending(env)).toBe(false);
  });

  test('an old plan of one who was away is no rival, also for one who has just joined or restarted', () => {
    const a = new Peer();
    const old = a.commit(image('x:1'));
    for (let count = 2; count < 60; count++) a.commit(image(`x:${count}`));
    const newest = a.commit(image('x:60'));
    const fresh = new Peer();
    fresh.take(newest);
    expect(fresh.take(old)).toBe('known');
    expect(fresh.plans.isMergePending(env)).toBe(false);
  });

  test('two automatic plans of the same services side by side lose nobody’s work', () => {
    const [a, b] = [new Peer(), new Peer()];
    b.take(a.commit(image('x:1')));
    const inputs = inputsOf([service('site')], ['h2']);
    const onA = a.commit(inputs, kit.host(1));
    const onB = b.commit({ ...inputs, hosts: inputsOf([], ['h3']).hosts }, kit.host(2));
    a.take(onB);
    b.take(onA);
    expect(a.plans.heads()).toEqual(b.plans.heads());
    for (const peer of [a, b]) expect(peer.plans.isMergePending(env)).toBe(false);
  });

  test('an automatic plan on top of an operator’s carries its work: losing it is noticed', () => {
    const [a, b] = [new Peer(), new Peer()];
    b.take(a.commit(image('x:1')));
    a.commit(image('x:2'));
    a.commit(inputsOf([service('site', 'x:2')], ['h2']), kit.host(1));
    for (const name of ['x:3', 'x:4', 'x:5']) a.take(b.commit(image(name)));
    expect(a.images()).toEqual(['x:5']);
    expect(a.plans.isMergePending(env)).toBe(true);
  });
});

describe('plans that hosts signed', () => {
  test('are followed when operators decided every part and this host computes the same', () => {
    const a = new Peer();
    a.commit(image('x:1'));
    expect(a.take(a.make(inputsOf([service('site')], ['h2']), kit.host(1)))).toBe('adopted');
    a.now = image('x:2');
    expect(a.take(a.make(image('x:2'), kit.host(1)))).toBe('adopted');
    expect(a.plans.refused()).toEqual([]);
  });

  test('are refused when somebody else decided a part, or nobody computes the same', () => {
    const a = new Peer();
    a.commit(image('x:1'));
    expect(a.take(a.make(image('evil:1'), kit.host(1)))).toBe('refused');
    const inputs = image('x:1');
    const other = encode({ ...compute(inputs), placements: [] });
    expect(a.take(a.makeFrom(other, encode(inputs), kit.host(1), {}))).toBe('refused');
    expect(a.images()).toEqual(['x:1']);
    expect(a.plans.isRefusing(env)).toBe(true);
    expect(a.plans.isMergePending(env)).toBe(true);
    // The next plan is above the refused ones: nobody stays behind with them.
    a.commit(image('x:1'));
    expect(a.plans.isRefusing(env)).toBe(false);
    expect(a.plans.isMergePending(env)).toBe(false);
    expect(a.plans.refused()).toEqual([]);
  });

  test('one refused is looked at again when the document has caught up', () => {
    const a = new Peer();
    a.commit(image('x:1'));
    const made = a.make(image('x:2'), kit.host(1));
    expect(a.take(made)).toBe('refused');
    expect(a.take(made)).toBe('known');
    a.now = image('x:2');
    a.plans.retry();
    expect(a.images()).toEqual(['x:2']);
    expect(a.plans.isMergePending(env)).toBe(false);
  });

  test('of strangers wait, of other environments too; a leap of epochs or numbers is not theirs to claim', () => {
    const a = new Peer();
    a.commit(image('x:1'));
    const inputs = inputsOf([service('site')], ['h2']);
    expect(a.take(a.make(inputs, kit.host(9)))).toBe('parked');
    expect(a.take(a.make(inputs, kit.host(1), { env: 'test' }))).toBe('parked');
    expect(a.take(a.make(inputs, kit.host(1), { planEpoch: 2 ** 40 }))).toBe('rejected');
    expect(a.take(a.make(inputs, kit.host(1), { seq: 2 ** 53 - 1 }))).toBe('rejected');
    expect(a.plans.next(env).seq).toBe(2);
  });

  test('of a later holder of the planner lease win whatever their number, and people keep its epoch', () => {
    const a = new Peer();
    for (const name of ['x:1', 'x:2', 'x:3']) a.commit(image(name));
    const inputs = inputsOf([service('site', 'x:3')], ['h2']);
    expect(a.take(a.make(inputs, kit.host(1), { planEpoch: 7, seq: 1, past: [] }))).toBe('adopted');
    expect(a.plans.next(env)).toMatchObject({ planEpoch: 7, seq: 2 });
    expect(a.plans.next(env, 9).planEpoch).toBe(9);
    expect(a.plans.next(env, 3).planEpoch).toBe(7);
    const stale = inputsOf([service('site', 'x:3')], ['h3']);
    expect(a.take(a.make(stale, kit.host(2), { planEpoch: 6, seq: 99 }))).toBe('known');
  });

  test.each<[string, unknown, unknown]>([
    ['no plan', null, {}],
    ['inputs that are none', compute(image('x:1')), 5],
    ['holes in lists', compute(image('x:1')), { ...image('x:1'), hosts: [null] }],
    ['services without anything', compute(image('x:1')), { ...image('x:1'), services: [{}] }],
    ['another environment', compute(image('x:1')), { ...image('x:1'), env: 'test' }],
    ['placements of nothing', { ...compute(image('x:1')), placements: [{}] }, image('x:1')],
  ])('%s: refused without a throw, whoever signed', (_, plan, inputs) => {
    for (const by of [kit.host(1), null]) {
      const a = new Peer();
      a.commit(image('x:1'));
      expect(a.take(a.makeFrom(encode(plan), encode(inputs), by, {}))).toBe('refused');
      expect(a.images()).toEqual(['x:1']);
    }
  });
});

describe('what arrives in pieces', () => {
  const large = inputsOf([
    service('site', `x:${'1'.repeat(60_000)}`),
    ...Array.from({ length: 12 }, (_, at) => service(`s${at}`, 'y'.repeat(50_000))),
  ]);

  function fetch(
    from: Peer,
    to: Peer,
    garble: (bytes: Uint8Array, offset: number) => Uint8Array,
  ): string {
    let last = '';
    for (let turn = 0; turn < 50; turn++) {
      const [want] = to.plans.wanted();
      if (want === undefined) break;
      const part = from.plans.part(want.hash, want.offset);
      if (part === null) throw new Error('the other side has it');
      last = to.plans.takePart(want.hash, want.offset, part.total, garble(part.bytes, want.offset));
      if (last === 'rejected') return last;
    }
    return last;
  }

  test('a plan is followed once both blobs are whole; until then the former one is', () => {
    const [a, b] = [new Peer(), new Peer()];
    b.take(a.commit(image('x:1')));
    const { signed, blobs } = a.commit(large);
    expect(Math.max(...[...blobs.values()].map((blob) => blob.length))).toBeGreaterThan(
      planPartBytes,
    );
    expect(b.plans.accept(signed)).toBe('waiting-for-blobs');
    expect(b.plans.accept(signed)).toBe('known');
    expect(b.images()).toEqual(['x:1']);
    expect(fetch(a, b, (bytes) => bytes)).toBe('adopted');
    expect(b.plans.heads()).toEqual(a.plans.heads());
    expect(b.plans.wanted()).toEqual([]);
  });

  test('a corrupted part costs another try, one that was not asked for nothing', () => {
    const [a, b] = [new Peer(), new Peer()];
    const { signed } = a.commit(large);
    b.plans.accept(signed);
    const outcome = fetch(a, b, (bytes, offset) =>
      offset > 0 ? bytes.map((byte) => byte ^ 1) : bytes,
    );
    expect(outcome).toBe('rejected');
    expect(b.plans.current(env)).toBeNull();
    const [want] = b.plans.wanted();
    const { hash } = want ?? { hash: '' as Hash };
    expect(b.plans.takePart(hash, 77, 1_000, new Uint8Array(10))).toBe('known');
    expect(b.plans.takePart('0'.repeat(64) as Hash, 0, 10, new Uint8Array(10))).toBe('known');
    expect(b.plans.takePart(hash, 0, 2 ** 40, new Uint8Array(10))).toBe('known');
    expect(b.plans.takePart(hash, 0, 5, new Uint8Array(10))).toBe('rejected');
    expect(b.plans.takePart(hash, 0, 5, new Uint8Array(0))).toBe('rejected');
    expect(fetch(a, b, (bytes) => bytes)).toBe('adopted');
  });

  test('pointers without blobs do not pile up, and the highest is waited for', () => {
    const [a, b] = [new Peer(), new Peer()];
    const all = Array.from({ length: 30 }, (_, at) => a.commit(image(`x:${at}`)));
    for (const made of all) b.plans.accept(made.signed);
    expect(b.plans.wanted().length).toBeLessThanOrEqual(2 * 16);
    b.take(all.at(-1) as Made);
    expect(b.images()).toEqual(['x:29']);
    expect(b.plans.wanted()).toEqual([]);
  });

  test('a plan of a session that is not here yet waits for it', () => {
    const [a, b] = [new Peer(), new Peer()];
    const made = a.commit(image('x:1'));
    b.isSessionKnown = false;
    expect(b.take(made)).toBe('parked');
    b.isSessionKnown = true;
    expect(b.plans.retry()).toEqual(['waiting-for-blobs']);
  });
});
