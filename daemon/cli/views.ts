/** How answers look to people: the command table names a view, programs use --json. */
import type { EventRow } from '../operations/answers.ts';
import { state, when } from './layout.ts';
import type { Params } from './spec.ts';
import type { Style } from './terminal.ts';
import { clusterViews } from './views-cluster.ts';
import { desiredViews } from './views-desired.ts';
import { hostViews } from './views-hosts.ts';
import { leaseViews } from './views-leases.ts';
import { lookViews } from './views-look.ts';
import { serviceViews } from './views-services.ts';

export interface ViewContext {
  readonly style: Style;
  readonly params: Params;
}

/** Text for stdout; '' prints nothing. */
export type View = (data: unknown, context: ViewContext) => string;

/** Each view knows the shape of its own operation's answer, which the types of a table cannot say. */
export type Views = Readonly<Record<string, (data: never, context: ViewContext) => string>>;

export const views = {
  ...clusterViews,
  ...hostViews,
  ...desiredViews,
  ...serviceViews,
  ...leaseViews,
  ...lookViews,
} as Readonly<Record<string, View>>;

export type { EventRow };

export function eventLine(event: EventRow, style: Style): string {
  const severity = state(event.severity, style);
  return `${style.dim(when(event.at))}  ${event.host}  ${severity}  ${event.kind}  ${event.text}`;
}
