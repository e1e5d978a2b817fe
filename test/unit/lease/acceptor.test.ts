import { describe, expect, test } from 'vitest';
import { Acceptor, reservationMs } from '../../../daemon/lease/acceptor.ts';
import type { AcceptorState } from '../../../daemon/lease/acceptor.ts';
import type { DurableRecord } from '../../../daemon/lease/core-api.ts';
import type {
  Accept,
  Accepted,
  Message,
  Prepare,
  PromiseReply,
  Reject,
  Release,
} from '../../../daemon/lease/messages.ts';
import type { Ballot } from '../../../daemon/lease/model.ts';
import { Turn } from '../../../daemon/lease/turn.ts';
import { db, env, hostId } from './bench-world.ts';

const a = hostId(0);
const b = hostId(1);
const c = hostId(2);

class Desk {
  nowMs = 1_000;
  lockDelayMs = 0;
  eligible: readonly string[] = [a, b, c];
  ttlMsMax = 5_000;
  isFull = false;
  acceptor = this.make();
  /** Tokens of writes that the disk has not finished. */
  readonly writes: { readonly token: number; readonly records: readonly DurableRecord[] }[] = [];
  readonly durable: DurableRecord[] = [];
  isDiskHeld = false;

  make(): Acceptor {
    return new Acceptor({
      self: c,
      isEligible: (_name, host) => this.eligible.includes(host),
      lockDelayMs: () => this.lockDelayMs,
      isListed: (name) => name === db,
      isFull: () => this.isFull,
      ttlMsMax: () => this.ttlMsMax,
      env: () => env,
      hasForgotten: () => false,
      voters: () => [a, b, c, hostId(3)],
    });
  }

  turn(act: (turn: Turn) => void): readonly Message[] {
    const turn = new Turn('d'.repeat(32) as typeof a, this.writes.length + this.durable.length);
    turn.begin({ monoMs: this.nowMs, authorityMs: this.nowMs });
    act(turn);
    const sent: Message[] = [];
    for (const effect of turn.effects) {
      if (effect.kind === 'send') sent.push(effect.message);
      if (effect.kind !== 'persist') continue;
      this.writes.push(effect);
    }
    if (!this.isDiskHeld) sent.push(...this.sync());
    return sent;
  }

  sync(): readonly Message[] {
    const sent: Message[] = [];
    while (this.writes.length > 0) {
      const { token, records } = this.writes.shift()!;
      this.durable.push(...records);
      const turn = new Turn('d'.repeat(32) as typeof a, 1_000_000);
      turn.begin({ monoMs: this.nowMs, authorityMs: this.nowMs });
      this.acceptor.onPersisted(token, turn);
      for (const effect of turn.effects) if (effect.kind === 'send') sent.push(effect.message);
    }
    return sent;
  }

  prepare(ballot: Ballot, changes: Partial<Prepare> = {}): PromiseReply | Reject {
    const message: Prepare = { ...header(ballot), kind: 'prepare', isForced: false, ...changes };
    const sent = this.turn((turn) => this.acceptor.onPrepare(ballot.host, message, turn));
    return sent.find(({ kind }) => kind === 'promise' || kind === 'reject') as PromiseReply;
  }

  accept(ballot: Ballot, epoch: number, changes: Partial<Accept> = {}): Accepted | Reject {
    const message: Accept = {
      ...header(ballot),
      kind: 'accept',
      purpose: 'acquire',
      epoch,
      exclusionMs: 1_600,
      isForced: false,
      unfenced: [],
      ...changes,
    };
    const sent = this.turn((turn) => this.acceptor.onAccept(ballot.host, message, turn));
    return sent.find(({ kind }) => kind === 'accepted' || kind === 'reject') as Accepted;
  }

  release(ballot: Ballot, changes: Partial<Release> = {}): readonly Message[] {
    const message: Release = { ...header(ballot), kind: 'release', successor: null, ...changes };
    return this.turn((turn) => this.acceptor.onRelease(ballot.host, message, turn));
  }

  hasPark(): boolean {
    let hasPark = false;
    this.turn((turn) => (hasPark = this.acceptor.hintParks(turn)));
    return hasPark;
  }

  reboot(): void {
    this.acceptor = this.make();
    this.acceptor.restore(this.durable);
  }
}

function header(ballot: Ballot) {
  return { env, generation: 0, n: 0, name: db, ballot };
}

function ballotOf(host: string, session: string, counter: number): Ballot {
  return { host: host as Ballot['host'], session, counter };
}

describe('what a voter grants', () => {
  test('[trellis:P8] a live grant of another host is never replaced, whatever the ballot', () => {
    const desk = new Desk();
    expect(desk.accept(ballotOf(a, 's1', 1), 1).kind).toBe('accepted');
    desk.nowMs += 1_599;
    expect(desk.accept(ballotOf(b, 's2', 99), 2)).toMatchObject({ kind: 'reject', why: 'busy' });
    desk.nowMs += 1;
    expect(desk.accept(ballotOf(b, 's2', 99), 2).kind).toBe('accepted');
  });

  test('[trellis:P8] another session of the same host is another owner', () => {
    const desk = new Desk();
    desk.accept(ballotOf(a, 's1', 1), 1);
    expect(desk.accept(ballotOf(a, 's2', 9), 2)).toMatchObject({ kind: 'reject', why: 'busy' });
    expect(desk.prepare(ballotOf(a, 's2', 9))).toMatchObject({ kind: 'promise', isOpen: false });
    desk.nowMs += 1_600;
    // Nor does it share the epoch.
    expect(desk.accept(ballotOf(a, 's2', 9), 1)).toMatchObject({ kind: 'reject', why: 'epoch' });
  });

  test('a prepare that meets a live grant promises nothing: renewals go on', () => {
    const desk = new Desk();
    desk.accept(ballotOf(a, 's1', 1), 1);
    expect(desk.prepare(ballotOf(b, 's2', 50))).toMatchObject({
      isOpen: false,
      promisedCounter: 1,
      live: { remainMs: 1_600 },
    });
    expect(desk.accept(ballotOf(a, 's1', 2), 1, { purpose: 'renew' }).kind).toBe('accepted');
  });

  test('a promise binds: lower ballots are refused and told how high to go', () => {
    const desk = new Desk();
    expect(desk.prepare(ballotOf(b, 's2', 7))).toMatchObject({ isOpen: true });
    expect(desk.prepare(ballotOf(a, 's1', 6))).toMatchObject({ why: 'ballot', promisedCounter: 7 });
    expect(desk.accept(ballotOf(a, 's1', 6), 1)).toMatchObject({ why: 'ballot' });
    expect(desk.accept(ballotOf(b, 's2', 7), 1).kind).toBe('accepted');
  });

  test('epochs grow with every owner and never fall, over a reboot too', () => {
    const desk = new Desk();
    desk.accept(ballotOf(a, 's1', 1), 5);
    desk.reboot();
    desk.nowMs += 10_000;
    expect(desk.accept(ballotOf(b, 's2', 1), 5)).toMatchObject({ why: 'epoch', maxEpoch: 5 });
    expect(desk.accept(ballotOf(a, 's1', 2), 5, { purpose: 'renew' }).kind).toBe('accepted');
    desk.nowMs += 10_000;
    expect(desk.accept(ballotOf(b, 's2', 3), 6).kind).toBe('accepted');
  });

  test('a new epoch is durable before it is granted, and nothing overtakes that', () => {
    const desk = new Desk();
    desk.isDiskHeld = true;
    expect(desk.accept(ballotOf(a, 's1', 1), 1)).toBeUndefined();
    // A copy of the request, and a renewal: they would be granted at once if the epoch were on disk.
    expect(desk.accept(ballotOf(a, 's1', 1), 1)).toBeUndefined();
    expect(desk.accept(ballotOf(a, 's1', 2), 1, { purpose: 'renew' })).toBeUndefined();
    expect(desk.writes).toHaveLength(1);
    expect(desk.sync().map(({ kind }) => kind)).toEqual(['accepted', 'accepted', 'accepted']);
    // Renewals write nothing.
    desk.accept(ballotOf(a, 's1', 3), 1, { purpose: 'renew' });
    expect(desk.writes).toHaveLength(0);
  });

  test('an epoch that was kept in memory files only is written before the next grant', () => {
    const desk = new Desk();
    desk.isDiskHeld = true;
    desk.accept(ballotOf(a, 's1', 1), 1);
    const kept = JSON.parse(JSON.stringify(desk.acceptor.volatile())) as AcceptorState;
    desk.writes.length = 0;
    desk.reboot();
    desk.acceptor.resume(kept);
    expect(desk.accept(ballotOf(a, 's1', 1), 1)).toBeUndefined();
    expect(desk.writes[0]?.records[0]).toMatchObject({ kind: 'epoch', epoch: 1 });
  });

  test('a longer exclusion than the voters allow is refused', () => {
    const desk = new Desk();
    expect(desk.accept(ballotOf(a, 's1', 1), 1, { exclusionMs: 5_001 })).toMatchObject({
      why: 'ttl',
    });
    expect(desk.accept(ballotOf(a, 's1', 1), 1, { exclusionMs: NaN })).toMatchObject({
      why: 'ttl',
    });
    expect(desk.accept(ballotOf(a, 's1', 1), 1, { exclusionMs: 0 })).toMatchObject({ why: 'ttl' });
  });

  test('a shorter renewal does not end an exclusion sooner', () => {
    const desk = new Desk();
    desk.accept(ballotOf(a, 's1', 1), 1, { exclusionMs: 5_000 });
    desk.accept(ballotOf(a, 's1', 2), 1, { purpose: 'renew', exclusionMs: 1_600 });
    desk.nowMs += 4_999;
    expect(desk.accept(ballotOf(b, 's2', 9), 2)).toMatchObject({ why: 'busy' });
  });

  test('only candidates are granted it, but who holds it renews whoever the candidates are', () => {
    const desk = new Desk();
    desk.accept(ballotOf(a, 's1', 1), 1);
    desk.eligible = [b];
    expect(desk.accept(ballotOf(a, 's1', 2), 1, { purpose: 'renew' }).kind).toBe('accepted');
    desk.nowMs += 10_000;
    expect(desk.prepare(ballotOf(a, 's1', 3))).toMatchObject({ why: 'denied' });
    expect(desk.accept(ballotOf(a, 's1', 3), 2)).toMatchObject({ why: 'denied' });
    expect(desk.accept(ballotOf(c, 's3', 3), 2)).toMatchObject({ why: 'denied' });
  });

  test('an expiry without release excludes others for the lock delay too, a release does not', () => {
    const desk = new Desk();
    desk.lockDelayMs = 1_000;
    desk.accept(ballotOf(a, 's1', 1), 1);
    desk.nowMs += 2_599;
    expect(desk.prepare(ballotOf(b, 's2', 9))).toMatchObject({ isOpen: false });
    expect(desk.accept(ballotOf(b, 's2', 9), 2)).toMatchObject({ why: 'busy', remainMs: 1 });
    desk.nowMs += 1;
    expect(desk.accept(ballotOf(b, 's2', 9), 2).kind).toBe('accepted');
    desk.release(ballotOf(b, 's2', 9));
    expect(desk.accept(ballotOf(a, 's1', 10), 3).kind).toBe('accepted');
  });

  test('says that it is about to leave a configuration of two', () => {
    const desk = new Desk();
    desk.isFull = true;
    expect(desk.accept(ballotOf(a, 's1', 1), 1)).toMatchObject({ isFull: true });
  });

  test('names at the limit are refused; what nobody wants any more makes room and leaves a floor', () => {
    const desk = new Desk();
    for (let index = 0; index < 4_096; index++)
      desk.accept(ballotOf(a, 's1', 1), 3, { name: `lock/${index}` });
    expect(desk.accept(ballotOf(a, 's1', 1), 1, { name: 'lock/x' })).toMatchObject({
      why: 'limit',
    });
    desk.nowMs += 2_000;
    expect(desk.accept(ballotOf(a, 's1', 1), 1, { name: 'lock/x' })).toMatchObject({
      why: 'epoch',
      maxEpoch: 3,
    });
    expect(desk.durable.at(-1)).toEqual({ kind: 'floor-rest', epoch: 3 });
  });
});

describe('release', () => {
  test('[trellis:P8] only of the same session, and not of a later grant', () => {
    const desk = new Desk();
    desk.accept(ballotOf(a, 's1', 5), 1);
    desk.release(ballotOf(a, 's0', 9));
    desk.release(ballotOf(b, 's1', 9));
    desk.release(ballotOf(a, 's1', 4));
    expect(desk.accept(ballotOf(b, 's2', 9), 2)).toMatchObject({ why: 'busy' });
    desk.release(ballotOf(a, 's1', 5));
    expect(desk.accept(ballotOf(b, 's2', 9), 2).kind).toBe('accepted');
  });

  test('clears a grant that missed the last renewal', () => {
    const desk = new Desk();
    desk.accept(ballotOf(a, 's1', 5), 1);
    desk.release(ballotOf(a, 's1', 6));
    expect(desk.prepare(ballotOf(b, 's2', 9))).toMatchObject({ isOpen: true, isReleased: true });
  });

  test('a late copy of the accept does not revive what was released', () => {
    const desk = new Desk();
    desk.accept(ballotOf(a, 's1', 5), 1);
    desk.release(ballotOf(a, 's1', 5));
    expect(desk.accept(ballotOf(a, 's1', 5), 1)).toMatchObject({ why: 'ballot' });
  });

  test('is kept for the successor for a moment', () => {
    const desk = new Desk();
    desk.accept(ballotOf(a, 's1', 5), 1);
    desk.release(ballotOf(a, 's1', 5), { successor: b });
    expect(desk.prepare(ballotOf(c, 's3', 9))).toMatchObject({ isOpen: false });
    expect(desk.prepare(ballotOf(b, 's2', 9))).toMatchObject({ isOpen: true });
    desk.nowMs += reservationMs;
    expect(desk.prepare(ballotOf(c, 's3', 10))).toMatchObject({ isOpen: true });
  });

  test('and expiry are pushed to those who watch', () => {
    const desk = new Desk();
    desk.accept(ballotOf(a, 's1', 5), 1);
    const watch = { kind: 'watch', env, names: [db] } as const;
    expect(desk.turn((turn) => desk.acceptor.onWatch(b, watch, turn))).toMatchObject([
      { kind: 'learn', state: 'active', remainMs: 1_600 },
    ]);
    expect(desk.release(ballotOf(a, 's1', 5))).toMatchObject([{ kind: 'expired', epoch: 1 }]);
    desk.accept(ballotOf(a, 's1', 6), 1, { purpose: 'renew' });
    desk.nowMs += 1_600;
    expect(desk.turn((turn) => desk.acceptor.tick(turn))).toMatchObject([{ kind: 'expired' }]);
    expect(desk.turn((turn) => desk.acceptor.tick(turn))).toEqual([]);
  });
});

describe('park', () => {
  function parked(): Desk {
    const desk = new Desk();
    desk.accept(ballotOf(a, 's1', 1), 1);
    desk.accept(ballotOf(a, 's1', 2), 2, { purpose: 'park' });
    return desk;
  }

  test('[trellis:R20] has no end: not by time, not by a reboot of the voter', () => {
    const desk = parked();
    desk.nowMs += 1e9;
    expect(desk.prepare(ballotOf(b, 's2', 9))).toMatchObject({
      isOpen: false,
      parkedBy: { host: a },
    });
    expect(desk.accept(ballotOf(b, 's2', 9), 9)).toMatchObject({ why: 'parked' });
    desk.reboot();
    expect(desk.accept(ballotOf(b, 's2', 9), 9)).toMatchObject({ why: 'parked' });
    expect(desk.hasPark()).toBe(true);
  });

  test('is ended by the host that parked, in a later session too, and durably', () => {
    const desk = parked();
    desk.nowMs += 10_000;
    expect(desk.prepare(ballotOf(a, 's9', 9))).toMatchObject({ isOpen: true });
    expect(desk.accept(ballotOf(a, 's9', 9), 3).kind).toBe('accepted');
    // That may come to nothing; a renewal is made by a holder that has a deadline again.
    expect(desk.hasPark()).toBe(true);
    expect(desk.accept(ballotOf(a, 's9', 10), 3, { purpose: 'renew' }).kind).toBe('accepted');
    desk.reboot();
    expect(desk.hasPark()).toBe(false);
  });

  test('is passed over by force, a live grant is not', () => {
    const desk = parked();
    expect(desk.prepare(ballotOf(b, 's2', 9), { isForced: true })).toMatchObject({ isOpen: false });
    expect(desk.accept(ballotOf(b, 's2', 9), 3, { isForced: true })).toMatchObject({ why: 'busy' });
    desk.nowMs += 1_600;
    expect(desk.prepare(ballotOf(b, 's2', 9), { isForced: true })).toMatchObject({ isOpen: true });
    expect(desk.accept(ballotOf(b, 's2', 9), 3, { isForced: true }).kind).toBe('accepted');
    expect(desk.hasPark()).toBe(false);
  });

  test('is not ended by a late unpark or renewal of before it', () => {
    const desk = parked();
    desk.reboot();
    desk.nowMs += 10_000;
    const late = { purpose: 'unpark', exclusionMs: 0 } as const;
    expect(desk.accept(ballotOf(a, 's1', 9), 1, late)).toMatchObject({ why: 'epoch' });
    expect(desk.accept(ballotOf(a, 's1', 9), 1, { purpose: 'renew' })).toMatchObject({
      why: 'epoch',
    });
    expect(desk.hasPark()).toBe(true);
  });

  test('is told to the other voters when its host asks, and they let that host in for a while', () => {
    const desk = parked();
    const asked = { ...header(ballotOf(a, 's9', 9)), kind: 'prepare', isForced: false } as const;
    const ask = () => desk.turn((turn) => desk.acceptor.onPrepare(a, asked, turn));
    expect(ask().filter(({ kind }) => kind === 'learn')).toMatchObject([
      { state: 'parked', owner: { host: a } },
      { state: 'parked', owner: { host: a } },
    ]);
    expect(ask().filter(({ kind }) => kind === 'learn')).toEqual([]);
    const learn = { kind: 'learn', env, name: db, epoch: 2, remainMs: 0, state: 'parked' } as const;
    const other = new Desk();
    other.eligible = [b];
    const hear = (from: typeof a) =>
      other.turn((turn) =>
        other.acceptor.onParkElsewhere(from, { ...learn, owner: ballotOf(a, 's1', 2) }, turn),
      );
    hear(hostId(4));
    expect(other.prepare(ballotOf(a, 's9', 9))).toMatchObject({ why: 'denied' });
    hear(hostId(3));
    expect(other.prepare(ballotOf(a, 's9', 9))).toMatchObject({ isOpen: true });
    other.nowMs += 10_000;
    expect(other.prepare(ballotOf(a, 's9', 9))).toMatchObject({ why: 'denied' });
  });

  test('a host that outlived its park ends it without being granted anything', () => {
    const desk = parked();
    desk.nowMs += 10_000;
    const sent = desk.turn((turn) =>
      desk.acceptor.onPrepare(
        b,
        { ...header(ballotOf(b, 's2', 9)), kind: 'prepare', isForced: false },
        turn,
      ),
    );
    expect(sent).toMatchObject([{ kind: 'learn', state: 'parked', epoch: 2 }, { kind: 'promise' }]);
    const disown = { purpose: 'unpark', exclusionMs: 0 } as const;
    expect(desk.accept(ballotOf(b, 's2', 9), 2, disown)).toMatchObject({ why: 'parked' });
    expect(desk.accept(ballotOf(a, 's9', 9), 2, disown).kind).toBe('accepted');
    expect(desk.prepare(ballotOf(b, 's2', 10))).toMatchObject({ isOpen: true, live: null });
  });
});
