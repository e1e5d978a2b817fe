/** Pieces of text that several views share. */
import type { EditAnswer, InstanceRow, PlanAnswer } from '../operations/answers.ts';
import { count, state, table, when } from './layout.ts';
import type { Style } from './terminal.ts';

export function editedText(data: EditAnswer, style: Style): string {
  const lines = (data.warnings ?? []).map((warning) => style.warn(`warning: ${warning}`));
  if (data.hash === null) lines.push('nothing had to change');
  else lines.push(`${count(data.changed, 'field')} changed, edit ${data.hash.slice(0, 12)}`);
  if (data.seenBy !== undefined) lines.push(`seen by ${data.seenBy.join(', ')}`);
  return lines.join('\n');
}

const signs = { start: '+', stop: '-', move: '>', update: '~' } as const;

export function planLines(plan: PlanAnswer, style: Style): string[] {
  const lines = plan.steps.map((step) => {
    const name =
      step.object === 'storage' ? `storage ${step.service}` : `${step.service}-${step.slot}`;
    const what = `${signs[step.kind]} ${step.kind} ${name}`;
    const where = step.from === undefined ? `on ${step.host}` : `from ${step.from} to ${step.host}`;
    return `${what} ${where}  ${style.dim(step.reason)}`;
  });
  for (const warning of plan.warnings) lines.push(style.warn(`warning: ${warning}`));
  for (const entry of plan.unplaceable) {
    lines.push(style.bad(`${entry.service}-${entry.slot} fits on no host`));
    for (const { host, reason } of entry.perHost) lines.push(`    ${host}: ${reason}`);
  }
  return lines;
}

/** Epochs are shown where anything has one. */
export function instanceTable(rows: readonly InstanceRow[], style: Style): string {
  const hasEpochs = rows.some((row) => row.epoch !== null);
  return table(
    [
      'INSTANCE',
      'HOST',
      'STATE',
      'HEALTH',
      ...(hasEpochs ? ['EPOCH'] : []),
      'IMAGE',
      'PORTS',
      'SINCE',
      '',
    ],
    rows.map((row) => [
      row.instance,
      row.host,
      state(row.state, style),
      row.health === 'none' ? '' : state(row.health, style),
      ...(hasEpochs ? [row.epoch === null ? '' : String(row.epoch)] : []),
      row.image,
      row.ports.map(portText).join(' '),
      row.since === null ? '' : when(row.since),
      row.reason ?? '',
    ]),
    style,
  );
}

export function portText(port: InstanceRow['ports'][number]): string {
  const outside = port.host === null ? '' : `${port.host}->`;
  return `${port.name}:${outside}${port.container}${port.number === null ? '' : ` (${port.number})`}`;
}
