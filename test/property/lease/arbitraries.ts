/** Any message that a guard may send. */
import fc from 'fast-check';
import type { HostId } from '../../../crdt/ids.ts';
import type { Message } from '../../../daemon/lease/messages.ts';
import { leaseLimits } from '../../../daemon/lease/model.ts';
import type { ChosenConfig, LeaseFloor, VoterConfig } from '../../../daemon/lease/model.ts';
import { mergeFloors } from '../../../daemon/lease/voter-config.ts';

const hexOf = (length: number) =>
  fc
    .array(fc.integer({ min: 0, max: 15 }), { minLength: length, maxLength: length })
    .map((all) => all.map((digit) => digit.toString(16)).join(''));

export const hostId = fc.oneof(
  fc.constantFrom('a', 'b', 'c', 'd', 'e').map((digit) => digit.repeat(32) as HostId),
  hexOf(32) as fc.Arbitrary<HostId>,
);
const session = fc.oneof(fc.constantFrom('1'.repeat(24), '2'.repeat(24)), hexOf(24));
export const owner = fc.record({ host: hostId, session });
const counter = fc.oneof(fc.nat(1_000), fc.nat(leaseLimits.counterMax));
const ballot = fc.tuple(counter, owner).map(([count, by]) => ({ counter: count, ...by }));
const env = fc.constantFrom('prod', 'test-2', 'a');
export const leaseName = fc.oneof(
  fc.constantFrom('planner/prod', 'lock/x', 'service/prod/0011223344556677'),
  fc.string({
    unit: fc.integer({ min: 0x21, max: 0x7e }).map((code) => String.fromCharCode(code)),
    minLength: 1,
    maxLength: 160,
  }),
);
const duration = fc.oneof(fc.nat(20_000), fc.constantFrom(0, 86_400_000));
const generation = fc.nat(9);
const ref = fc.record({ env, generation, n: fc.integer({ min: -1, max: 1_000 }) });
const header = fc.record({ env, generation, n: fc.nat(1_000), name: leaseName, ballot });
const nullOr = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: null });

export const floor: fc.Arbitrary<LeaseFloor> = fc.record({
  name: leaseName,
  epoch: counter,
  owner,
});
export const floorList = fc
  .array(floor, { maxLength: 6 })
  .map((floors) => mergeFloors([{ floors, rest: 0 }]).floors as LeaseFloor[]);

export const voterConfig: fc.Arbitrary<VoterConfig> = fc.record({
  env,
  n: fc.nat(1_000),
  prevHash: fc.oneof(fc.constant(''), hexOf(64)),
  generation,
  voters: fc.uniqueArray(hostId, { minLength: 1, maxLength: 7 }).map((all) => all.toSorted()),
  ttlMsMax: fc.integer({ min: 100, max: 60_000 }),
  floors: floorList,
  floorRest: counter,
});

export const chosenConfig: fc.Arbitrary<ChosenConfig> = fc.record({
  config: voterConfig,
  electorate: fc.array(hostId, { maxLength: 7 }),
  votes: fc.array(hostId, { maxLength: 7 }),
});

const kind = <K extends Message['kind']>(word: K) => fc.constant(word);
const purpose = fc.constantFrom('acquire', 'renew', 'park', 'unpark');
const why = fc.constantFrom('ballot', 'busy', 'epoch', 'parked', 'denied', 'ttl', 'limit');
const step = fc.constantFrom(
  'ask',
  'prepare',
  'ready',
  'stopped',
  'settled',
  'go',
  'done',
  'abort',
  'here',
);

/** Rebuilds with the fields of a header first, as plain objects. */
function withHeader<H extends object, F extends object>(
  head: fc.Arbitrary<H>,
  fields: fc.Arbitrary<F>,
): fc.Arbitrary<H & F> {
  return fc.tuple(head, fields).map(([a, b]) => ({ ...a, ...b }));
}

const unfenced = fc.array(hostId, { maxLength: leaseLimits.unfencedMax });
const chainHead = withHeader(ref, fc.record({ ballot }));

export const message: fc.Arbitrary<Message> = fc.oneof(
  withHeader(header, fc.record({ kind: kind('prepare'), isForced: fc.boolean() })),
  withHeader(
    header,
    fc.record({
      kind: kind('promise'),
      isOpen: fc.boolean(),
      live: nullOr(fc.record({ owner, epoch: counter, remainMs: duration })),
      maxEpoch: counter,
      maxEpochOwner: nullOr(owner),
      isReleased: fc.boolean(),
      promisedCounter: counter,
      parkedBy: nullOr(owner),
      unfenced: nullOr(unfenced),
    }),
  ),
  withHeader(
    header,
    fc.record({
      kind: kind('accept'),
      purpose,
      epoch: counter,
      exclusionMs: duration,
      isForced: fc.boolean(),
      unfenced,
    }),
  ),
  withHeader(header, fc.record({ kind: kind('accepted'), purpose, isFull: fc.boolean() })),
  withHeader(
    header,
    fc.record({
      kind: kind('reject'),
      why,
      promisedCounter: counter,
      maxEpoch: counter,
      remainMs: duration,
    }),
  ),
  withHeader(header, fc.record({ kind: kind('release'), successor: nullOr(hostId) })),
  fc.record({ kind: kind('config'), chosen: chosenConfig }),
  withHeader(ref, fc.record({ kind: kind('config-ask') })),
  fc.record({
    kind: kind('learn'),
    env,
    name: leaseName,
    owner,
    epoch: counter,
    remainMs: duration,
    state: fc.constantFrom('active', 'parked', 'released'),
  }),
  fc.record({ kind: kind('watch'), env, names: fc.array(leaseName, { maxLength: 5 }) }),
  fc.record({ kind: kind('expired'), env, name: leaseName, epoch: counter }),
  fc.record({
    kind: kind('handover'),
    env,
    name: leaseName,
    step,
    id: hexOf(12),
    epoch: counter,
    to: hostId,
    reason: fc
      .string({ maxLength: 60, unit: 'grapheme' })
      .map((text) => text.slice(0, 200).toWellFormed()),
  }),
  withHeader(chainHead, fc.record({ kind: kind('chain-prepare') })),
  withHeader(
    chainHead,
    fc.record({
      kind: kind('chain-promise'),
      isOpen: fc.boolean(),
      waitMs: duration,
      promised: nullOr(ballot),
      accepted: nullOr(fc.record({ ballot, config: voterConfig })),
      floors: floorList,
      floorRest: counter,
    }),
  ),
  withHeader(chainHead, fc.record({ kind: kind('chain-accept'), config: voterConfig })),
  withHeader(
    chainHead,
    fc.record({
      kind: kind('chain-accepted'),
      hash: hexOf(64),
      isAccepted: fc.boolean(),
      waitMs: duration,
      promised: nullOr(ballot),
    }),
  ),
) as fc.Arbitrary<Message>;
