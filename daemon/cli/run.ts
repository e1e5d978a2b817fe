/** One command from words to exit code. */
import { homedir } from 'node:os';
import type { ClusterError } from '../errors.ts';
import { asClusterError, errorTable } from '../errors.ts';
import { parseArgs } from './args.ts';
import { makeClient } from './client.ts';
import type { Client } from './client.ts';
import { plainData, plainText } from './plain-text.ts';
import { socketPath } from './socket.ts';
import type { Run } from './spec.ts';
import { commands, refuseLater } from './table.ts';
import type { Terminal } from './terminal.ts';

/** 0 done, 1 failed, 2 wrong usage, 3 refused, 4 not found, 5 timed out; `exec` gives the code of its command. */
export async function runCli(
  argv: readonly string[],
  terminal: Terminal,
  connect: (socket: string) => Client = (socket) =>
    makeClient(socket, terminal.env['TRELLIS_OPERATOR']),
): Promise<number> {
  const isJson = wantsJson(argv);
  try {
    return await dispatch(argv, terminal, connect);
  } catch (error) {
    return showError(asClusterError(error), isJson, terminal);
  }
}

async function dispatch(
  argv: readonly string[],
  terminal: Terminal,
  connect: (socket: string) => Client,
): Promise<number> {
  if (argv[0] === '--version' || argv[0] === '-V' || argv[0] === 'version') {
    const { showVersion } = await import('./version.ts');
    return showVersion(terminal, wantsJson(argv));
  }
  const socket = () =>
    socketPath(terminal.env, { isRoot: process.getuid?.() === 0, home: homedir() });
  if (argv[0] === '__complete') {
    const { complete } = await import('./complete.ts');
    return complete(argv.slice(1), terminal, connect(socket()));
  }
  if (argv.length === 0 || (argv.length === 1 && (argv[0] === '--help' || argv[0] === '-h'))) {
    const { overview } = await import('./help.ts');
    terminal.out(overview(commands, terminal.style));
    return 0;
  }
  refuseLater(argv);
  const isGroupHelp = argv.includes('--help') || argv.includes('-h');
  if (isGroupHelp) {
    const { groupHelp } = await import('./help.ts');
    const text = groupHelp(commands, argv, terminal.style);
    if (text !== null) {
      terminal.out(text);
      return 0;
    }
  }
  const { command, params, globals } = parseArgs(commands, argv);
  if (globals.isHelp) {
    const { commandHelp } = await import('./help.ts');
    terminal.out(commandHelp(commands, command, terminal.style));
    return 0;
  }
  const options = {
    isJson: globals.isJson,
    isConfirmed: globals.isConfirmed,
    socket: globals.socket ?? socket(),
  };
  const run: Run = { command, params, options, terminal, client: connect(options.socket) };
  if (command.handler === undefined) return runPlain(run);
  return (await command.handler()).run(run);
}

/** Ask, call, show: what most commands are. */
async function runPlain(run: Run): Promise<number> {
  const { command } = run;
  if (command.confirm !== undefined && !run.options.isConfirmed) {
    const { askFirst } = await import('./confirm.ts');
    await askFirst(run, await command.confirm(run));
  }
  const data = await run.client.call(command.call ?? '', run.params, progressHooks(run));
  await show(run, data);
  return command.isFailure?.(data) === true ? 1 : 0;
}

export function progressHooks(run: Run): { onProgress(text: string): void } {
  return { onProgress: (text) => run.terminal.note(run.terminal.style.dim(plainText(text))) };
}

/** The one JSON value, or the command's view. */
export async function show(run: Run, data: unknown): Promise<void> {
  const { terminal, options, command } = run;
  if (options.isJson) {
    terminal.out(`${JSON.stringify(data ?? null)}\n`);
    return;
  }
  const { views } = await import('./views.ts');
  const view = command.view === undefined ? undefined : views[command.view];
  const text =
    view === undefined
      ? JSON.stringify(data ?? null, null, 2)
      : view(plainData(data), { style: terminal.style, params: run.params });
  if (text !== '') terminal.out(text.endsWith('\n') ? text : `${text}\n`);
}

function showError(error: ClusterError, isJson: boolean, terminal: Terminal): number {
  const { code, message, details } = error;
  if (isJson) terminal.out(`${JSON.stringify({ error: { code, message, details } })}\n`);
  else terminal.note(`error ${code}: ${plainText(message)}`);
  if (code === 'INTERNAL' && (terminal.env['TRELLIS_DEBUG'] ?? '') !== '') {
    terminal.note(error.stack ?? '');
    if (error.cause instanceof Error) terminal.note(error.cause.stack ?? '');
  }
  return errorTable[code].exit;
}

/** Looked for by hand, because a command line that cannot be parsed must be refused in the wanted form too. */
function wantsJson(argv: readonly string[]): boolean {
  const end = argv.indexOf('--');
  return (end < 0 ? argv : argv.slice(0, end)).includes('--json');
}
