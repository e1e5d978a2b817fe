/** Views of leases, voters and alerts. */
import type { EditAnswer } from '../operations/answers.ts';
import type {
  AlertRow,
  CandidateRow,
  EnvDetails,
  EnvRow,
  LeaseDetails,
  LeaseRow,
  MoveAnswer,
  QuorumAnswer,
  StorageCopyRow,
  StorageRow,
} from '../operations/lease-answers.ts';
import { ago, pairs, size, state, table, when } from './layout.ts';
import type { Style } from './terminal.ts';
import { editedText } from './view-parts.ts';
import type { Views } from './views.ts';

export const leaseViews: Views = {
  leaseLs: (rows: readonly LeaseRow[], { style }) => {
    const lines = rows.map((row) => [
      row.title,
      row.holder ?? style.bad('nobody'),
      row.epoch === 0 ? '' : String(row.epoch),
      state(row.state, style),
      leftText(row.expiresInMs),
      row.candidates.join(','),
      [...row.trouble, ...(row.frozen ? ['frozen by an operator'] : [])].join('; '),
    ]);
    const head = ['LEASE', 'HOLDER', 'EPOCH', 'STATE', 'LEFT', 'CANDIDATES', ''];
    return table(head, lines, style) || 'no leases';
  },
  leaseShow: (data: LeaseDetails, { style }) =>
    [
      pairs(headRows(data, style), style).trimEnd(),
      '',
      candidateTable(data.candidates, style),
      '',
      quorumText(data.quorum, style),
      ...(data.history.length === 0 ? [] : ['', historyTable(data, style)]),
    ].join('\n'),
  storageLs: (rows: readonly StorageRow[], { style }) => {
    const lines = rows.flatMap((row) =>
      row.hosts.map((copy, index) => [
        index === 0 ? row.name : '',
        copy.host,
        state(copy.isAlive ? copy.state : 'dead', style),
        copy.epoch === 0 ? '' : String(copy.epoch),
        lagText(copy),
        copy.bytes === 0 ? '' : size(copy.bytes),
        copy.reason ?? '',
      ]),
    );
    const head = ['STORAGE', 'HOST', 'STATE', 'EPOCH', 'BEHIND', 'SIZE', ''];
    return table(head, lines, style) || 'no storage';
  },
  leaseMove: (data: MoveAnswer) => {
    const took = `${(data.tookMs / 1_000).toFixed(1)} s`;
    if (data.to === null) return `${data.title} was given up by ${data.from ?? 'nobody'} (${took})`;
    if (data.to === data.from) return `${data.to} holds ${data.title} already, epoch ${data.epoch}`;
    return `${data.title} is held by ${data.to}, epoch ${data.epoch} (${took})`;
  },
  leasePark: (data: { host: string; leases: readonly string[]; parked: boolean }) => {
    const what = data.leases.length === 0 ? `what ${data.host} holds` : data.leases.join(', ');
    return data.parked
      ? `${what} is parked: nobody takes it over until \`trellis lease unpark\` on ${data.host}`
      : `${what} is no longer parked`;
  },
  envLs: (rows: readonly EnvRow[], { style }) =>
    table(
      ['ENVIRONMENT', 'HOSTS', 'VOTERS', ''],
      rows.map((row) => [
        row.isOwn ? style.bold(row.name) : row.name,
        `${row.live}/${row.hosts}`,
        row.voters.join(','),
        [
          ...(row.hasQuorum === false && row.voters.length > 0 ? [style.bad('no majority')] : []),
          ...(row.frozen === true ? ['frozen'] : []),
        ].join(', '),
      ]),
      style,
    ),
  envShow: (data: EnvDetails, { style }) => {
    const wanted = data.votersWanted;
    const rows: [string, string][] = [
      ['environment', data.name],
      ['hosts', `${data.live} of ${data.hosts} alive`],
      ['voters wanted', typeof wanted === 'string' ? wanted : wanted.join(', ')],
      ['planning', data.autoApply === 'off' ? 'by hand' : 'automatic where it is safe'],
      [
        'planner',
        data.planner === null ? 'nobody' : `${data.planner.host}, epoch ${data.planner.epoch}`,
      ],
      ['frozen', data.frozen === true ? 'yes' : ''],
    ];
    const choices = data.choices.map((line) => `  - ${line}`);
    return [
      pairs(rows, style).trimEnd(),
      '',
      quorumText(data.quorum, style),
      ...(choices.length === 0
        ? []
        : ['', 'Two hosts, so that every choice loses something:', ...choices]),
    ].join('\n');
  },
  forceVoters: (data: { env: string; voters: readonly string[] }) =>
    `the voters of ${data.env} are now ${data.voters.join(', ')}`,
  alertLs: (rows: readonly AlertRow[], { style }) =>
    rows.length === 0
      ? 'nothing needs a person'
      : rows.map((row) => alertText(row, style)).join('\n'),
  alertAck: (data: EditAnswer & { acknowledged: readonly string[] }, { style }) =>
    data.acknowledged.length === 0
      ? 'there was nothing to acknowledge'
      : `acknowledged: ${data.acknowledged.join(', ')}\n${editedText(data, style)}`,
};

function lagText({ state: what, lagMs, isInSync }: StorageCopyRow): string {
  if (what === 'active' || what === 'unknown') return '';
  const lag = lagMs === null ? 'not known' : `${(lagMs / 1_000).toFixed(1)} s`;
  return isInSync ? lag : `${lag}, may not take over`;
}

function headRows(data: LeaseDetails, style: Style): [string, string][] {
  const { timing } = data;
  const losses = data.survives < 0 ? 'none' : lossText(data.survives, 'host loss');
  return [
    ['lease', `${data.title} (${data.name})`],
    ['holder', holderText(data, style)],
    ['services', data.services.join(', ')],
    [
      'moving',
      data.moving === null ? '' : `to ${data.moving.to ?? 'the best'}: ${data.moving.step}`,
    ],
    ['time left', leftText(data.expiresInMs)],
    ['profile', timing === null ? '' : profileText(data, timing)],
    ['on loss', data.onLoss ?? ''],
    ['frozen', data.frozen ? 'yes: nobody takes it over by itself' : ''],
    ['gate', data.gate === null ? '' : gateText(data.gate, style)],
    ['survives', losses],
    ['trouble', data.trouble.map((line) => style.bad(line)).join('; ')],
    ['seen from', data.seenFrom],
  ];
}

function lossText(n: number, noun: string): string {
  return `${n} ${noun}${n === 1 ? '' : 'es'}`;
}

function holderText(data: LeaseDetails, style: Style): string {
  if (data.holder === null) return style.bad('nobody');
  const since = data.since === null ? '' : ` since ${when(data.since)}`;
  return `${data.holder}, ${state(data.state, style)}, epoch ${data.epoch}${since}`;
}

function profileText(data: LeaseDetails, timing: NonNullable<LeaseDetails['timing']>): string {
  return (
    `${data.profile ?? ''}: renewed every ${timing.renewMs} ms, lost after ${timing.authorityMs} ms ` +
    `(frozen ${timing.freezeBeforeMs} ms before, killed ${timing.killBeforeMs} ms before)`
  );
}

function gateText(gate: NonNullable<LeaseDetails['gate']>, style: Style): string {
  return gate.fault === null ? gate.state : style.bad(`${gate.state}: ${gate.fault}`);
}

function leftText(ms: number | null): string {
  return ms === null ? '' : `${(ms / 1_000).toFixed(1)} s`;
}

function candidateTable(rows: readonly CandidateRow[], style: Style): string {
  const lines = rows.map((row) => [
    row.place === null ? '' : String(row.place),
    row.host,
    row.isHolder ? style.good('holds it') : row.mayTake ? 'may take over' : style.warn('may not'),
    row.reasons.map(({ text }) => text).join('; '),
  ]);
  return table(['', 'CANDIDATE', '', 'WHY'], lines, style).trimEnd() || 'no candidates';
}

function historyTable(data: LeaseDetails, style: Style): string {
  const rows = data.history.map((entry) => [
    when(entry.at),
    String(entry.epoch),
    entry.host,
    entry.what,
    entry.why,
  ]);
  return table(['WHEN', 'EPOCH', 'HOST', 'WHAT', 'WHY'], rows, style).trimEnd();
}

export function quorumText(quorum: QuorumAnswer, style: Style): string {
  const rows = quorum.voters.map((voter) => [
    voter.host,
    voter.isSilent
      ? style.warn('silent')
      : voter.isReachable
        ? style.good('answers')
        : style.bad('does not answer'),
    voter.lastHeardMs === null ? '' : ago(voter.lastHeardMs),
  ]);
  const chain =
    quorum.n === null ? '' : `configuration ${quorum.n}, generation ${quorum.generation ?? 0}; `;
  const more =
    quorum.survives < 0
      ? style.bad('no lease can change hands now')
      : `survives: ${lossText(quorum.survives, 'more loss')}`;
  return [
    ...(rows.length === 0 ? [] : [table(['VOTER', '', 'HEARD'], rows, style).trimEnd()]),
    `${chain}${more}`,
    quorum.ifOneMoreGoes,
    ...(quorum.note === '' ? [] : [style.warn(quorum.note)]),
  ].join('\n');
}

function alertText(row: AlertRow, style: Style): string {
  const seen =
    row.acknowledged === null
      ? ''
      : `  ${style.dim(`seen by ${row.acknowledged.operator ?? 'somebody'} at ${when(row.acknowledged.at)}`)}`;
  const severity = row.severity === 'alarm' ? style.bad(row.severity) : style.warn(row.severity);
  return `${severity}  ${style.bold(row.id)}  since ${when(row.since)}, reported by ${row.reportedBy.join(', ')}${seen}\n    ${row.text}\n    ${style.dim(row.todo)}`;
}
