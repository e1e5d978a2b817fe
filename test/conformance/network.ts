/**
 * What every Network must do, run on libp2p and on the simulator's links. Only what the port promises: frames may be
 * lost, repeated or reordered there, so the harness is asked for a quiet network.
 */
import { describe, expect, test } from 'vitest';
import type { NodeId } from '../../crdt/ids.ts';
import type { Network } from '../../daemon/ports.ts';

export interface NetworkHarness {
  readonly nodes: readonly { readonly id: NodeId; readonly network: Network }[];
  readonly frameBytesMax: number;
  /** Lets time pass until `check` holds; throws when it does not within a generous time. */
  readonly until: (check: () => boolean) => Promise<void>;
  /** Ends the process of this node; its connections are reset. */
  readonly stop: (index: number) => Promise<void>;
  readonly close: () => Promise<void>;
}

/** `make` calls `prepare` with each node's port before anything may arrive there. */
export function describeNetwork(
  name: string,
  make: (
    count: number,
    prepare: (index: number, network: Network) => void,
  ) => Promise<NetworkHarness>,
): void {
  const unknown = 'ee'.repeat(32) as NodeId;

  interface Seen {
    readonly frames: { from: NodeId; frame: Uint8Array }[];
    readonly peers: { peer: NodeId; isConnected: boolean }[];
  }

  const withNodes =
    (count: number, body: (harness: NetworkHarness, seen: readonly Seen[]) => Promise<void>) =>
    async (): Promise<void> => {
      const seen: Seen[] = [];
      const harness = await make(count, (index, network) => {
        const mine: Seen = { frames: [], peers: [] };
        seen[index] = mine;
        network.onFrame((from, frame) => mine.frames.push({ from, frame }));
        network.onPeer((peer, isConnected) => mine.peers.push({ peer, isConnected }));
      });
      try {
        await harness.until(() =>
          harness.nodes.every(({ network }) => network.connected().length === count - 1),
        );
        await body(harness, seen);
      } finally {
        await harness.close();
      }
    };

  const at = <T>(list: readonly T[], index: number): T => {
    const item = list[index];
    if (item === undefined) throw new Error(`no item ${index}`);
    return item;
  };

  describe(`Network: ${name}`, () => {
    test(
      'everybody is connected to everybody else, never to itself, and was told so',
      withNodes(3, async ({ nodes }, seen) => {
        for (const [index, { id, network }] of nodes.entries()) {
          const others = nodes.map((node) => node.id).filter((other) => other !== id);
          expect(network.connected().toSorted()).toEqual(others.toSorted());
          for (const other of others) {
            expect(
              at(seen, index)
                .peers.filter(({ peer }) => peer === other)
                .at(-1)?.isConnected,
            ).toBe(true);
          }
        }
      }),
    );

    test(
      'a frame reaches its addressee only, with the sender, as bytes that both may go on using',
      withNodes(3, async ({ nodes, until }, seen) => {
        const frame = new Uint8Array([1, 2, 3]);
        at(nodes, 0).network.send(at(nodes, 1).id, frame);
        at(nodes, 0).network.send(at(nodes, 2).id, frame);
        frame.fill(0);
        await until(() => at(seen, 1).frames.length === 1 && at(seen, 2).frames.length === 1);
        const got = at(at(seen, 1).frames, 0);
        expect(got.from).toBe(at(nodes, 0).id);
        expect([...got.frame]).toEqual([1, 2, 3]);
        got.frame.fill(9);
        expect([...at(at(seen, 2).frames, 0).frame]).toEqual([1, 2, 3]);
        expect(at(seen, 0).frames).toEqual([]);
      }),
    );

    test(
      'sending to nobody, to itself and too much at once neither throws nor arrives',
      withNodes(2, async ({ nodes, until, frameBytesMax }, seen) => {
        const { id, network } = at(nodes, 0);
        const other = at(nodes, 1).id;
        network.send(unknown, new Uint8Array(1));
        network.send(id, new Uint8Array(1));
        network.send(other, new Uint8Array(frameBytesMax + 1));
        network.send(other, new Uint8Array(0));
        network.send(other, new Uint8Array(frameBytesMax));
        await until(() => at(seen, 1).frames.length === 2);
        expect(at(seen, 1).frames.map(({ frame }) => frame.length)).toEqual([0, frameBytesMax]);
        expect(at(seen, 0).frames).toEqual([]);
      }),
    );

    test(
      'a peer whose process ends is no longer connected, and the others are told',
      withNodes(3, async ({ nodes, until, stop }, seen) => {
        const gone = at(nodes, 2).id;
        await stop(2);
        await until(() => !at(nodes, 0).network.connected().includes(gone));
        expect(at(seen, 0).peers.at(-1)).toEqual({ peer: gone, isConnected: false });
        at(nodes, 0).network.send(gone, new Uint8Array(1));
        at(nodes, 0).network.send(at(nodes, 1).id, new Uint8Array(1));
        await until(() => at(seen, 1).frames.length === 1);
      }),
    );
  });
}
