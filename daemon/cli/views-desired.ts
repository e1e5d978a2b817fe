/** Views of desired state, plans, conflicts and history. */
import type {
  ApplyAnswer,
  ConflictRow,
  FieldChange,
  HistoryRow,
  PlanAnswer,
} from '../operations/answers.ts';
import { count, table, value, when } from './layout.ts';
import type { Style } from './terminal.ts';
import { planLines } from './view-parts.ts';
import type { Views } from './views.ts';

const valueCharsMax = 60;

export const desiredViews: Views = {
  applied: (data: ApplyAnswer, { style }) => {
    const lines: string[] = [];
    if (data.dryRun) lines.push(...data.changes.map((change) => changeLine(change, style)));
    for (const name of data.pruned) lines.push(style.bad(`- ${name}`));
    for (const image of data.pushed) lines.push(`image ${image} is in the cluster`);
    if (data.plan !== null) lines.push(...planLines(data.plan, style));
    lines.push(appliedLine(data));
    if (data.seenBy !== undefined) lines.push(`seen by ${data.seenBy.join(', ')}; all of it runs`);
    return lines.join('\n');
  },
  diff: (data: { changes: readonly FieldChange[]; pruned?: readonly string[] }, { style }) =>
    data.changes.length === 0
      ? 'no difference'
      : data.changes.map((change) => changeLine(change, style)).join('\n'),
  plan: (data: PlanAnswer, { style }) => {
    const lines = planLines(data, style);
    if (data.steps.length === 0) lines.push('nothing to do');
    else lines.push('', `Commit it with \`trellis plan apply ${data.id}\`.`);
    return lines.join('\n');
  },
  planApplied: (data: { id: string; steps: readonly unknown[] }) =>
    `plan ${data.id} is committed, ${count(data.steps.length, 'step')}`,
  conflictsLs: (rows: readonly ConflictRow[], { style }) => {
    if (rows.length === 0) return 'no conflicts';
    return rows.map((row) => conflictText(row, style)).join('\n\n');
  },
  history: (rows: readonly HistoryRow[], { style }) =>
    table(
      ['WHEN', 'OPERATOR', 'EDIT', 'DOCUMENT', 'WHAT'],
      rows.map((row) => [when(row.at), row.operator, row.hash.slice(0, 12), row.doc, row.message]),
      style,
    ) || 'no edits',
};

function appliedLine(data: ApplyAnswer): string {
  if (data.dryRun) return `dry run: ${count(data.changes.length, 'field')} would change`;
  if (data.hash === null) return 'nothing had to change';
  return `applied: ${count(data.changed, 'field')} changed, edit ${data.hash.slice(0, 12)}`;
}

function changeLine(change: FieldChange, style: Style): string {
  if (change.from === null) return style.good(`+ ${change.path}: ${short(change.to)}`);
  if (change.to === null) return style.bad(`- ${change.path}: ${short(change.from)}`);
  return style.warn(`~ ${change.path}: ${short(change.from)} -> ${short(change.to)}`);
}

function conflictText(row: ConflictRow, style: Style): string {
  const lines = [`${style.bold(row.id)}  ${row.subject} ${row.pointer}`];
  for (const entry of row.values) {
    const mark = entry.inForce ? style.good(' (in force)') : '';
    const author = `${entry.operator}, session ${entry.session.slice(0, 8)}, ${when(entry.at)}`;
    lines.push(`  ${entry.n}: ${short(entry.value)}${mark}  ${style.dim(author)}`);
  }
  lines.push(style.dim(`  end it with \`trellis conflicts pick ${row.id} N\``));
  return lines.join('\n');
}

function short(leaf: unknown): string {
  const text = value(leaf);
  return text.length > valueCharsMax ? `${text.slice(0, valueCharsMax)}…` : text;
}
