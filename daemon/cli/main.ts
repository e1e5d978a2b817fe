/**
 * The thin client `trellis`: words to an operation of the daemon, and its answer back. It loads no network, schema or
 * CRDT code, because `trellis status` has 150 ms from key press to answer.
 */
import { processTerminal } from './terminal.ts';
import { runCli } from './run.ts';

process.exitCode = await runCli(process.argv.slice(2), processTerminal());
