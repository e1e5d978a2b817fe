/** A daemon that answers from a table and remembers what it was asked. */
import type { CallHooks, Client } from '../../../daemon/cli/client.ts';
import type { Params } from '../../../daemon/cli/spec.ts';
import { ClusterError } from '../../../daemon/errors.ts';

export interface Asked {
  readonly call: string;
  readonly params: Params;
}

export type Answer = (params: Params, hooks: CallHooks) => unknown;

export function fakeClient(answers: Readonly<Record<string, Answer>>): Client & { asked: Asked[] } {
  const asked: Asked[] = [];
  return {
    asked,
    call: async (call, params, hooks = {}) => {
      asked.push({ call, params });
      const answer = answers[call];
      if (answer === undefined)
        throw new ClusterError('INTERNAL', { reason: `no answer for ${call}` });
      return answer(params, hooks);
    },
    open: () => Promise.reject(new ClusterError('INTERNAL', { reason: 'no two-way calls here' })),
  };
}
