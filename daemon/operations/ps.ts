/** `trellis ps [SERVICE]`: instances as the engines of live hosts say. */
import { z } from 'zod';
import { define, envParam, findHost, findService, nodeOf, params } from './common.ts';
import type { InstanceRow } from './answers.ts';
import { instanceRows } from './host-rows.ts';
import type { Operation } from './operation.ts';

export const psOperations: readonly Operation[] = [
  define({
    group: 'service',
    command: 'ps',
    summary: 'instances as they are',
    access: 'viewer',
    isMutation: false,
    params: params({
      ...envParam,
      service: z.string().max(63).optional(),
      host: z.string().max(64).optional(),
      all: z.boolean().default(false),
    }),
    run: (context, given): Promise<InstanceRow[]> => {
      const node = nodeOf(context, given);
      const host = given.host === undefined ? undefined : findHost(node, given.host);
      const rows = instanceRows(node, { service: given.service, host, all: given.all });
      // A service that was deleted may still have instances; without any it is a mistake to name it.
      if (given.service !== undefined && rows.length === 0) findService(node, given.service);
      return Promise.resolve(rows);
    },
  }),
];
