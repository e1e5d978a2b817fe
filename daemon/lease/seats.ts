/**
 * What a voter remembers of all leases, bounded: grants and promises as long as the guard lives, the highest epochs and parks for
 * ever. A lease that is forgotten leaves an epoch behind, below which none of the forgotten starts.
 */
import type { HostId } from '../../crdt/ids.ts';
import type { DurableRecord } from './core-api.ts';
import { leaseLimits } from './model.ts';
import type { Ballot, Epoch, LeaseFloor, LeaseName, Owner } from './model.ts';
import { longAgoMs, newSeat } from './seat.ts';
import type { Seat } from './seat.ts';
import type { Turn } from './turn.ts';

/** As `volatile()` gives it: plain values only. */
export type SeatState = readonly [
  name: LeaseName,
  promised: Ballot | null,
  granted: Ballot | null,
  untilMs: number,
  maxEpoch: Epoch,
  maxOwner: Owner | null,
  isReleased: boolean,
  released: Ballot | null,
  /** Absent in what older guards kept. */
  unfenced?: readonly HostId[] | null,
];

export interface SeatPorts {
  /** Extra exclusion after an expiry without release. */
  lockDelayMs(name: LeaseName): number;
  /** Known from the environment's wish; others are forgotten first. */
  isListed(name: LeaseName): boolean;
}

export class Seats {
  readonly #ports: SeatPorts;
  readonly #byName = new Map<LeaseName, Seat>();
  #floorRest: Epoch = 0;

  constructor(ports: SeatPorts) {
    this.#ports = ports;
  }

  // ---- One -----------------------------------------------------------------------------------------------------------

  get(name: LeaseName): Seat | null {
    return this.#byName.get(name) ?? null;
  }

  all(): Iterable<Seat> {
    return this.#byName.values();
  }

  /** Made when missing; null: there are too many. */
  getOrMake(name: LeaseName, turn: Turn): Seat | null {
    const seat = this.#byName.get(name);
    if (seat) return seat;
    if (this.#byName.size >= leaseLimits.leasesMax && !this.#forgetOne(turn)) return null;
    return this.#make(name);
  }

  /**
   * Makes room: forgets a lease that nobody wants any more, raising the epoch below which none of the forgotten starts. Its
   * promise goes too, which is no loss: exclusion rests on grants, not on promises. The one of the lowest epoch: those of
   * jobs are high, and the others should not have to start above them.
   */
  #forgetOne(turn: Turn): boolean {
    let lowest: Seat | null = null;
    for (const seat of this.#byName.values()) {
      const endMs = seat.untilMs + this.#ports.lockDelayMs(seat.name);
      if (turn.monoMs < endMs || seat.pending > 0 || seat.parked) continue;
      if (this.#ports.isListed(seat.name)) continue;
      if (lowest === null || seat.maxEpoch < lowest.maxEpoch) lowest = seat;
    }
    if (lowest === null) return false;
    this.#byName.delete(lowest.name);
    if (lowest.maxEpoch > this.#floorRest) {
      this.#floorRest = lowest.maxEpoch;
      turn.persist([{ kind: 'floor-rest', epoch: lowest.maxEpoch }]);
    }
    return true;
  }

  #make(name: LeaseName): Seat {
    let seat = this.#byName.get(name);
    if (!seat) {
      seat = newSeat(name, this.#floorRest);
      this.#byName.set(name, seat);
    }
    return seat;
  }

  // ---- State ----------------------------------------------------------------------------------------------------------

  /** What the disk holds; before `resume`. */
  restore(records: readonly DurableRecord[]): void {
    for (const record of records) {
      if (record.kind === 'epoch') {
        const seat = this.#make(record.name);
        if (record.epoch >= seat.maxEpoch) {
          seat.maxEpoch = record.epoch;
          seat.maxOwner = record.owner;
          seat.isReleased = false;
          seat.unfenced = record.unfenced ?? [];
        }
        seat.savedUnfenced = (record.unfenced ?? []).join();
        seat.savedEpoch = record.epoch;
        seat.savedOwner = record.owner;
      } else if (record.kind === 'parked') {
        const seat = this.#make(record.name);
        seat.parked = record.owner === null ? null : { owner: record.owner, epoch: record.epoch };
        seat.savedParked = record.owner === null ? 0 : record.epoch;
      } else if (record.kind === 'floor-rest') {
        this.#floorRest = Math.max(this.#floorRest, record.epoch);
      } else if (record.kind === 'chosen') {
        this.raiseFloors(record.chosen.config.floors, record.chosen.config.floorRest);
      }
    }
  }

  /** Continues from what this boot knew; grants and promises included. */
  resume(states: readonly SeatState[], floorRest: Epoch): void {
    this.#floorRest = Math.max(this.#floorRest, floorRest);
    for (const saved of states) {
      const seat = this.#make(saved[0]);
      seat.promised = saved[1];
      seat.granted = saved[2];
      seat.owner = saved[2] && { host: saved[2].host, session: saved[2].session };
      seat.untilMs = saved[3];
      if (saved[4] >= seat.maxEpoch) {
        seat.maxEpoch = saved[4];
        seat.maxOwner = saved[5];
        seat.unfenced = saved[8] ?? null;
      }
      seat.isReleased = saved[6];
      seat.released = saved[7];
    }
  }

  volatile(): readonly SeatState[] {
    const seats: SeatState[] = [];
    for (const seat of this.#byName.values()) {
      seats.push([
        seat.name,
        seat.promised,
        seat.granted,
        seat.untilMs,
        seat.maxEpoch,
        seat.maxOwner,
        seat.isReleased,
        seat.released,
        seat.unfenced,
      ]);
    }
    return seats;
  }

  /** Below which no lease starts that was forgotten. */
  get floorRest(): Epoch {
    return this.#floorRest;
  }

  /** Grants and promises only; epochs and parks stay. */
  forget(): void {
    for (const seat of this.#byName.values()) {
      seat.promised = null;
      seat.granted = null;
      seat.owner = null;
      seat.untilMs = longAgoMs;
      seat.released = null;
      seat.reservedFor = null;
      seat.held = [];
      seat.isExpiryTold = true;
    }
  }

  hasGrantOfOthers(self: HostId, monoMs: number): boolean {
    for (const seat of this.#byName.values()) {
      if (seat.owner && seat.owner.host !== self && monoMs < seat.untilMs) return true;
    }
    return false;
  }

  floors(): { readonly floors: readonly LeaseFloor[]; readonly rest: Epoch } {
    const floors: LeaseFloor[] = [];
    for (const seat of this.#byName.values()) {
      if (seat.maxOwner && seat.maxEpoch > 0)
        floors.push({ name: seat.name, epoch: seat.maxEpoch, owner: seat.maxOwner });
    }
    floors.sort((a, b) => (a.name < b.name ? -1 : 1));
    return { floors, rest: this.#floorRest };
  }

  /** Of a configuration that is durable here, which is why these need no write of their own. */
  raiseFloors(floors: readonly LeaseFloor[], rest: Epoch): void {
    for (const floor of floors) {
      const seat = this.#make(floor.name);
      if (floor.epoch <= seat.maxEpoch) continue;
      seat.maxEpoch = floor.epoch;
      seat.maxOwner = floor.owner;
      seat.isReleased = false;
      seat.unfenced = null;
    }
    this.#floorRest = Math.max(this.#floorRest, rest);
    for (const seat of this.#byName.values()) {
      // Nobody owns an epoch that stands for leases which were forgotten.
      if (seat.maxEpoch < rest && !floors.some((floor) => floor.name === seat.name)) {
        seat.maxEpoch = rest;
        seat.maxOwner = null;
        seat.unfenced = null;
      }
    }
  }
}
