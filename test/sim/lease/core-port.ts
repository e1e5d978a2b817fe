/** What the simulator needs of the core. The mutants replace the files behind it, never this one. */
import type { CoreEffect, CoreEvent, CoreStart } from '../../../daemon/lease/core-api.ts';
import type { GuardStatus } from '../../../daemon/lease/guard-api.ts';
import type { Instant } from '../../../daemon/lease/model.ts';
import type { Random } from '../../../daemon/ports.ts';

export interface Core {
  handle(event: CoreEvent, now: Instant): readonly CoreEffect[];
  nextDeadlineMs(): number | null;
  status(now: Instant): GuardStatus;
  volatileState(): unknown;
}

export type CoreFactory = (start: CoreStart, random: Random, now: Instant) => Core;
