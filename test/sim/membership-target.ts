import { IncarnationChecker } from './checkers/incarnations.ts';
import { MembershipWorld } from './membership-node.ts';
import type { Target } from './target.ts';

/** The failure detector alone: cheap, so it gets many seeds. */
export const membershipTarget: Target = {
  name: 'membership',
  nodesMin: 1,
  nodesMax: 9,
  forMsMax: 180_000,
  make({ seed, swarm, print }) {
    const world = new MembershipWorld({
      seed,
      nodeCount: swarm.nodeCount,
      network: swarm.network,
      storage: swarm.storage,
      driftMax: swarm.driftMax,
      wallOffsetMsMax: swarm.wallOffsetMsMax,
      makeChecker: () => new IncarnationChecker(),
      ...(print === undefined ? {} : { print }),
    });
    return { world, convergeWithinMs: 60_000 };
  },
};
