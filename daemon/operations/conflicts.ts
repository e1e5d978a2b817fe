/** `trellis conflicts ls` and `pick`. */
import { z } from 'zod';
import { equalLeaves } from '../../crdt/pointer.ts';
import type { ObjectId } from '../../crdt/ids.ts';
import type { LeafPut, LeafValue } from '../../crdt/leaves.ts';
import { ClusterError } from '../errors.ts';
import type { ConflictEntry, NodeApi } from '../node-api.ts';
import type { ConflictRow, EditAnswer } from './answers.ts';
import { define, envParam, isoOf, nodeOf, params, waitParams } from './common.ts';
import type { Operation, OperationContext } from './operation.ts';
import { editAndPlan } from './planning.ts';

export const conflictsOperations: readonly Operation[] = [
  define({
    group: 'conflicts',
    command: 'ls',
    summary: 'fields that were set differently at the same time',
    access: 'viewer',
    isMutation: false,
    params: params(envParam),
    run: (context, given) => Promise.resolve(conflictRows(nodeOf(context, given))),
  }),
  define({
    group: 'conflicts',
    command: 'pick',
    summary: 'end a conflict',
    access: 'operator',
    isMutation: true,
    timeLimitMs: 3_700_000,
    params: params({
      ...waitParams,
      id: z.string().min(4).max(64),
      choice: z.union([z.string().max(65_536), z.number(), z.boolean()]),
    }),
    run: pick,
  }),
];

export function conflictRows(node: NodeApi): ConflictRow[] {
  return node.conflicts().map((entry) => ({
    id: entry.id,
    doc: entry.doc,
    subject: entry.subject,
    pointer: entry.pointer,
    values: entry.values.map((one, i) => ({
      n: i + 1,
      value: one.value,
      operator: one.operator,
      session: one.session,
      hash: one.hash,
      at: isoOf(one.atWallMs),
      inForce: i === 0,
    })),
  }));
}

async function pick(
  context: OperationContext,
  given: {
    env?: string | undefined;
    id: string;
    choice: string | number | boolean;
    wait: boolean;
    timeoutMs: number;
  },
): Promise<EditAnswer> {
  const node = nodeOf(context, given);
  const entry = findConflict(node, given.id);
  const value = chosenValue(entry, given.choice);
  const put: LeafPut = { object: entry.object, pointer: entry.pointer, value };
  const edit = {
    message: `pick ${JSON.stringify(value)} for ${entry.subject} ${entry.pointer}`.slice(0, 500),
    puts: [put, ...settleTwins(entry, value)],
    picks: [entry.id],
  };
  return editAndPlan(context, given, edit, entry.doc);
}

function findConflict(node: NodeApi, id: string): ConflictEntry {
  const found = node.conflicts().filter((entry) => entry.id.startsWith(id));
  if (found.length === 1 && found[0] !== undefined) return found[0];
  if (found.length > 1) {
    const choices = found.map((entry) => entry.id);
    throw new ClusterError('AMBIGUOUS', { name: id, kind: 'conflict', choices });
  }
  throw new ClusterError('NOT_FOUND', { kind: 'conflict', name: id, list: 'trellis conflicts ls' });
}

/** A number from the list first; else one of the values, as text or JSON. '=5' means the value 5. */
function chosenValue(entry: ConflictEntry, choice: string | number | boolean): LeafValue {
  const text = String(choice);
  const byNumber = /^\d{1,4}$/.test(text) ? entry.values[Number(text) - 1] : undefined;
  if (byNumber !== undefined) return byNumber.value;
  const wanted = text.startsWith('=') ? text.slice(1) : text;
  const parsed = jsonOf(wanted);
  const byValue = entry.values.find(
    ({ value }) => value === wanted || (parsed !== undefined && equalLeaves(value, parsed)),
  );
  if (byValue !== undefined) return byValue.value;
  const choices = entry.values.map(({ value }, i) => `${i + 1}: ${JSON.stringify(value)}`);
  throw new ClusterError('INVALID', {
    reason: `${JSON.stringify(text)} is none of the values: ${choices.join(', ')}`,
  });
}

function jsonOf(text: string): LeafValue | undefined {
  try {
    return JSON.parse(text) as LeafValue;
  } catch {
    // Most values are plain text, not JSON.
    return undefined;
  }
}

/**
 * Of two objects under one name the one not picked is deleted: nothing leads to it any more. The one picked lives, even
 * when somebody else picked the other one meanwhile, or deleted it.
 */
function settleTwins(entry: ConflictEntry, kept: LeafValue): LeafPut[] {
  if (entry.object !== 'names') return [];
  const ids = new Set(entry.values.map(({ value }) => value));
  return [...ids]
    .filter((value) => typeof value === 'string')
    .map((id) => ({
      object: id as ObjectId,
      pointer: '/deleted',
      value: id === kept ? null : true,
    }));
}
