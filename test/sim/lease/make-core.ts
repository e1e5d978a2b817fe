/** The production core. */
import { GuardCore } from '../../../daemon/lease/core.ts';
import type { CoreFactory } from './core-port.ts';

export const makeCore: CoreFactory = (start, random, now) => new GuardCore(start, random, now);
