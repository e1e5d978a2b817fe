/** The hosts of an environment as whoever chooses voters has to know them. Remembers since when one is dead. */
import type { HostId } from '../crdt/ids.ts';
import type { HostFact } from '../crdt/model.ts';
import { leaseFactsOf } from './lease-input.ts';
import type { VoterHost } from './lease/voters.ts';
import type { TrellisNode } from './node.ts';

export class VoterHosts {
  readonly #deadSinceMs = new Map<HostId, number>();

  look(
    node: TrellisNode,
    now: {
      readonly current: readonly HostId[];
      readonly nowMs: number;
      /** This host gives its vote up. */
      readonly isLeaving: boolean;
    },
  ): readonly VoterHost[] {
    const facts = leaseFactsOf(node);
    const guarded = new Set(
      facts.flatMap(({ host, fact }) => (fact.leasePort === 0 ? [] : [host])),
    );
    const forgetful = new Set(
      facts.flatMap(({ host, fact }) => (fact.hasForgotten === true ? [host] : [])),
    );
    const members = node
      .hosts()
      .filter(({ env, liveness }) => env === node.env && liveness !== 'left');
    const known = new Set(members.map(({ id }) => id));
    for (const host of this.#deadSinceMs.keys())
      if (!known.has(host)) this.#deadSinceMs.delete(host);
    return members.map(({ id, node: owner, meta, liveness }) => {
      if (liveness !== 'dead') this.#deadSinceMs.delete(id);
      else if (!this.#deadSinceMs.has(id)) this.#deadSinceMs.set(id, now.nowMs);
      const sinceMs = this.#deadSinceMs.get(id);
      const isSelf = id === node.self.host;
      const fact = node.fact('host', owner)?.value as Partial<HostFact> | undefined;
      // One whose guard nobody has heard of could not vote.
      const isMute = !isSelf && !guarded.has(id) && !now.current.includes(id);
      return {
        host: id,
        deadForMs: sinceMs === undefined ? null : now.nowMs - sinceMs,
        // Not said by hosts yet; the choice then goes by location and hash.
        uptimeMs: 0,
        location: meta['location'] ?? '',
        isWitness: meta['witness'] === 'true',
        isNever: isMute || meta['voter'] === 'never',
        hasForgotten: forgetful.has(id),
        isLeaving: isSelf ? now.isLeaving : fact?.isLeaving === true,
      };
    });
  }
}
