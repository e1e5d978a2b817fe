import { expect, test } from 'vitest';
import type { NodeId } from '../../../crdt/ids.ts';
import type { Rumour } from '../../../daemon/membership/messages.ts';
import { RumourQueue, rumourSendsMax } from '../../../daemon/membership/rumours.ts';

const rumour = (node: string, incarnation = 1): Rumour => ({
  node: node as NodeId,
  status: 'alive',
  incarnation,
  from: null,
});
const nobody = 'nobody' as NodeId;
const names = (rumours: readonly Rumour[]): string => rumours.map(({ node }) => node).join('');

test('each rumour goes out a bounded number of times, the least sent first', () => {
  const queue = new RumourQueue();
  queue.add(rumour('a'));
  expect(names(queue.take({ max: 2, except: nobody, sendsMax: 3 }))).toBe('a');
  queue.add(rumour('b'));
  queue.add(rumour('c'));
  expect(names(queue.take({ max: 2, except: nobody, sendsMax: 3 }))).toBe('bc');
  for (let i = 0; i < 3; i++) queue.take({ max: 2, except: nobody, sendsMax: 3 });
  expect(queue.isEmpty).toBe(true);
});

test('a newer claim replaces the older one and is told anew', () => {
  const queue = new RumourQueue();
  queue.add(rumour('a', 1));
  queue.take({ max: 6, except: nobody, sendsMax: 2 });
  queue.add(rumour('a', 2));
  expect(
    queue.take({ max: 6, except: nobody, sendsMax: 2 }).map(({ incarnation }) => incarnation),
  ).toEqual([2]);
  expect(queue.isEmpty).toBe(false);
});

test('nobody is sent gossip about itself', () => {
  const queue = new RumourQueue();
  queue.add(rumour('a'));
  expect(queue.take({ max: 6, except: 'a' as NodeId, sendsMax: 9 })).toEqual([]);
});

test('sends grow with the logarithm of the cluster', () => {
  expect([1, 3, 10, 50, 1_000].map(rumourSendsMax)).toEqual([4, 5, 7, 9, 13]);
});
