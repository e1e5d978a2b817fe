/**
 * What a voter answers, and when: what has to be durable first is handed to the disk, and every answer about that lease waits
 * until it is there.
 */
import type { HostId } from '../../crdt/ids.ts';
import type { DurableRecord } from './core-api.ts';
import type { Accept, Accepted, Message, Prepare, Reject } from './messages.ts';
import { isSame } from './seat.ts';
import type { Seat } from './seat.ts';
import type { Turn } from './turn.ts';

/** Answers held back for one durable write; further ones are dropped, and asked for again. */
const heldBackMax = 64;

export class Answers {
  /** Token of a durable write -> the lease that waits for it. */
  readonly #writes = new Map<number, Seat>();

  /** Null: about no lease that is known here. */
  send(seat: Seat | null, to: HostId, message: Message, turn: Turn): void {
    if (seat === null || seat.pending === 0) turn.send(to, message);
    else if (seat.held.length < heldBackMax) seat.held.push({ to, message });
  }

  /** Before the answer: what changed that must not go back. */
  save(seat: Seat, turn: Turn): void {
    const records: DurableRecord[] = [];
    const owner = seat.maxOwner;
    const unfenced = seat.unfenced ?? [];
    const isAsSaved =
      seat.savedEpoch === seat.maxEpoch &&
      isSame(seat.savedOwner, owner) &&
      seat.savedUnfenced === unfenced.join();
    if (owner && !isAsSaved) {
      seat.savedEpoch = seat.maxEpoch;
      seat.savedOwner = owner;
      seat.savedUnfenced = unfenced.join();
      const more = unfenced.length === 0 ? {} : { unfenced };
      records.push({ kind: 'epoch', name: seat.name, epoch: seat.maxEpoch, owner, ...more });
    }
    const parkedEpoch = seat.parked?.epoch ?? 0;
    if (seat.savedParked !== parkedEpoch) {
      seat.savedParked = parkedEpoch;
      const by = seat.parked?.owner ?? null;
      records.push({ kind: 'parked', name: seat.name, owner: by, epoch: parkedEpoch });
    }
    if (records.length === 0) return;
    seat.pending++;
    this.#writes.set(turn.persist(records), seat);
  }

  /** A durable write is done: what waited for it may leave. False: it was of another part. */
  onPersisted(token: number, isSilent: boolean, turn: Turn): boolean {
    const seat = this.#writes.get(token);
    if (!seat) return false;
    this.#writes.delete(token);
    seat.pending--;
    if (seat.pending > 0) return true;
    const { held } = seat;
    seat.held = [];
    if (isSilent) return true;
    for (const each of held) turn.send(each.to, each.message);
    return true;
  }

  promise(
    to: HostId,
    message: Prepare,
    seat: Seat,
    isOpen: boolean,
    blockedMs: number,
    turn: Turn,
  ): void {
    const isLive = seat.owner !== null && (blockedMs > 0 || turn.monoMs < seat.untilMs);
    const remainMs = Math.max(blockedMs, seat.untilMs - turn.monoMs);
    this.send(
      seat,
      to,
      {
        kind: 'promise',
        env: message.env,
        generation: message.generation,
        n: message.n,
        name: message.name,
        ballot: message.ballot,
        isOpen,
        live: isLive && seat.owner ? { owner: seat.owner, epoch: seat.maxEpoch, remainMs } : null,
        maxEpoch: seat.maxEpoch,
        maxEpochOwner: seat.maxOwner,
        isReleased: seat.isReleased,
        promisedCounter: seat.promised?.counter ?? 0,
        parkedBy: seat.parked?.owner ?? null,
        unfenced: seat.unfenced,
      },
      turn,
    );
  }

  reject(
    to: HostId,
    message: Prepare | Accept,
    seat: Seat | null,
    why: Reject['why'],
    remainMs: number,
    turn: Turn,
  ): void {
    const promised = Math.max(seat?.promised?.counter ?? 0, seat?.released?.counter ?? 0);
    this.send(
      seat,
      to,
      {
        kind: 'reject',
        env: message.env,
        generation: message.generation,
        n: message.n,
        name: message.name,
        ballot: message.ballot,
        why,
        promisedCounter: promised,
        maxEpoch: Math.max(seat?.maxEpoch ?? 0, seat?.parked?.epoch ?? 0),
        remainMs,
      },
      turn,
    );
  }

  accepted(to: HostId, message: Accept, seat: Seat, isFull: boolean, turn: Turn): void {
    const { env, generation, n, name, ballot, purpose } = message;
    const accepted: Accepted = {
      kind: 'accepted',
      env,
      generation,
      n,
      name,
      ballot,
      purpose,
      isFull,
    };
    this.send(seat, to, accepted, turn);
  }
}
