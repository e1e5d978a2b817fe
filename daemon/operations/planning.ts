/**
 * From an edit to a committed plan. Every command that changes what runs where plans and commits in the same step, so that
 * a person needs one command and not three; `noPlan` leaves that to `trellis plan`.
 */
import { encode } from '../../crdt/codec.ts';
import type { Edit } from '../../crdt/leaves.ts';
import type { Placement, Plan, PlanInputs } from '../../crdt/model.ts';
import { ClusterError } from '../errors.ts';
import type { DocName, NodeApi } from '../node-api.ts';
import { systemCrypto } from '../crypto.ts';
import { plan as makePlan } from '../plan/plan.ts';
import { diffPlans } from '../plan/plan-diff.ts';
import type { EditAnswer, PlanAnswer } from './answers.ts';
import { editDocument, envDoc, nodeOf, sessionOf, waitForSpread } from './common.ts';
import type { OperationContext } from './operation.ts';

const planIdChars = 12;

export interface Proposal {
  readonly inputs: PlanInputs;
  readonly plan: Plan;
  readonly answer: PlanAnswer;
  /** Committing it would change something: placements, or what is known about the services placed. */
  readonly isNews: boolean;
}

/** What the planner makes of `inputs`; by default of the cluster as it is. Touches nothing. */
export function propose(node: NodeApi, inputs: PlanInputs = node.planInputs()): Proposal {
  const plan = makePlan(inputs, (bytes) => systemCrypto.sha256(bytes));
  const committed = node.committedPlan();
  const steps = diffPlans(committed, { inputs, plan });
  const { inputHash, warnings, unplaceable } = plan;
  const id = inputHash.slice(0, planIdChars);
  return {
    inputs,
    plan,
    answer: { id, inputHash, steps, warnings, unplaceable, recommendations: [] },
    isNews:
      committed === null
        ? isWorthPlanning(inputs)
        : keyOf(committed.inputs) !== keyOf(inputs) ||
          placementKey(committed.plan.placements) !== placementKey(plan.placements),
  };
}

function isWorthPlanning({ services, storage = [] }: PlanInputs): boolean {
  return services.length > 0 || storage.length > 0;
}

/** Liveness is left out, as failover follows it without a plan; so is what the last plan itself contributed. */
function keyOf(inputs: PlanInputs): string {
  const known = keys.get(inputs);
  if (known !== undefined) return known;
  const key = makeKey(inputs);
  keys.set(inputs, key);
  return key;
}

/** Committed inputs are asked about again and again, and never change. */
const keys = new WeakMap<PlanInputs, string>();

function makeKey(inputs: PlanInputs): string {
  const { roles, services, hosts, numbers, images = [], storage = [] } = inputs;
  const lasting = hosts.map((host) => {
    const { isAlive: _, ...rest } = host;
    return rest;
  });
  // Canonical bytes: what was committed comes back with its fields in another order.
  return Buffer.from(encode([roles, services, lasting, numbers, images, storage])).toString(
    'base64',
  );
}

function placementKey(placements: readonly Placement[]): string {
  return JSON.stringify(placements.map(({ service, slot, host }) => [service, slot, host]));
}

const staleness = new WeakMap<NodeApi, { key: string; isStale: boolean }>();

/** The committed plan lags behind the desired state or the hosts. Planning itself runs only when the inputs changed. */
export function isPlanStale(node: NodeApi): boolean {
  const inputs = node.planInputs();
  const committed = node.committedPlan();
  if (committed === null) return isWorthPlanning(inputs);
  const key = `${committed.pointerHash} ${keyOf(inputs)}`;
  if (key === `${committed.pointerHash} ${keyOf(committed.inputs)}`) return false;
  const known = staleness.get(node);
  if (known?.key === key) return known.isStale;
  const isStale = propose(node, inputs).answer.steps.length > 0;
  staleness.set(node, { key, isStale });
  return isStale;
}

/** Fails as NodeApi.commitPlan does. */
export function commit(context: OperationContext, proposal: Proposal): Promise<string> {
  const node = nodeOf(context);
  const session = sessionOf(context, 'committing a plan');
  const { inputs, plan } = proposal;
  return new Promise((resolve, reject) => {
    node.commitPlan(session, { inputs, plan }, (result) => {
      if (result instanceof ClusterError) reject(result);
      else resolve(result.pointerHash);
    });
  });
}

/** Plans what is there now and commits it if that changes anything. */
export async function planAndCommit(context: OperationContext): Promise<PlanAnswer> {
  const proposal = propose(nodeOf(context));
  if (proposal.isNews) await commit(context, proposal);
  return proposal.answer;
}

export interface EditOptions {
  readonly env?: string | undefined;
  readonly wait: boolean;
  readonly timeoutMs: number;
  readonly noPlan?: boolean;
}

/** Edits, plans and commits; with `wait` returns when all live members have the edit. */
export async function editAndPlan(
  context: OperationContext,
  options: EditOptions,
  edit: Edit,
  doc?: DocName,
): Promise<EditAnswer & { planned: PlanAnswer | null }> {
  const node = nodeOf(context, options);
  const { hash, changed } = await editDocument(context, edit, doc);
  const isPlanned = options.noPlan !== true && (doc === undefined || doc === envDoc(node));
  const planned = isPlanned ? await planAndCommit(context) : null;
  const answer = { hash, changed, planned, warnings: planned?.warnings ?? [] };
  if (!options.wait || hash === null) return answer;
  return { ...answer, seenBy: await waitForSpread(context, hash, options.timeoutMs) };
}
