/**
 * Plans and their inputs as they come from peers: shapes are checked before anything reads them, since whoever signed
 * them may be broken or lying, and what reads them is in every daemon. Unknown fields are kept.
 */
import { z } from 'zod';
import { decode } from './codec.ts';
import { leaseChoices, policies } from './lease-leaves.ts';
import type { Plan, PlanInputs } from './model.ts';
import { nameSchema } from './records.ts';
import { storageDrivers } from './storage-leaves.ts';
import { storagePathProblem } from './storage-path.ts';

const text = z.string().max(65_536);
const count = z.number().int().nonnegative();
const texts = z.array(text).max(1_024);
const range = z.looseObject({ min: count, max: count });
const strings = z.record(z.string(), text);

const placement = z.looseObject({
  service: text,
  serviceName: nameSchema,
  slot: z.string().min(1).max(64),
  host: text,
});

const plan = z.looseObject({
  env: nameSchema,
  inputHash: text,
  placements: z.array(placement),
  unplaceable: z.array(
    z.looseObject({
      service: text,
      slot: text,
      perHost: z.array(z.looseObject({ host: text, reason: text })),
    }),
  ),
  warnings: z.array(text),
});

const role = z.looseObject({
  id: text,
  name: nameSchema,
  source: text,
  minHosts: count,
  isDedicated: z.boolean(),
});

const host = z.looseObject({
  id: text,
  name: text,
  roles: texts,
  meta: strings,
  isAlive: z.boolean(),
  isDrained: z.boolean(),
  cpu: z.number().nonnegative(),
  memoryBytes: z.number().nonnegative(),
});

const port = z.looseObject({
  name: text,
  container: count,
  host: count.optional(),
  protocol: z.enum(['tcp', 'udp']),
  expose: z.enum(['members', 'public']),
});

const health = z.looseObject({
  kind: z.enum(['http', 'tcp', 'exec']),
  intervalMs: count,
  timeoutMs: count,
  retries: count,
  startPeriodMs: count,
});

const place = z.looseObject({
  policy: z.enum(policies),
  where: strings,
  hosts: texts.optional(),
  key: text.optional(),
});

const lease = z.looseObject({
  profile: z.enum(leaseChoices.profile),
  onLoss: z.enum(leaseChoices.onLoss),
  fence: z.enum(leaseChoices.fence),
  fenceCommand: texts,
  lockDelayMs: count,
  onDaemonDown: z.enum(leaseChoices.onDaemonDown),
  preemptAfterMs: count.nullable(),
  isFrozen: z.boolean(),
});

/** Paths are judged here too: a plan comes from whoever signed it. */
const storage = z.looseObject({
  id: text,
  name: nameSchema,
  source: text,
  role: nameSchema,
  driver: z.enum(storageDrivers),
  path: z.string().refine((path) => storagePathProblem(path) === null),
  isExclusive: z.boolean(),
  lease: lease.optional(),
  placement: place,
});

const service = z.looseObject({
  id: text,
  name: nameSchema,
  source: text,
  role: nameSchema,
  image: text,
  command: z.array(z.string()),
  count: z.looseObject({ perHost: range.optional(), perRole: range.optional() }),
  ports: z.array(port),
  env: z.record(z.string(), z.string()),
  resources: z.looseObject({ cpu: z.number().optional(), memoryBytes: z.number().optional() }),
  health: health.optional(),
  dependsOn: z.array(
    z.looseObject({ service: text, port: text.optional(), onChange: z.enum(['restart', 'none']) }),
  ),
  placement: place,
  isExclusive: z.literal(true).optional(),
  follows: nameSchema.optional(),
  lease: lease.optional(),
  stopGraceMs: count,
  isEnabled: z.boolean(),
  restarts: z.number(),
});

const image = z.looseObject({
  reference: text,
  manifest: text,
  imageId: text,
  sizeBytes: z.number().nonnegative(),
});

const inputs = z.looseObject({
  env: nameSchema,
  roles: z.array(role),
  services: z.array(service),
  storage: z.array(storage).optional(),
  voters: texts.optional(),
  hosts: z.array(host),
  images: z.array(image).optional(),
  numbers: z.array(z.tuple([text, z.number().int()])),
  previous: z.array(placement),
});

/** Null for bytes that hold no plan. */
export function decodePlan(bytes: Uint8Array): Plan | null {
  const value = decode(bytes);
  return plan.safeParse(value).success ? (value as Plan) : null;
}

/** Null for bytes that hold no inputs of a plan. */
export function decodePlanInputs(bytes: Uint8Array): PlanInputs | null {
  const value = decode(bytes);
  return inputs.safeParse(value).success ? (value as PlanInputs) : null;
}
