/** Where a daemon keeps things; the CLI finds the socket by the same rules (`cli/socket.ts`). */
import { dirname, join } from 'node:path';

export interface Paths {
  /** Survives reboots. */
  readonly state: string;
  /** Does not; logins and the socket live here. */
  readonly run: string;
  readonly socket: string;
}

export function resolvePaths(
  env: Readonly<Record<string, string | undefined>>,
  options: { readonly state: string | null; readonly isRoot: boolean; readonly home: string },
): Paths {
  const given = (name: string): string | null =>
    env[name] === undefined || env[name] === '' ? null : env[name];
  const stateHome = given('XDG_STATE_HOME') ?? join(options.home, '.local', 'state');
  const defaultState = options.isRoot ? '/var/lib/trellis' : join(stateHome, 'trellis');
  const state = options.state ?? given('TRELLIS_STATE') ?? defaultState;
  const xdgRun = given('XDG_RUNTIME_DIR');
  const userRun = xdgRun === null ? join(state, 'run') : join(xdgRun, 'trellis');
  const socket = given('TRELLIS_SOCKET');
  const run =
    given('TRELLIS_RUN') ??
    (socket !== null ? dirname(socket) : options.isRoot ? '/run/trellis' : userRun);
  return { state, run, socket: socket ?? join(run, 'trellis.sock') };
}
