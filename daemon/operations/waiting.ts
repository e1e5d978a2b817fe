/** Waiting until what is desired runs, with words about what is still missing. */
import type { HostView } from '../../crdt/model.ts';
import { ClusterError } from '../errors.ts';
import type { NodeApi } from '../node-api.ts';
import { nodeOf, roundedSeconds, until } from './common.ts';
import { hostFactOf } from './host-rows.ts';
import type { OperationContext } from './operation.ts';
import { isServiceRight, serviceRows } from './service-rows.ts';

/**
 * Every live host has taken up the committed plan and is done with it, and the named services (null: all) run healthily.
 * Throws TIMED_OUT with what is missing.
 */
export async function waitForServices(
  context: OperationContext,
  wanted: { services: readonly string[] | null; timeoutMs: number },
): Promise<void> {
  const node = nodeOf(context);
  let missing: string[] = [];
  let said = '';
  await until(context, {
    timeoutMs: wanted.timeoutMs,
    check: () => {
      missing = whatIsMissing(node, wanted.services);
      const words = missing.join(', ');
      if (words !== said && words !== '') context.progress(`waiting for ${words}`);
      said = words;
      return missing.length === 0 ? true : null;
    },
    timedOut: () =>
      new ClusterError('TIMED_OUT', {
        what: `waiting for ${missing.join(', ')}`,
        seconds: roundedSeconds(wanted.timeoutMs),
        todo: 'it goes on by itself; look with `trellis status`',
        missing,
      }),
  });
}

function whatIsMissing(node: NodeApi, services: readonly string[] | null): string[] {
  const late = node
    .hosts()
    .filter((host) => host.liveness === 'alive' && isBehind(node, host))
    .map((host) => `host ${host.name}`);
  const rows = serviceRows(node).filter(({ name }) => services === null || services.includes(name));
  const lacking = rows
    .filter((row) => !isServiceRight(row))
    .map((row) => `${row.name} (${row.healthy}/${row.desired} healthy)`);
  return [...lacking, ...late];
}

/** A host that has another plan than the committed one would report the instances of yesterday. */
function isBehind(node: NodeApi, host: HostView): boolean {
  const committed = node.committedPlan();
  const fact = hostFactOf(node, host);
  if (committed === null || fact === null) return false;
  return fact.plan !== committed.pointerHash || fact.isBusy;
}
