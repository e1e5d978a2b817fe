import { afterEach, beforeEach, expect, test } from 'vitest';
import type { NetworkLimits } from '../../../daemon/net/peer-network.ts';
import { eventually } from '../../await.ts';
import { bytes, meshed, TestCluster } from './cluster.ts';
import type { TestNode } from './cluster.ts';
import { SilentLink } from './silent-link.ts';

let cluster: TestCluster;
const links: SilentLink[] = [];
const limits = {
  quietMs: 100,
  silentMs: 400,
  sweepMs: 50,
  redialMsMin: 20,
  redialMsMax: 200,
  dialTimeoutMs: 300,
};

beforeEach(() => {
  cluster = new TestCluster();
});

afterEach(async () => {
  await cluster.close();
  for (const link of links.splice(0)) await link.close();
});

/** Two members that reach each other through a link which can be cut. */
async function pair(
  nodeLimits: Partial<NetworkLimits> = limits,
): Promise<{ a: TestNode; b: TestNode; all: { cut(): void; heal(): void } }> {
  const a = await cluster.start({ limits: nodeLimits });
  const toA = await SilentLink.to(a.network.port());
  cluster.addresses.set(a.id, toA.address);
  const b = await cluster.start({ limits: nodeLimits });
  const toB = await SilentLink.to(b.network.port());
  cluster.addresses.set(b.id, toB.address);
  links.push(toA, toB);
  a.network.disconnect(b.id, 'through the link from now on');
  b.network.disconnect(a.id, 'through the link from now on');
  cluster.changed();
  await meshed([a, b]);
  const each = (act: (link: SilentLink) => void) => (): void => links.forEach(act);
  return { a, b, all: { cut: each((link) => link.cut()), heal: each((link) => link.heal()) } };
}

test('an idle session stays: silence is asked about, and answered', async () => {
  const { a, b } = await pair({ ...limits, silentMs: 10_000, unansweredMs: 10_000 });
  const before = a.peerEvents.length;
  const { bytesReceived } = a.network.counters();
  await eventually(() => a.network.counters().bytesReceived > bytesReceived + 8, {
    withinMs: 10_000,
  });
  expect(a.peerEvents.length).toBe(before);
  expect(a.frames).toEqual([]);
  expect(b.frames).toEqual([]);
});

test('a silent cut is noticed by both without a word, and healed soon after the link is back', async () => {
  const { a, b, all } = await pair();
  all.cut();
  await eventually(() => a.network.connected().length === 0 && b.network.connected().length === 0, {
    withinMs: 10_000,
  });
  const { dials } = a.network.counters();
  await eventually(() => a.network.counters().dials >= dials + 3, { withinMs: 10_000 });
  expect(a.network.connected()).toEqual([]);
  all.heal();
  await meshed([a, b]);
  a.network.send(b.id, bytes('again'));
  await eventually(() => b.frames.length === 1, { withinMs: 5_000 });
});

test('a cut that only one side noticed: its new session replaces the dead one of the other', async () => {
  const { a, b, all } = await pair();
  all.cut();
  b.network.disconnect(a.id, 'membership found it silent');
  all.heal();
  await meshed([a, b]);
  b.network.send(a.id, bytes('hello'));
  a.network.send(b.id, bytes('hello'));
  await eventually(() => a.frames.length > 0 || b.frames.length > 0, { withinMs: 5_000 });
  await eventually(
    () => {
      a.network.send(b.id, bytes('x'));
      b.network.send(a.id, bytes('y'));
      return a.frames.length > 2 && b.frames.length > 2;
    },
    { withinMs: 10_000, what: 'frames flow in both directions' },
  );
});

test('[stackato:S8] after a change of our own address, sessions that do not answer are given up at once', async () => {
  const { a, b, all } = await pair({
    ...limits,
    quietMs: 60_000,
    silentMs: 60_000,
    unansweredMs: 60_000,
    verifyMs: 200,
  });
  const events = a.peerEvents.length;
  a.network.localAddressesChanged();
  a.network.send(b.id, bytes('answered'));
  await eventually(() => b.frames.length === 1, { withinMs: 5_000 });
  all.cut();
  a.network.localAddressesChanged();
  await eventually(() => a.network.connected().length === 0, { withinMs: 5_000 });
  expect(a.peerEvents.length).toBe(events + 1);
  all.heal();
  await eventually(
    () => {
      a.network.send(b.id, bytes('x'));
      return b.frames.length > 1;
    },
    { withinMs: 10_000 },
  );
});

test('a peer that leaves what we send unanswered is given up long before a silent one', async () => {
  const patient = { ...limits, quietMs: 60_000, silentMs: 60_000, unansweredMs: 600 };
  const { a, b, all } = await pair(patient);
  // One-way traffic alone is no reason: the peer is asked and answers.
  const events = a.peerEvents.length;
  const { bytesReceived } = a.network.counters();
  a.network.send(b.id, bytes('one way'));
  await eventually(() => a.network.counters().bytesReceived > bytesReceived, { withinMs: 5_000 });
  expect(a.peerEvents.length).toBe(events);
  all.cut();
  a.network.send(b.id, bytes('lost'));
  await eventually(() => a.network.connected().length === 0, { withinMs: 5_000 });
  // b has sent nothing, so it waits for its own limits; a's new session replaces its dead one.
  expect(b.network.connected()).toEqual([a.id]);
  all.heal();
  await eventually(() => a.network.connected().length === 1, { withinMs: 5_000 });
});
