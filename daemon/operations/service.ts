/** `trellis service …`: services as desired, and the commands that change one field of one. */
import { z } from 'zod';
import { compareText } from '../../crdt/codec.ts';
import type { Range, Service } from '../../crdt/model.ts';
import type { LeafPut } from '../../crdt/leaves.ts';
import { ClusterError } from '../errors.ts';
import type { NodeApi } from '../node-api.ts';
import type { EditAnswer, ServiceDetails, ServiceRow } from './answers.ts';
import {
  define,
  envParam,
  findService,
  hostNames,
  nodeOf,
  params,
  timeoutMsParam,
} from './common.ts';
import { instanceRows } from './host-rows.ts';
import { serviceName } from './names.ts';
import type { Operation, OperationContext } from './operation.ts';
import { editAndPlan } from './planning.ts';
import { isExclusive, serviceRows } from './service-rows.ts';
import { waitForServices } from './waiting.ts';

const name = z.string().min(1).max(63);
const countMax = 10_000;
const changeShape = {
  ...envParam,
  service: name,
  noPlan: z.boolean().default(false),
  /** Until it is done on all hosts. */
  wait: z.boolean().default(false),
  timeoutMs: timeoutMsParam,
};
const common = {
  group: 'service',
  access: 'operator',
  isMutation: true,
  timeLimitMs: 3_700_000,
} as const;

export const serviceOperations: readonly Operation[] = [
  define({
    group: 'service',
    command: 'ls',
    summary: 'list services with desired and running counts',
    access: 'viewer',
    isMutation: false,
    params: params(envParam),
    run: (context, given): Promise<ServiceRow[]> =>
      Promise.resolve(serviceRows(nodeOf(context, given))),
  }),
  define({
    group: 'service',
    command: 'show',
    summary: 'one service',
    access: 'viewer',
    isMutation: false,
    params: params({ ...envParam, service: name }),
    run: (context, given): Promise<ServiceDetails> => {
      const node = nodeOf(context, given);
      return Promise.resolve(details(node, findService(node, given.service)));
    },
  }),
  define({
    ...common,
    command: 'scale',
    summary: 'set how many instances there are',
    params: params({
      ...changeShape,
      count: z.union([z.string().max(20), z.int().min(0).max(countMax)]),
      perHost: z.boolean().default(false),
    }),
    run: (context, given) => {
      const range = rangeOf(String(given.count));
      const where = given.perHost ? 'perHost' : 'perRole';
      const put = (key: keyof Range) => ({ pointer: `/count/${where}/${key}`, value: range[key] });
      const what = `scale ${given.service} to ${String(given.count)}${given.perHost ? ' per host' : ''}`;
      return change(context, given, what, (service) => {
        refuseMany(nodeOf(context, given), service, range);
        return [put('min'), put('max')];
      });
    },
  }),
  define({
    ...common,
    command: 'start',
    summary: 'run a stopped service again',
    params: params(changeShape),
    run: (context, given) =>
      change(context, given, `start ${given.service}`, () => [
        { pointer: '/isEnabled', value: true },
      ]),
  }),
  define({
    ...common,
    command: 'stop',
    summary: 'stop all instances; their places are kept',
    params: params(changeShape),
    run: (context, given) =>
      change(context, given, `stop ${given.service}`, () => [
        { pointer: '/isEnabled', value: false },
      ]),
  }),
  define({
    ...common,
    command: 'restart',
    summary: 'make all instances anew',
    params: params(changeShape),
    run: (context, given) =>
      change(context, given, `restart ${given.service}`, (service) => [
        { pointer: '/restarts', value: service.restarts + 1 },
      ]),
  }),
];

interface Change {
  readonly env?: string | undefined;
  readonly service: string;
  readonly noPlan: boolean;
  readonly wait: boolean;
  readonly timeoutMs: number;
}

async function change(
  context: OperationContext,
  given: Change,
  message: string,
  putsOf: (service: Service) => readonly Omit<LeafPut, 'object'>[],
): Promise<EditAnswer> {
  const service = findService(nodeOf(context, given), given.service);
  const puts = putsOf(service).map((put): LeafPut => ({ object: service.id, ...put }));
  const { wait, timeoutMs, noPlan } = given;
  const answer = await editAndPlan(context, { wait, timeoutMs, noPlan }, { message, puts });
  if (wait && !noPlan) await waitForServices(context, { services: [service.name], timeoutMs });
  return answer;
}

/** Fails with CONFLICT. */
function refuseMany(node: NodeApi, service: Service, range: Range): void {
  if (!isExclusive(node, service) || (range.min === 1 && range.max === 1)) return;
  throw new ClusterError('CONFLICT', {
    reason: `service ${service.name} is exclusive: it has one instance`,
    todo: 'take `exclusive` and `follows` away first, or stop it with `trellis service stop`',
  });
}

function rangeOf(text: string): Range {
  const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text);
  const min = Number(match?.[1]);
  const max = match?.[2] === undefined ? min : Number(match[2]);
  if (match === null || min > max || max > countMax) {
    const reason = `COUNT cannot be ${JSON.stringify(text)}: N or MIN-MAX, at most ${countMax}`;
    throw new ClusterError('USAGE', { reason, command: 'service scale' });
  }
  return { min, max };
}

function details(node: NodeApi, service: Service): ServiceDetails {
  const row = serviceRows(node).find((one) => one.name === service.name);
  if (row === undefined)
    throw new ClusterError('NOT_FOUND', {
      kind: 'service',
      name: service.name,
      list: 'trellis service ls',
    });
  const names = hostNames(node);
  const { numbers } = node.envView();
  return {
    ...row,
    id: service.id,
    source: service.source,
    address: serviceName(node, service.name),
    ports: service.ports.map((port) => ({
      name: port.name,
      container: port.container,
      host: port.host ?? null,
      number: numbers.get(`${service.name}/${port.name}`) ?? null,
      protocol: port.protocol,
      expose: port.expose,
    })),
    spec: service,
    placements: (node.committedPlan()?.plan.placements ?? [])
      .filter((placement) => placement.serviceName === service.name)
      .map(({ slot, host }) => ({ slot, host: names.get(host) ?? host }))
      .toSorted((a, b) => compareText(a.slot, b.slot)),
    instances: instanceRows(node, { service: service.name, all: true }),
  };
}
