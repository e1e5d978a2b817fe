/** One message of every kind, with every field set to something that can be told from its neighbours. */
import type { HostId } from '../../../crdt/ids.ts';
import type { DurableRecord } from '../../../daemon/lease/core-api.ts';
import type { Message } from '../../../daemon/lease/messages.ts';
import type { ChosenConfig, Owner } from '../../../daemon/lease/model.ts';

const host = (digit: string) => digit.repeat(32) as HostId;
const session = (digit: string) => digit.repeat(24);
const owner = (a: string, b: string): Owner => ({ host: host(a), session: session(b) });

const ref = { env: 'prod', generation: 2, n: 7 };
const ballot = { counter: 41, ...owner('a', '1') };
const header = { ...ref, name: 'service/prod/0123456789abcdef', ballot };

export const sampleChosen: ChosenConfig = {
  config: {
    env: 'prod',
    n: 8,
    prevHash: '9'.repeat(64),
    generation: 2,
    voters: [host('a'), host('b'), host('c')],
    ttlMsMax: 15_000,
    floors: [{ name: 'lock/backup', epoch: 3, owner: owner('b', '2') }],
    floorRest: 1_048_576,
  },
  electorate: [host('a'), host('b')],
  votes: [host('a'), host('b')],
};

export const sampleMessages: { readonly [K in Message['kind']]: Extract<Message, { kind: K }> } = {
  prepare: { kind: 'prepare', ...header, isForced: true },
  promise: {
    kind: 'promise',
    ...header,
    isOpen: false,
    live: { owner: owner('b', '2'), epoch: 12, remainMs: 1_234 },
    maxEpoch: 13,
    maxEpochOwner: owner('c', '3'),
    isReleased: true,
    promisedCounter: 44,
    parkedBy: owner('d', '4'),
    unfenced: null,
  },
  accept: {
    kind: 'accept',
    ...header,
    purpose: 'park',
    epoch: 14,
    exclusionMs: 1_600,
    isForced: false,
    unfenced: [],
  },
  accepted: { kind: 'accepted', ...header, purpose: 'renew', isFull: true },
  reject: {
    kind: 'reject',
    ...header,
    why: 'parked',
    promisedCounter: 45,
    maxEpoch: 15,
    remainMs: 900,
  },
  config: { kind: 'config', chosen: sampleChosen },
  'config-ask': { kind: 'config-ask', env: 'prod', generation: 0, n: -1 },
  release: { kind: 'release', ...header, successor: host('b') },
  learn: {
    kind: 'learn',
    env: 'prod',
    name: 'planner/prod',
    owner: owner('a', '1'),
    epoch: 16,
    remainMs: 1_400,
    state: 'released',
  },
  watch: { kind: 'watch', env: 'prod', names: ['planner/prod', 'storage/prod/00ff'] },
  expired: { kind: 'expired', env: 'prod', name: 'lock/backup', epoch: 17 },
  handover: {
    kind: 'handover',
    env: 'prod',
    name: 'service/prod/0123456789abcdef',
    step: 'settled',
    id: '0123456789ab',
    epoch: 18,
    to: host('b'),
    reason: 'disk “data” fails',
  },
  'chain-prepare': { kind: 'chain-prepare', ...ref, ballot },
  'chain-promise': {
    kind: 'chain-promise',
    ...ref,
    ballot,
    isOpen: true,
    waitMs: 5_122,
    promised: { counter: 40, ...owner('b', '2') },
    accepted: { ballot: { counter: 39, ...owner('c', '3') }, config: sampleChosen.config },
    floors: [{ name: 'lock/backup', epoch: 3, owner: owner('b', '2') }],
    floorRest: 2,
  },
  'chain-accept': { kind: 'chain-accept', ...ref, ballot, config: sampleChosen.config },
  'chain-accepted': {
    kind: 'chain-accepted',
    ...ref,
    ballot,
    hash: '8'.repeat(64),
    isAccepted: true,
    waitMs: 0,
    promised: null,
  },
};

export const sampleRecords: readonly DurableRecord[] = [
  { kind: 'epoch', name: 'lock/backup', epoch: 3, owner: owner('b', '2') },
  { kind: 'parked', name: 'lock/backup', owner: owner('b', '2'), epoch: 3 },
  { kind: 'chosen', chosen: sampleChosen },
  {
    kind: 'chain',
    state: {
      v: 1,
      slot: { generation: 2, n: 8, promised: ballot, accepted: null },
      force: { generation: 3, n: -1, promised: ballot, accepted: null },
      before: { generation: 2, n: 7, ttlMsMax: 5_000 },
    },
  },
  { kind: 'intent', n: 8, isOn: true },
  { kind: 'floor-rest', epoch: 4 },
];
