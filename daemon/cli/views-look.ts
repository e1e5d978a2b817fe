/** Views of status, info, doctor, audit and names. */
import type { DoctorAnswer, NameRow, StatusAnswer } from '../operations/answers.ts';
import { count, pairs, state, table, when } from './layout.ts';
import type { Style } from './terminal.ts';
import type { Views } from './views.ts';
import { serviceTable } from './views-services.ts';

interface AuditRow {
  at: string;
  operator: string | null;
  via: string;
  group: string;
  command: string;
  result: string;
}

export const lookViews: Views = {
  status: (data: StatusAnswer, { style, params }) => {
    const shown = data.services.filter((row) => params['all'] === true || !isRight(row));
    const lines = [headline(data, style)];
    if (shown.length > 0) lines.push('', serviceTable(shown, style).trimEnd());
    if (params['all'] === true && data.hosts.length > 0) {
      const rows = data.hosts.map((host) => [host.name, state(host.state, style)]);
      lines.push('', table(['HOST', 'STATE'], rows, style).trimEnd());
    }
    if (params['redundancy'] === true) lines.push('', redundancyTable(data, style));
    if (data.differences.length > 0)
      lines.push('', ...data.differences.map((line) => style.bad(line)));
    return lines.join('\n');
  },
  info: (data: Readonly<Record<string, unknown>>, { style }) => pairs(flat(data, ''), style),
  doctor: (data: DoctorAnswer, { style }) => {
    const rows = data.checks.map((check) => [state(check.result, style), check.name, check.detail]);
    const todo = data.checks.filter((check) => check.todo !== '');
    const hints = todo.map((check) => `${check.name}: ${check.todo}`);
    return [table(['', `CHECK (${data.host})`, 'FOUND'], rows, style).trimEnd(), ...hints].join(
      '\n',
    );
  },
  audit: (rows: readonly AuditRow[], { style }) =>
    table(
      ['WHEN', 'WHO', 'VIA', 'COMMAND', 'RESULT'],
      rows.map((row) => [
        when(row.at),
        row.operator ?? 'root',
        row.via,
        `${row.group} ${row.command}`,
        row.result,
      ]),
      style,
    ) || 'nothing was run',
  namesShow: (rows: readonly NameRow[], { style }) =>
    table(
      ['NAME', 'PORT', 'ADDRESS', 'LEADS TO'],
      rows.map((row) => [
        row.name,
        row.port,
        row.number === null ? row.address : `${row.address}:${row.number}/${row.protocol}`,
        row.targets.join(' '),
      ]),
      style,
    ) || 'no service has ports',
};

/** An answer of a daemon of the last release has no such rows. */
function redundancyTable(data: StatusAnswer, style: Style): string {
  const rows = (data.exclusive as StatusAnswer['exclusive'] | undefined) ?? [];
  const lines = rows.map((row) => [
    row.service,
    row.holder ?? style.bad('nobody'),
    row.survives < 0
      ? style.bad('down')
      : row.survives === 0
        ? style.warn('no more loss')
        : `${row.survives} more ${row.survives === 1 ? 'loss' : 'losses'}`,
    row.limit,
  ]);
  const head = ['EXCLUSIVE', 'HOLDER', 'SURVIVES', 'LIMITED BY'];
  return table(head, lines, style).trimEnd() || 'no exclusive services';
}

function isRight(row: StatusAnswer['services'][number]): boolean {
  return row.running === row.desired && row.healthy >= row.running;
}

function headline(data: StatusAnswer, style: Style): string {
  const live = data.hosts.filter((host) => host.state !== 'dead' && host.state !== 'left').length;
  const parts = [
    `${live}/${count(data.hosts.length, 'host')} alive`,
    count(data.services.length, 'service'),
    data.conflicts === 0 ? 'no conflicts' : count(data.conflicts, 'conflict'),
  ];
  const verdict = data.ok ? style.good('as desired') : style.bad('not as desired');
  return `${data.cluster} / ${data.env}: ${verdict} (${parts.join(', ')})`;
}

/** Nested objects become 'a.b' lines. */
function flat(data: Readonly<Record<string, unknown>>, prefix: string): [string, string][] {
  return Object.entries(data).flatMap(([key, entry]): [string, string][] => {
    if (entry === null || entry === undefined) return [];
    if (Array.isArray(entry)) {
      return [[prefix + key, entry.map((item) => plain(item)).join(', ')]];
    }
    if (typeof entry === 'object')
      return flat(entry as Record<string, unknown>, `${prefix}${key}.`);
    return [[prefix + key, plain(entry)]];
  });
}

function plain(entry: unknown): string {
  return typeof entry === 'string' ? entry : JSON.stringify(entry);
}
