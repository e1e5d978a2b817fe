import { describe, expect, test } from 'vitest';
import type { CoreEffect, GateResult } from '../../../daemon/lease/core-api.ts';
import { Gate } from '../../../daemon/lease/gate.ts';
import { profiles } from '../../../daemon/lease/profiles.ts';
import { Turn } from '../../../daemon/lease/turn.ts';
import { db, hostId } from './bench-world.ts';

type Wish = Parameters<Gate['settle']>[1];

class Bench {
  nowMs = 10_000;
  readonly turn = new Turn(hostId(0), 0);
  readonly gate = new Gate(db, profiles.fast);
  effects: readonly CoreEffect[] = [];

  constructor(onLoss: Gate['onLoss'] = 'stop', fence: Gate['fence'] = 'none') {
    Object.assign(this.gate, { onLoss, fence, hasGate: true, hasTraffic: true });
  }

  #in(act: (turn: Turn) => void): readonly string[] {
    this.turn.begin({ monoMs: this.nowMs, authorityMs: this.nowMs });
    act(this.turn);
    this.effects = this.turn.effects;
    return this.effects.flatMap((effect) =>
      effect.kind === 'gate' ? [effect.act] : effect.kind === 'fence' ? [effect.how] : [],
    );
  }

  settle(wish: Wish, epoch = 1, untilMs = 11_500, isResumable = false): readonly string[] {
    return this.#in((turn) => this.gate.settle(turn, wish, epoch, untilMs, isResumable));
  }

  answer(result: GateResult, token = this.turn.token): readonly string[] {
    return this.#in((turn) => this.gate.answered(turn, token, result));
  }

  notices(): readonly string[] {
    return this.effects.flatMap((effect) =>
      effect.kind === 'notice'
        ? [effect.notice.kind === 'event' ? effect.notice.event : effect.notice.kind]
        : [],
    );
  }

  /** Emptied and opened under epoch 1 until 11500. */
  opened(): this {
    this.settle('open');
    this.answer('empty');
    this.settle('open');
    this.answer('open');
    return this;
  }
}

describe('opening', () => {
  test('[trellis:P8] only after it was emptied for this tenure and while authority has a margin', () => {
    const bench = new Bench();
    expect(bench.settle('open')).toEqual(['freeze', 'clear']);
    expect(bench.settle('open')).toEqual([]);
    bench.answer('empty');
    bench.nowMs = 11_200;
    expect(bench.settle('open')).toEqual([]);
    expect(bench.settle('open', 1, 11_600)).toEqual(['thaw']);
    expect(bench.gate.isOpen).toBe(false);
    bench.answer('open');
    expect(bench.gate.isOpen).toBe(true);
    expect(bench.notices()).toEqual(['open']);
  });

  test('what lies in a closed gate that was empty is killed before the next tenure', () => {
    const bench = new Bench().opened();
    bench.settle('empty', 1, 0);
    bench.answer('empty');
    expect(bench.settle('open', 2, 11_500)).toEqual(['clear']);
  });

  test('not after an answer to an earlier request', () => {
    const bench = new Bench();
    bench.settle('open');
    expect(bench.answer('empty', bench.turn.token - 1)).toEqual([]);
    expect(bench.settle('open')).toEqual([]);
  });

  test('never when it could not be emptied: an alarm, and another try later', () => {
    const bench = new Bench('stop', 'panic');
    bench.settle('open');
    bench.answer('populated');
    expect(bench.notices()).toEqual(['lease.gate-failed']);
    expect(bench.gate.state).toBe('failed');
    expect(bench.settle('open')).toEqual([]);
    bench.nowMs += 5_000;
    expect(bench.settle('open', 1, 20_000)).toEqual(['freeze', 'clear']);
  });

  test('authority that ended while the gate was being opened closes it at once', () => {
    const bench = new Bench();
    bench.settle('open');
    bench.answer('empty');
    bench.settle('open');
    bench.nowMs = 11_600;
    expect(bench.settle('closed', 1, 0)).toEqual(['freeze', 'clear']);
  });
});

describe('when authority runs out', () => {
  test('[trellis:P8] stop: frozen, killed, and fenced when it is not empty in time', () => {
    const bench = new Bench('stop', 'panic').opened();
    bench.nowMs = 11_199;
    expect(bench.settle('open')).toEqual([]);
    bench.nowMs = 11_200;
    expect(bench.settle('open')).toEqual(['freeze']);
    expect(bench.effects).toContainEqual({ kind: 'traffic', name: db, untilMs: null });
    bench.nowMs = 11_350;
    expect(bench.settle('open')).toEqual(['clear']);
    bench.nowMs = 11_449;
    expect(bench.settle('open')).toEqual([]);
    bench.nowMs = 11_450;
    expect(bench.settle('open')).toEqual(['panic']);
    expect(bench.settle('open')).toEqual([]);
  });

  test('stop: a renewal after the freeze and before the kill thaws', () => {
    const bench = new Bench().opened();
    bench.nowMs = 11_250;
    bench.settle('open');
    bench.answer('frozen');
    expect(bench.settle('open', 1, 12_600)).toEqual(['thaw']);
    bench.answer('open');
    expect(bench.effects).toContainEqual({
      kind: 'notice',
      notice: { kind: 'open', name: db, epoch: 1, isResumed: true },
    });
  });

  test('freeze: left frozen, thawed when nobody came between, killed otherwise', () => {
    for (const isResumable of [true, false]) {
      const bench = new Bench('freeze').opened();
      bench.nowMs = 11_300;
      bench.settle('open');
      bench.answer('frozen');
      bench.nowMs = 15_000;
      expect(bench.settle('closed', 1, 0)).toEqual([]);
      expect(bench.settle('open', 2, 16_500, isResumable)).toEqual([
        isResumable ? 'thaw' : 'clear',
      ]);
    }
  });

  test('keep: runs on with an alarm, until it has to be empty', () => {
    const bench = new Bench('keep').opened();
    bench.nowMs = 11_500;
    expect(bench.settle('closed', 1, 0)).toEqual([]);
    expect(bench.notices()).toEqual(['lease.unsafe-keep']);
    expect(bench.settle('empty', 1, 0)).toEqual(['freeze', 'clear']);
  });

  test('after a stall of everything the kill has its time before the panic', () => {
    const bench = new Bench('stop', 'panic').opened();
    bench.nowMs = 20_000;
    expect(bench.settle('closed', 1, 0)).toEqual(['freeze', 'clear']);
    bench.nowMs += 99;
    expect(bench.settle('closed', 1, 0)).toEqual([]);
    bench.nowMs += 1;
    expect(bench.settle('closed', 1, 0)).toEqual(['panic']);
    expect(bench.gate.isSafe(bench.nowMs)).toBe(false);
    bench.answer('empty');
    expect(bench.gate.isSafe(bench.nowMs)).toBe(true);
  });

  test('a gate that does not freeze is emptied', () => {
    const bench = new Bench().opened();
    bench.nowMs = 11_200;
    bench.settle('open');
    expect(bench.answer('failed')).toEqual(['clear']);
  });
});

test('[trellis:R20] parked, it has no deadline', () => {
  const bench = new Bench().opened();
  bench.settle('parked', 1, 0);
  bench.nowMs = 1e9;
  expect(bench.settle('parked', 1, 0)).toEqual([]);
  expect(bench.gate.nextMs()).toBe(Infinity);
});

test('after a restart what was asked for is asked for again, and the file is written again', () => {
  const bench = new Bench().opened();
  const after = new Bench();
  after.gate.resume(bench.gate.volatile());
  expect(after.settle('open')).toEqual([]);
  expect(after.effects).toContainEqual({
    kind: 'lease-file',
    name: db,
    epoch: 1,
    authorityUntilMs: 11_500,
  });
  bench.nowMs = 11_200;
  bench.settle('open');
  const closing = new Bench();
  closing.nowMs = 11_201;
  closing.gate.resume(bench.gate.volatile());
  expect(closing.settle('open')).toEqual(['freeze']);
});

test('without a gate everything happens at once', () => {
  const bench = new Bench();
  Object.assign(bench.gate, { hasGate: false, hasTraffic: false });
  bench.settle('empty', 0, 0);
  bench.settle('open');
  expect(bench.notices()).toEqual(['open']);
  bench.nowMs = 11_200;
  bench.settle('open');
  expect(bench.notices()).toEqual(['closed']);
  expect(bench.effects.some(({ kind }) => kind === 'gate' || kind === 'lease-file')).toBe(false);
});
