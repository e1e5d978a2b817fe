/** The report for people. */
import type { Report } from './bench.ts';
import type { Figure, Row } from './row.ts';

export function tableOf(report: Report): string {
  const head = ['row', 'unit', 'median', 'spread', 'p99', 'n', 'budget', '', 'peers'];
  const lines = [head, ...report.rows.map(cells)];
  const widths = head.map((_, column) =>
    Math.max(...lines.map((line) => (line[column] ?? '').length)),
  );
  const table = lines.map((line) =>
    line
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  );
  const notes = report.rows
    .filter((row) => row.note !== undefined)
    .map((row) => `  ${row.id}: ${row.note}`);
  const [before, after] = report.loadAverages;
  const how = `${report.at}, ${report.tookS} s${report.isQuick ? ', quick' : ''}; load average ${before} before, ${after} after`;
  return [
    report.machine,
    `commit ${report.commit}, ${how}`,
    '',
    ...table,
    '',
    'notes',
    ...notes,
    '',
  ].join('\n');
}

function cells(row: Row): string[] {
  const { median, p99, n } = row.ours;
  const peers = Object.entries(row.peers).map(
    ([name, figure]) => `${name} ${figure.median ?? '-'} (${spread(figure)}, n ${figure.n})`,
  );
  return [
    row.id,
    row.unit,
    text(median),
    spread(row.ours),
    text(p99),
    n === 0 ? '-' : String(n),
    row.budget,
    row.ok ? 'ok' : 'MISS',
    peers.join(', '),
  ];
}

function spread({ min, max }: Figure): string {
  return min === null ? '-' : `${min}..${max}`;
}

function text(value: number | null): string {
  return value === null ? '-' : String(value);
}
