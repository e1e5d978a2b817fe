export interface Mutant {
  readonly name: string;
  readonly file: string;
  readonly breaks: string;
  readonly edits: readonly { readonly find: string; readonly replace: string }[];
  readonly falls: readonly string[];
  readonly hunt: {
    readonly first?: readonly number[];
    readonly count?: number;
    readonly script?: string;
    readonly options?: Partial<LeaseWorldOptions>;
  };
}
import type { LeaseWorldOptions } from './options.ts';
export const mutants: readonly Mutant[] = [];
