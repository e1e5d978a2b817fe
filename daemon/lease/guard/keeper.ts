/**
 * Starts a guard again that was killed: a shell of 1 MB that is its parent and waits for its end. The daemon could do that
 * too, but it may be dead, hang or be stopped at that very moment, and what the guard holds runs out within a second and a
 * half. Where a service manager runs the guard, it is the keeper.
 *
 * What ended in order is not started again: an `exit` that was asked for, a signal to end, wrong arguments, and a guard that
 * finds another one in its place. That makes starts by two keepers, or by keeper and daemon, harmless: the state directory's
 * lock lets one guard live, and whoever started the other has no more to do. Killed itself, a keeper leaves its guard alone;
 * the guard's next start is then the daemon's.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { guardRunFiles, lockedStatus } from '../guard-start.ts';

/** So many at once; after them one each six seconds, ten a minute. */
export const restartsAtOnceMax = 10;
const restartEveryMs = 6_000;

/** Of its command line, for whoever looks at processes. */
export const keeperName = 'trellis-keeper';

/** In the environment of a guard that was started again: how often by this keeper, and the status with which the last one ended. */
export const restartVariable = 'TRELLIS_GUARD_RESTART';

/** Hundredths of a second, as /proc/uptime has them. 129, 130 and 143: HUP, INT and TERM before the guard could take them. */
const script = `
file=$1 every=$2 most=$3 locked=$4 left=$3 count=0
shift 4
{ echo -1000 >/proc/$$/oom_score_adj; } 2>/dev/null
echo $$ >"$file.$$" && mv "$file.$$" "$file"
uptime() {
  read -r now _ </proc/uptime
  now=\${now%.*}\${now#*.}
}
uptime
last=$now
# The guard has our stderr; what a shell says of a child that was killed is nobody's.
exec 3>&2 2>/dev/null
while :; do
  "$@" 2>&3 3>&-
  status=$?
  case $status in 0 | 2 | 129 | 130 | 143 | "$locked") exit "$status" ;; esac
  uptime
  left=$((left + now - last)) last=$now
  [ "$left" -le "$most" ] || left=$most
  while [ "$left" -lt "$every" ]; do
    sleep 1
    uptime
    left=$((left + now - last)) last=$now
  done
  left=$((left - every)) count=$((count + 1))
  export ${restartVariable}="$count $status"
done`;

/** `guard`: the program and its arguments. It ends when they end in order. */
export function keeperCommand(
  runDir: string,
  guard: readonly string[],
): { readonly program: string; readonly args: readonly string[] } {
  const every = restartEveryMs / 10;
  const numbers = [every, every * restartsAtOnceMax, lockedStatus].map(String);
  const file = join(runDir, guardRunFiles.keeper);
  return { program: '/bin/sh', args: ['-c', script, keeperName, file, ...numbers, ...guard] };
}

/** A keeper lives and is not stopped: it starts the guard again, or is about to. */
export function isKept(runDir: string): boolean {
  try {
    const file = join(runDir, guardRunFiles.keeper);
    const pid = Number(readFileSync(file, 'utf8'));
    const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const state = stat.slice(stat.lastIndexOf(')') + 2, stat.lastIndexOf(')') + 3);
    return words.includes(keeperName) && words.includes(file) && !'TtZX'.includes(state);
  } catch {
    // No keeper was there, or its process is gone.
    return false;
  }
}
