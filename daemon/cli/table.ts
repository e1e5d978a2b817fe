/**
 * Every command of `trellis`, once. Parser, help, completion and a test that compares it with the operations all read it.
 *
 * Names are a contract with people and scripts; add freely, change one only with a note. Names of commands that later
 * releases bring are listed in `laterCommands`, so that they are refused in clear words.
 */
import { ClusterError } from '../errors.ts';
import { clusterCommands } from './table-cluster.ts';
import { desiredCommands } from './table-desired.ts';
import { hostCommands } from './table-hosts.ts';
import { leaseCommands } from './table-leases.ts';
import { lookCommands } from './table-look.ts';
import { serviceCommands } from './table-services.ts';
import type { Command } from './spec.ts';

export const commands: readonly Command[] = [
  ...clusterCommands,
  ...hostCommands,
  ...desiredCommands,
  ...serviceCommands,
  ...leaseCommands,
  ...lookCommands,
];

/** Of the surface, but of a later release. */
export const laterCommands: readonly string[] = [
  'operator ls',
  'operator add',
  'operator rm',
  'operator grant',
  'operator passwd',
  'host ack',
  'recommend',
  'service move',
  'service update',
  'service rollback',
  'service split',
  'site',
  'secret',
  'config',
  'file',
  'cert',
  'env create',
  'env chain',
  'change',
  'branch',
  'release',
  'firewall',
  'lb',
  'backup',
  'upgrade',
  'task',
  'hw',
  'volume',
  'mirror',
  'operator',
];

/** Throws NOT_SUPPORTED when `argv` names a command of a later release. */
export function refuseLater(argv: readonly string[]): void {
  const words = argv.filter((word) => !word.startsWith('-'));
  const later = laterCommands.find((name) => name.split(' ').every((word, i) => words[i] === word));
  if (later === undefined) return;
  throw new ClusterError('NOT_SUPPORTED', {
    feature: `\`trellis ${later}\``,
    place: 'the command line',
  });
}
