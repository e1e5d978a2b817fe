/**
 * Brings the kernel's tables to a RuleSet: reads what is there, changes only when it differs, one transaction per table.
 *
 * What iptables-save prints for a rule differs between versions and between the nft and legacy back ends. So after each
 * change what it prints for our chains is remembered; later the same desired rules with the same print mean "nothing to
 * do", and any tampering, flush or reboot shows as a difference.
 */
import { createHash } from 'node:crypto';
import { restoreText, type Chains, type Jump, type RuleSet } from './rules.ts';
import { mustRunTool } from './tools.ts';

/** Remembered over daemon restarts. */
export interface AppliedRules {
  /** Hash of the desired rules. */
  readonly desired: string;
  /** Hash of what iptables-save printed for our chains afterwards. */
  readonly printed: string;
}

/** Seconds to wait for another program that holds the tables' lock. */
const lockWaitSeconds = '5';

export interface ApplyResult {
  readonly applied: AppliedRules;
  readonly hasChanged: boolean;
}

/** `program` is 'iptables', or 'iptables-nft' or 'iptables-legacy' where one must be chosen. Throws PluginError. */
export async function applyRules(
  program: string,
  rules: RuleSet,
  last: AppliedRules | null,
  signal?: AbortSignal,
): Promise<ApplyResult> {
  const desired = hashOf(rules.nat, rules.filter);
  const tables = await readTables(program, signal);
  const edits = jumpEdits(rules.jumps, tables);
  const isSame =
    edits.nat.length === 0 &&
    edits.filter.length === 0 &&
    last?.desired === desired &&
    last.printed === printOf(rules.chains, tables);
  if (isSame) return { applied: last, hasChanged: false };
  await restore(program, restoreText(rules, edits), signal);
  const after = await readTables(program, signal);
  return { applied: { desired, printed: printOf(rules.chains, after) }, hasChanged: true };
}

/** Removes our jumps and chains and nothing else. Returns whether there was anything. Throws PluginError. */
export async function purgeRules(
  program: string,
  chains: Chains,
  signal?: AbortSignal,
): Promise<boolean> {
  const tables = await readTables(program, signal);
  const parts = (['filter', 'nat'] as const).map((name) => {
    const table = tables[name];
    const ours = [chains.nat, chains.post, chains.forward].filter((chain) =>
      table.chains.has(chain),
    );
    const jumps = table.rules.filter((rule) => ours.some((chain) => rule.endsWith(` -j ${chain}`)));
    const lines = [
      ...ours.map((chain) => `:${chain} - [0:0]`),
      ...jumps.map((rule) => rule.replace('-A ', '-D ')),
      ...ours.map((chain) => `-X ${chain}`),
    ];
    return lines.length === 0 ? '' : [`*${name}`, ...lines, 'COMMIT', ''].join('\n');
  });
  const text = parts.join('');
  if (text === '') return false;
  await restore(program, text, signal);
  return true;
}

export interface Table {
  readonly chains: ReadonlySet<string>;
  /** '-A CHAIN …', in order. */
  readonly rules: readonly string[];
}

export interface Tables {
  readonly nat: Table;
  readonly filter: Table;
}

export async function readTables(program: string, signal?: AbortSignal): Promise<Tables> {
  const read = async (table: string) =>
    parseTable(await mustRunTool(`${program}-save`, ['-t', table], signal && { signal }));
  const [nat, filter] = await Promise.all([read('nat'), read('filter')]);
  return { nat, filter };
}

export function parseTable(text: string): Table {
  const chains = new Set<string>();
  const rules: string[] = [];
  for (const line of text.split('\n')) {
    if (line.startsWith(':')) chains.add(line.slice(1, line.indexOf(' ')));
    else if (line.startsWith('-A ')) rules.push(line.trimEnd());
  }
  return { chains, rules };
}

/**
 * Adds missing jumps, takes doubled ones out, and moves the one in FORWARD ahead again when the engine has put its walls
 * between networks before it (20.10 does at a start with live-restore). Pure.
 */
export function jumpEdits(
  jumps: readonly Jump[],
  tables: Tables,
): { nat: string[]; filter: string[] } {
  const edits = { nat: [] as string[], filter: [] as string[] };
  for (const { table, from, to } of jumps) {
    const isEngineChain = from === 'DOCKER-USER';
    if (isEngineChain && !tables[table].chains.has(from)) continue;
    const rules = tables[table].rules.filter((rule) => rule.startsWith(`-A ${from} `));
    const jump = `-A ${from} -j ${to}`;
    const count = rules.filter((rule) => rule === jump).length;
    // In the engine's chain: behind what the operator put there, ahead of the final return. Elsewhere: first.
    const isEndedByReturn = rules.at(-1) === `-A ${from} -j RETURN`;
    const place = isEngineChain ? rules.length + (isEndedByReturn ? 0 : 1) : 1;
    if (count === 0) edits[table].push(`-I ${from} ${place} -j ${to}`);
    for (let extra = 1; extra < count; extra++) edits[table].push(`-D ${from} -j ${to}`);
    if (from === 'FORWARD' && count > 0 && isBehindEngine(rules, jump)) {
      edits[table].push(`-D ${from} -j ${to}`, `-I ${from} 1 -j ${to}`);
    }
  }
  return edits;
}

/** DOCKER-USER has our jump too, so either of the two is early enough. */
function isBehindEngine(rules: readonly string[], jump: string): boolean {
  const engine = rules.findIndex((rule) => / -j DOCKER(?!-USER)/.test(rule));
  const ours = rules.findIndex((rule) => rule === jump || rule.endsWith(' -j DOCKER-USER'));
  return engine >= 0 && ours > engine;
}

async function restore(program: string, text: string, signal?: AbortSignal): Promise<void> {
  await mustRunTool(`${program}-restore`, ['--noflush', '-w', lockWaitSeconds], {
    input: text,
    ...(signal && { signal }),
  });
}

function printOf(chains: Chains, tables: Tables): string {
  const ours = [chains.nat, chains.post, chains.forward].map((chain) => `-A ${chain} `);
  const mine = (rule: string) => ours.some((start) => rule.startsWith(start));
  return hashOf(tables.nat.rules.filter(mine), tables.filter.rules.filter(mine));
}

function hashOf(...lists: (readonly string[])[]): string {
  return createHash('sha256').update(JSON.stringify(lists)).digest('hex').slice(0, 32);
}
