import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { NodeId } from '../../crdt/ids.ts';
import { defaultConfig } from '../../daemon/config.ts';
import { Membership, type StatusChange } from '../../daemon/membership/membership.ts';
import { parseBody, toBody, type Message, type Rumour } from '../../daemon/membership/messages.ts';
import { SimRandom } from '../sim/sim-random.ts';

const self = '00'.repeat(32) as NodeId;
const roster = ['aa', 'bb', 'cc', 'dd'].map((pair) => pair.repeat(32) as NodeId);
const stranger = 'ee'.repeat(32) as NodeId;
const quiet = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

const node = fc.constantFrom(self, ...roster, stranger);
const rumour: fc.Arbitrary<Rumour> = fc.record({
  node,
  status: fc.constantFrom('alive', 'suspect', 'dead', 'left'),
  incarnation: fc.nat(4),
  from: fc.option(node),
});
const r = fc.array(rumour, { maxLength: 4 });
const q = fc.nat(20);
const i = fc.nat(5);
const message: fc.Arbitrary<Message> = fc.oneof(
  fc.record({ k: fc.constant('ping' as const), q, i, r }),
  fc.record({ k: fc.constant('ack' as const), q, i, n: fc.option(node), r }),
  fc.record({ k: fc.constant('ask' as const), q, n: node, r }),
  fc.record({ k: fc.constant('nack' as const), q, r }),
  fc.record({ k: fc.constant('gossip' as const), r }),
  fc.record({ k: fc.constant('sync' as const), i, r }),
);
const step = fc.oneof(
  fc.record({ do: fc.constant('frame' as const), from: node, message }),
  fc.record({ do: fc.constant('heard' as const), from: node }),
  fc.record({ do: fc.constant('connection' as const), from: node, isConnected: fc.boolean() }),
  fc.record({ do: fc.constant('wait' as const), ms: fc.nat(3_000) }),
);

test('whatever members say, statuses follow incarnations and the schedule stays finite', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.nat(1_000), (steps, seed) => {
      const changes: StatusChange[] = [];
      const sent: NodeId[] = [];
      const membership = new Membership({
        self,
        config: defaultConfig,
        random: new SimRandom(seed),
        log: quiet,
        send: (to) => sent.push(to),
        onChange: (change) => changes.push(change),
      });
      let nowMs = 5_000;
      membership.setRoster([self, ...roster], nowMs);
      for (const one of steps) {
        if (one.do === 'frame') membership.onFrame(one.from, toBody(one.message), nowMs);
        if (one.do === 'heard') membership.heard(one.from, nowMs);
        if (one.do === 'connection') membership.onConnection(one.from, one.isConnected, nowMs);
        if (one.do === 'wait') {
          const untilMs = nowMs + one.ms;
          let ticks = 0;
          while (membership.nextDeadlineMs() <= untilMs) {
            nowMs = Math.max(nowMs, membership.nextDeadlineMs());
            membership.tick(nowMs);
            // Every tick does something and moves the schedule on.
            expect(membership.nextDeadlineMs()).toBeGreaterThan(nowMs - 1e-9);
            expect(++ticks).toBeLessThan(400);
          }
          nowMs = untilMs;
        }
      }
      const newest = new Map<NodeId, number>();
      for (const change of changes) {
        const before = newest.get(change.node) ?? -1;
        // Invariant 2: nobody comes back, and nothing changes, at a lower incarnation.
        if (change.status === 'alive') expect(change.incarnation).toBeGreaterThan(before);
        else expect(change.incarnation).toBeGreaterThanOrEqual(before);
        // Invariant 1.
        if (change.status === 'dead') expect(change.was).toBe('suspect');
        newest.set(change.node, change.incarnation);
      }
      // Invariant 5.
      expect(changes.every((change) => roster.includes(change.node))).toBe(true);
      expect(sent.every((to) => roster.includes(to))).toBe(true);
      expect(membership.list().map((member) => member.node)).toEqual([...roster].sort());
      expect(membership.statusOf(self)).toBe('alive');
    }),
    { numRuns: 300 },
  );
});

test('any bytes a peer may send are parsed or refused, never thrown', () => {
  fc.assert(
    fc.property(fc.anything(), fc.anything(), (body, rumours) => {
      parseBody(body);
      parseBody({ k: 'gossip', r: rumours });
    }),
  );
});
