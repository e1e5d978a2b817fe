/**
 * What brings names back after a reboot without the daemon: a script and the rules it loads. The containers come back by
 * themselves with the same addresses, so the last known rules are right for this host's own instances. Others are only
 * asked for services that do not run here: a host that boots without a daemon may be alone. Pure.
 */
import { restoreText, type RuleSet } from './rules.ts';

export const restoreScriptName = 'restore.sh';
export const restoreRulesName = 'restore.rules';

/** Loaded by the script: chains and rules without jumps, because those must not be doubled. */
export function restoreRules(rules: RuleSet): string {
  return restoreText(rules, { nat: [], filter: [] });
}

/** POSIX shell; may run any number of times, before or after the engine has started. */
export function restoreScript(parts: {
  rules: RuleSet;
  program: string;
  virtualAddress: string;
}): string {
  const { rules, program, virtualAddress } = parts;
  const jumps = rules.jumps.map(({ table, from, to }) => `jump ${table} ${from} ${to}`);
  return `#!/bin/sh
# Written by the trellis daemon: brings service names back at boot without it. Safe to run again.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)

# jump TABLE FROM TO: once, ahead of the others; chains that this host does not have (DOCKER-USER) are left out.
jump() {
  ${program} -w 5 -t "$1" -S "$2" >/dev/null 2>&1 || return 0
  ${program} -w 5 -t "$1" -C "$2" -j "$3" 2>/dev/null || ${program} -w 5 -t "$1" -I "$2" 1 -j "$3"
}

ip -4 addr show dev lo | grep -q ' ${virtualAddress}/32 ' || ip addr add ${virtualAddress}/32 dev lo scope host
${program}-restore --noflush -w 5 < "$here/${restoreRulesName}"
${jumps.join('\n')}
`;
}
