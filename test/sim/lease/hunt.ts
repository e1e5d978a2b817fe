/** In a directory with one mutant in it: `node hunt.ts NAME` looks for a breach and prints what it found as JSON. */
import { Breach } from './checkers/checks.ts';
import { mutants } from './mutants.ts';
import { runLeaseSeed } from './run-lease-seed.ts';
import { scripts } from './scenarios/scripts.ts';

const name = process.argv[2];
const mutant = mutants.find((one) => one.name === name);
if (mutant === undefined) throw new Error(`no mutant ${name}`);

let steps = 0;
let found = { law: '', how: '', detail: '' };
const { hunt } = mutant;
if (hunt.script !== undefined) {
  const script = scripts[hunt.script];
  if (script === undefined) throw new Error(`no script ${hunt.script}`);
  try {
    script();
  } catch (error) {
    found = {
      law: error instanceof Breach ? error.law : 'script',
      how: `script ${hunt.script}`,
      detail: error instanceof Error ? error.message : String(error),
    };
  }
} else {
  const first = hunt.first ?? [];
  const seeds = [...first, ...Array.from({ length: hunt.count ?? 0 }, (_, index) => index + 1)];
  for (const seed of seeds) {
    const outcome = runLeaseSeed(seed, { ...(hunt.options && { options: hunt.options }) });
    steps += outcome.steps;
    if (outcome.law === null || !mutant.falls.includes(outcome.law)) continue;
    found = { law: outcome.law, how: `seed ${seed}`, detail: outcome.failure ?? '' };
    break;
  }
}
const isCaught = mutant.falls.includes(found.law);
console.log(JSON.stringify({ name, isCaught, ...found, steps, ms: 0 }));
