/**
 * Completion. The scripts of the shells are small: they hand the words to `trellis __complete`, which answers one candidate
 * per line, a tab, and its meaning. Names of hosts, services and roles come from the daemon if it answers in time.
 */
import { findCommand, subcommands } from './args.ts';
import type { Client } from './client.ts';
import type { Command, Completer, Flag, Positional } from './spec.ts';
import { globalFlags } from './spec.ts';
import { commands } from './table.ts';
import type { Terminal } from './terminal.ts';

/** The shell waits for this at every Tab. */
const namesTimeoutMs = 500;

export interface Candidate {
  readonly word: string;
  readonly meaning: string;
}

/** Words after `trellis`, the last one being typed. Prints candidates; `:files` asks the shell for file names. */
export async function complete(
  words: readonly string[],
  terminal: Terminal,
  client: Client,
): Promise<number> {
  const wanted = whatNext(commands, words);
  if (wanted.completer === 'file') {
    terminal.out(':files\n');
    return 0;
  }
  const names = wanted.completer === null ? [] : await namesOf(wanted.completer, client);
  const found = [...wanted.fixed, ...names].filter(({ word }) => word.startsWith(wanted.typed));
  for (const { word, meaning } of found) {
    terminal.out(`${wanted.before}${word}${meaning === '' ? '' : `\t${meaning}`}\n`);
  }
  return 0;
}

export interface Wanted {
  readonly fixed: readonly Candidate[];
  readonly completer: Completer | null;
  /** The part that candidates must begin with. */
  readonly typed: string;
  /** Put before each candidate: '--host=' of '--host=h'. */
  readonly before: string;
}

/** Pure: what may stand where the cursor is. */
export function whatNext(table: readonly Command[], given: readonly string[]): Wanted {
  // bash takes `--host=h` apart into three words.
  const words = given.at(-1) === '=' ? [...given, ''] : given;
  const typed = words.at(-1) ?? '';
  const done = words.slice(0, -1).filter((word) => word !== '=');
  const bare = done.filter((word) => !word.startsWith('-'));
  const found = findCommand(table, bare);
  const next = subcommands(table, bare);
  const nothing: Wanted = { fixed: [], completer: null, typed, before: '' };
  const flags = [...(found?.command.flags ?? []), ...globalFlags];
  const previous = done.at(-1);
  const pending = previous === undefined ? undefined : flagOf(flags, previous);
  if (pending !== undefined && pending.kind !== 'boolean' && !previous?.includes('=')) {
    return { ...nothing, completer: pending.complete ?? null };
  }
  if (done.includes('--')) return { ...nothing, completer: 'file' };
  if (typed.startsWith('--') && typed.includes('=')) {
    const equals = typed.indexOf('=');
    const flag = flagOf(flags, typed.slice(0, equals));
    const before = typed.slice(0, equals + 1);
    return {
      ...nothing,
      completer: flag?.complete ?? null,
      typed: typed.slice(equals + 1),
      before,
    };
  }
  if (typed.startsWith('-')) return { ...nothing, fixed: flagCandidates(flags, done) };
  if (next.length > 0 && (found === null || found.taken === bare.length)) {
    const fixed = next.map((word) => ({ word, meaning: meaningOf(table, [...bare, word]) }));
    return { ...nothing, fixed };
  }
  if (found === null) return nothing;
  const index = positionalsGiven(found.command, flags, done);
  return { ...nothing, completer: positionalAt(found.command, index)?.complete ?? null };
}

function flagCandidates(flags: readonly Flag[], done: readonly string[]): Candidate[] {
  return flags
    .filter((flag) => isRepeatable(flag) || !done.includes(`--${flag.name}`))
    .map((flag) => ({ word: `--${flag.name}`, meaning: flag.summary }));
}

function isRepeatable(flag: Flag): boolean {
  return flag.kind === 'strings' || flag.kind === 'pairs';
}

function meaningOf(table: readonly Command[], words: readonly string[]): string {
  const found = findCommand(table, words);
  if (found?.taken === words.length) return found.command.summary;
  return `commands: ${subcommands(table, words).join(', ')}`;
}

function flagOf(flags: readonly Flag[], text: string): Flag | undefined {
  return flags.find(
    ({ name, short }) => text === `--${name}` || (short !== undefined && text === `-${short}`),
  );
}

/** Words that are neither the command's name, nor flags, nor values of flags. */
function positionalsGiven(
  command: Command,
  flags: readonly Flag[],
  done: readonly string[],
): number {
  let count = -command.words.length;
  for (let i = 0; i < done.length; i++) {
    const word = done[i] ?? '';
    if (!word.startsWith('-')) count++;
    else if ((flagOf(flags, word)?.kind ?? 'boolean') !== 'boolean') i++;
  }
  return Math.max(0, count);
}

function positionalAt(command: Command, index: number): Positional | undefined {
  const specs = command.positionals ?? [];
  const last = specs.at(-1);
  return specs[index] ?? (last?.isMany === true ? last : undefined);
}

const sources: Readonly<Record<string, { call: string; field: string }>> = {
  host: { call: 'host/ls', field: 'name' },
  service: { call: 'service/ls', field: 'name' },
  role: { call: 'role/ls', field: 'name' },
  invite: { call: 'invite/ls', field: 'id' },
  conflict: { call: 'conflicts/ls', field: 'id' },
  image: { call: 'image/ls', field: 'reference' },
  lease: { call: 'lease/ls', field: 'title' },
  alert: { call: 'alert/ls', field: 'id' },
};

async function namesOf(completer: Completer, client: Client): Promise<Candidate[]> {
  if (typeof completer !== 'string') return completer.map((word) => ({ word, meaning: '' }));
  const source = sources[completer];
  if (source === undefined) return [];
  try {
    const rows = await client.call(source.call, {}, { timeoutMs: namesTimeoutMs });
    if (!Array.isArray(rows)) return [];
    return (rows as Record<string, unknown>[]).map((row) => ({
      word: String(row[source.field]),
      meaning: completer,
    }));
  } catch {
    // No daemon, no names: a Tab must not print errors into the line being typed.
    return [];
  }
}

/** Null for a shell we do not know. */
export function completionScript(shell: string): string | null {
  return Object.hasOwn(scripts, shell) ? (scripts[shell] ?? null) : null;
}

const scripts: Readonly<Record<string, string>> = {
  bash: `# Load with: source <(trellis completion bash)
_trellis() {
  local line IFS=$'\\n'
  local -a found=()
  local -a words=("\${COMP_WORDS[@]:1:COMP_CWORD}")
  COMPREPLY=()
  while read -r line; do
    if [ "$line" = ":files" ]; then
      compopt -o filenames 2>/dev/null
      COMPREPLY=($(compgen -f -- "\${COMP_WORDS[COMP_CWORD]}"))
      return
    fi
    found+=("\${line%%$'\\t'*}")
  done < <(trellis __complete "\${words[@]}" 2>/dev/null)
  COMPREPLY=("\${found[@]}")
}
complete -F _trellis trellis
`,
  zsh: `#compdef trellis
# Load with: source <(trellis completion zsh)
_trellis() {
  local line
  local -a found
  while IFS= read -r line; do
    if [[ "$line" == ":files" ]]; then
      _files
      return
    fi
    found+=("\${\${line%%$'\\t'*}//:/\\\\:}:\${line#*$'\\t'}")
  done < <(trellis __complete "\${(@)words[2,CURRENT]}" 2>/dev/null)
  _describe 'trellis' found
}
compdef _trellis trellis
`,
  fish: `# Load with: trellis completion fish | source
function __trellis_complete
  set -l words (commandline -opc)[2..-1] (commandline -ct)
  for line in (trellis __complete $words 2>/dev/null)
    if test "$line" = ":files"
      __fish_complete_path (commandline -ct)
    else
      echo $line
    end
  end
end
complete -c trellis -f -a '(__trellis_complete)'
`,
};
