/**
 * Desired state in and out: `apply`, `diff`, `export`, `plan` and `plan apply`.
 *
 * `apply` is edit, plan and commit in one step, all or nothing: everything that can refuse it is asked before the first
 * write. Rules of what is written are in crdt/apply-file.ts.
 */
import { z } from 'zod';
import { stringify } from 'yaml';
import { applyEdits, diffFile } from '../../crdt/apply-file.ts';
import type { ApplyResult, ChangeSummary, StaleField } from '../../crdt/apply-file.ts';
import { compareText } from '../../crdt/codec.ts';
import { parseDesiredFile } from '../../crdt/desired-file.ts';
import type { DesiredFile } from '../../crdt/desired-file.ts';
import { exportFile } from '../../crdt/export-file.ts';
import { textBytesMax } from '../../crdt/file-tree.ts';
import type { FileError } from '../../crdt/file-tree.ts';
import type { LeafPut } from '../../crdt/leaves.ts';
import type { EnvView, PlanInputs } from '../../crdt/model.ts';
import type { ObjectKind } from '../../crdt/object-kinds.ts';
import { segmentsOf } from '../../crdt/pointer.ts';
import { buildEnvView } from '../../crdt/view.ts';
import { asClusterError, ClusterError } from '../errors.ts';
import type { NodeApi } from '../node-api.ts';
import { decidedInputs } from '../plan/inputs.ts';
import type { ApplyAnswer, FieldChange, PlanAnswer } from './answers.ts';
import {
  define,
  editDocument,
  envDoc,
  envParam,
  nodeOf,
  params,
  sessionOf,
  timeoutMsParam,
  waitForSpread,
} from './common.ts';
import { pushImage } from './image.ts';
import { newObjectId } from './object-ids.ts';
import type { Operation, OperationContext } from './operation.ts';
import { overlay } from './overlay.ts';
import { commit, propose } from './planning.ts';
import type { Proposal } from './planning.ts';
import { waitForServices } from './waiting.ts';

const changesShownMax = 10_000;
const runTimeLimitMs = 3_700_000;

const fileShape = {
  text: z.string().max(textBytesMax),
  fileName: z.string().min(1).max(200).default('file'),
  /** Whose objects these are; by custom the file's base name. */
  source: z.string().min(1).max(200).default('file'),
};

const flag = z.boolean().default(false);

interface FileParams {
  readonly env?: string | undefined;
  readonly text: string;
  readonly fileName: string;
  readonly source: string;
  readonly prune: boolean;
  readonly overwrite: boolean;
}

interface ApplyParams extends FileParams {
  readonly dryRun: boolean;
  readonly noPlan: boolean;
  readonly noPush: boolean;
  readonly wait: boolean;
  readonly timeoutMs: number;
}

export const applyOperations: readonly Operation[] = [
  define({
    group: 'desired',
    command: 'apply',
    summary: 'make a file the desired state: edit, plan and commit in one step',
    access: 'operator',
    isMutation: true,
    timeLimitMs: runTimeLimitMs,
    params: params({
      ...envParam,
      ...fileShape,
      dryRun: flag,
      noPlan: flag,
      noPush: flag,
      prune: flag,
      overwrite: flag,
      wait: flag,
      timeoutMs: timeoutMsParam,
    }),
    run: apply,
  }),
  define({
    group: 'desired',
    command: 'diff',
    summary: 'which fields a file would change',
    access: 'viewer',
    isMutation: false,
    params: params({ ...envParam, ...fileShape, prune: flag }),
    run: (context, given) => Promise.resolve(diff(nodeOf(context, given), given)),
  }),
  define({
    group: 'desired',
    command: 'export',
    summary: 'the desired state as a file that apply takes',
    access: 'viewer',
    isMutation: false,
    params: params({
      ...envParam,
      format: z.enum(['yaml', 'json']).default('yaml'),
      source: z.string().max(200).optional(),
    }),
    run: (context, given): Promise<unknown> => {
      const value = exportFile(ofSource(nodeOf(context, given).envView(), given.source));
      return Promise.resolve(
        given.format === 'json' ? value : { format: 'yaml', text: stringify(value) },
      );
    },
  }),
  define({
    group: 'plan',
    command: 'show',
    summary: 'what would change, and why',
    access: 'viewer',
    isMutation: false,
    params: params({
      ...envParam,
      text: fileShape.text.optional(),
      fileName: fileShape.fileName,
      source: fileShape.source,
      prune: flag,
      overwrite: flag,
    }),
    run: (context, given): Promise<PlanAnswer> => {
      const node = nodeOf(context, given);
      const { text } = given;
      if (text === undefined) return Promise.resolve(propose(node).answer);
      const { result } = readFile(node, { ...given, text });
      return Promise.resolve(proposeAfter(node, result.edit.puts).answer);
    },
  }),
  define({
    group: 'plan',
    command: 'apply',
    summary: 'commit exactly the plan that was shown',
    access: 'operator',
    isMutation: true,
    timeLimitMs: runTimeLimitMs,
    params: params({
      ...envParam,
      id: z.string().min(6).max(64),
      wait: flag,
      timeoutMs: timeoutMsParam,
    }),
    run: applyPlan,
  }),
];

async function apply(context: OperationContext, given: ApplyParams): Promise<ApplyAnswer> {
  const node = nodeOf(context, given);
  if (!given.dryRun) sessionOf(context, 'apply');
  const { file, result } = readFile(node, given);
  const images = await imagesToPush(context, node, file);
  const proposal = proposeAfter(node, result.edit.puts);
  const answer: ApplyAnswer = {
    hash: null,
    changed: result.edit.puts.length,
    pruned: namesOf(result.summary, 'delete'),
    changes: fieldChanges(result.summary),
    pushed: images,
    plan: given.noPlan ? null : proposal.answer,
    dryRun: given.dryRun,
  };
  if (given.dryRun) return answer;
  if (given.noPush && images.length > 0) {
    throw new ClusterError('CONFLICT', {
      reason: `only this host has ${images.join(', ')}`,
      todo: 'run `trellis image push`, or leave --no-push out',
    });
  }
  const pushed: LeafPut[] = [];
  for (const image of images) pushed.push((await pushImage(context, image)).put);
  // Pushing may have taken long: what was compared before may have changed since.
  const { result: fresh } = readFile(node, given);
  const edit = { ...fresh.edit, puts: [...fresh.edit.puts, ...pushed] };
  const { hash, changed } = await editDocument(context, edit);
  const done: ApplyAnswer = { ...answer, hash, changed, changes: fieldChanges(fresh.summary) };
  if (given.noPlan) return given.wait ? { ...done, ...(await spread(context, done, given)) } : done;
  const final = propose(node);
  if (final.isNews) await commit(context, final);
  // Compared with the plan of before the edit, so that the steps are those of this apply.
  const planned: ApplyAnswer = { ...done, plan: { ...final.answer } };
  if (!given.wait) return planned;
  const startedMs = context.clock.monotonicMs();
  const seen = await spread(context, planned, given);
  const leftMs = given.timeoutMs - (context.clock.monotonicMs() - startedMs);
  const services = file.services.map(({ name }) => name);
  await waitForServices(context, { services, timeoutMs: Math.max(1, leftMs) });
  return { ...planned, ...seen };
}

async function spread(
  context: OperationContext,
  answer: ApplyAnswer,
  given: { timeoutMs: number },
): Promise<{ seenBy?: string[] }> {
  if (answer.hash === null) return {};
  const hash = answer.hash as Parameters<typeof waitForSpread>[1];
  return { seenBy: await waitForSpread(context, hash, given.timeoutMs) };
}

/** Parsed, compared and found good. Throws FILE_INVALID, NOT_SUPPORTED, STALE. */
function readFile(node: NodeApi, given: FileParams): { file: DesiredFile; result: ApplyResult } {
  const file = parse(node, given);
  const view = node.envView();
  const reader = overlay(node.reader(envDoc(node)), view, []);
  const result = applyEdits({
    file,
    source: given.source,
    current: { view, reader },
    lastApplied: node.readerAtLastApply(envDoc(node), given.source),
    options: { prune: given.prune, overwrite: given.overwrite },
    newId: newObjectId,
  });
  if (result.stale.length > 0) throw staleError(given, result.stale);
  refuseNewProblems(node, given, result.edit.puts);
  return { file, result };
}

function parse(node: NodeApi, given: { text: string; fileName: string }): DesiredFile {
  const parsed = parseDesiredFile(given.text, given.fileName, node.envView());
  if ('ok' in parsed) return parsed.ok;
  throw fileError(given.fileName, parsed.errors);
}

/** All errors are in the details; the first few in the words. */
function fileError(fileName: string, errors: readonly FileError[]): ClusterError {
  const lines = errors.map(({ line, message }) => `line ${line}: ${message}`);
  const more = lines.length > 5 ? `, and ${lines.length - 5} more` : '';
  const reason = lines.slice(0, 5).join('; ') + more;
  const first = errors[0];
  if (errors.every(({ code }) => code === 'NOT_SUPPORTED') && first !== undefined) {
    const feature = first.message.replace(/ is not supported yet.*$/s, '');
    const place = `line ${first.line} of ${fileName}`;
    return new ClusterError('NOT_SUPPORTED', { feature, place, path: first.path, errors });
  }
  return new ClusterError('FILE_INVALID', { file: fileName, reason, errors });
}

function staleError(given: FileParams, stale: readonly StaleField[]): ClusterError {
  const fields = stale.map(({ object, name, pointer, current }) => ({
    path: pathOf(object, name, pointer),
    current,
  }));
  const named = fields
    .slice(0, 5)
    .map(({ path, current }) => `${path} (now ${JSON.stringify(current)})`);
  const more = fields.length > 5 ? ` and ${fields.length - 5} more` : '';
  return new ClusterError('STALE', {
    what: named.join(', ') + more,
    since: `${given.source} was last applied`,
    look: `trellis diff -f ${given.fileName}`,
    override: '--overwrite',
    fields,
  });
}

/** Fields that are each valid may be invalid together with what is there; then the file is refused whole. */
function refuseNewProblems(node: NodeApi, given: FileParams, puts: readonly LeafPut[]): void {
  const before = new Set(node.envView().problems.map((problem) => problem.detail));
  const fresh = viewAfter(node, puts).problems.filter((problem) => !before.has(problem.detail));
  if (fresh.length === 0) return;
  const reason = fresh.map((problem) => problem.detail).join('; ');
  throw new ClusterError('FILE_INVALID', { file: given.fileName, reason, problems: fresh });
}

function viewAfter(node: NodeApi, puts: readonly LeafPut[]): EnvView {
  if (puts.length === 0) return node.envView();
  return buildEnvView(node.env, overlay(node.reader(envDoc(node)), node.envView(), puts));
}

/** The plan as it would be after these writes. */
function proposeAfter(node: NodeApi, puts: readonly LeafPut[]): Proposal {
  const view = viewAfter(node, puts);
  const { storage: _, ...now } = node.planInputs();
  const { images: _images, ...decided } = decidedInputs(view, node.committedPlan()?.inputs ?? null);
  const inputs: PlanInputs = { ...now, ...decided };
  return propose(node, inputs);
}

/**
 * Images of the file that this engine has and the cluster has not, unless their name says which registry has them
 * ('registry.example:5000/x', 'host.name/x') or they are pinned by digest.
 */
async function imagesToPush(
  context: OperationContext,
  node: NodeApi,
  file: DesiredFile,
): Promise<string[]> {
  const { runtime } = context;
  if (runtime === null) return [];
  const held = node.envView().images;
  const images = new Set(file.services.map((service) => service.image));
  const missing: string[] = [];
  try {
    for (const image of [...images].toSorted(compareText)) {
      if (held.has(image) || hasRegistry(image)) continue;
      if ((await runtime.localImageId(image)) !== null) missing.push(image);
    }
  } catch (error) {
    // A host without an engine can still say what others shall run.
    if (asClusterError(error).code !== 'ENGINE_UNREACHABLE') throw error;
    context.progress('this host has no engine that answers; no local images are looked for');
  }
  return missing;
}

export function hasRegistry(image: string): boolean {
  if (image.includes('@')) return true;
  const [first = '', ...rest] = image.split('/');
  return rest.length > 0 && (first === 'localhost' || /[.:]/.test(first));
}

function diff(
  node: NodeApi,
  given: FileParams | (Omit<FileParams, 'overwrite'> & { overwrite?: boolean }),
): { changes: FieldChange[]; pruned: string[]; absent: string[] } {
  const file = parse(node, given);
  const view = node.envView();
  const reader = overlay(node.reader(envDoc(node)), view, []);
  const summary = diffFile({ file, source: given.source, current: { view, reader } });
  const deleted = namesOf(summary, 'delete');
  const shown = given.prune ? summary : summary.filter(({ kind }) => kind !== 'delete');
  return {
    changes: fieldChanges(shown),
    pruned: given.prune ? deleted : [],
    // Without prune they are no difference that `apply` would make.
    absent: given.prune ? [] : deleted,
  };
}

async function applyPlan(
  context: OperationContext,
  given: { env?: string | undefined; id: string; wait: boolean; timeoutMs: number },
): Promise<PlanAnswer> {
  const node = nodeOf(context, given);
  sessionOf(context, 'plan apply');
  const proposal = propose(node);
  if (!proposal.answer.inputHash.startsWith(given.id)) {
    throw new ClusterError('STALE', {
      what: 'what the plan was made from',
      since: `plan ${given.id} was shown`,
      look: 'trellis plan',
      override: `the new one, \`trellis plan apply ${proposal.answer.id}\``,
    });
  }
  if (proposal.isNews) await commit(context, proposal);
  if (given.wait) await waitForServices(context, { services: null, timeoutMs: given.timeoutMs });
  return proposal.answer;
}

function ofSource(view: EnvView, source: string | undefined): EnvView {
  if (source === undefined) return view;
  const keep = <T extends { readonly source: string }>(objects: ReadonlyMap<string, T>) =>
    new Map([...objects].filter(([, object]) => object.source === source));
  return {
    ...view,
    roles: keep(view.roles),
    services: keep(view.services),
    storage: keep(view.storage),
  };
}

function fieldChanges(summary: readonly ChangeSummary[]): FieldChange[] {
  return summary
    .flatMap(({ object, name, fields }) =>
      fields.map(({ pointer, from, to }) => ({ path: pathOf(object, name, pointer), from, to })),
    )
    .slice(0, changesShownMax);
}

function namesOf(summary: readonly ChangeSummary[], kind: ChangeSummary['kind']): string[] {
  return summary.filter((one) => one.kind === kind).map(({ object, name }) => `${object} ${name}`);
}

/** 'services/site/ports/http/container'. */
function pathOf(object: ObjectKind, name: string, pointer: string): string {
  return [object === 'storage' ? object : `${object}s`, name, ...segmentsOf(pointer)].join('/');
}
