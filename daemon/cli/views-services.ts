/** Views of services, instances and images. */
import type {
  EditAnswer,
  ImageRow,
  InstanceRow,
  PlanAnswer,
  ServiceDetails,
  ServiceRow,
} from '../operations/answers.ts';
import { pairs, size, table } from './layout.ts';
import type { Style } from './terminal.ts';
import type { Views } from './views.ts';
import { editedText, instanceTable, planLines, portText } from './view-parts.ts';

export const serviceViews: Views = {
  ps: (rows: readonly InstanceRow[], { style }) =>
    rows.length === 0 ? 'no instances' : instanceTable(rows, style),
  serviceLs: (rows: readonly ServiceRow[], { style }) =>
    rows.length === 0 ? 'no services' : serviceTable(rows, style),
  serviceShow: (data: ServiceDetails, { style }) => {
    const text = pairs(
      [
        ['service', `${data.name}${data.enabled ? '' : style.warn(' (stopped)')}`],
        ['role', data.role],
        ['image', data.image],
        ['address', data.address],
        ['source', data.source],
        ['instances', counts(data, style)],
        ['ports', data.ports.map(portText).join(', ')],
      ],
      style,
    );
    return data.instances.length === 0 ? text : `${text}\n${instanceTable(data.instances, style)}`;
  },
  serviceChanged: (data: EditAnswer & { planned?: PlanAnswer | null }, { style }) => {
    const lines = data.planned ? planLines(data.planned, style) : [];
    return [...lines, editedText(data, style)].join('\n');
  },
  imagePush: (data: ImageRow & { changed: number }) =>
    `${data.reference} is in the cluster (${size(data.sizeBytes)})` +
    (data.changed === 0 ? '; it was there already' : ''),
  imageLs: (rows: readonly ImageRow[], { style }) =>
    table(
      ['IMAGE', 'ID', 'SIZE', 'MANIFEST'],
      rows.map((row) => [
        row.reference,
        row.imageId.replace('sha256:', '').slice(0, 12),
        size(row.sizeBytes),
        row.manifest.slice(0, 12),
      ]),
      style,
    ) || 'the cluster holds no images',
};

export function serviceTable(rows: readonly ServiceRow[], style: Style): string {
  return table(
    ['SERVICE', 'ROLE', 'INSTANCES', 'HEALTHY', 'IMAGE'],
    rows.map((row) => [
      `${row.name}${row.enabled ? '' : style.warn(' (stopped)')}`,
      row.role,
      counts(row, style),
      String(row.healthy),
      row.image,
    ]),
    style,
  );
}

function counts(row: ServiceRow, style: Style): string {
  const text = `${row.running}/${row.desired}`;
  return row.running === row.desired && row.healthy >= row.running
    ? style.good(text)
    : style.bad(text);
}
