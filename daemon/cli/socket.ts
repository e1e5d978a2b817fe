/** Where the daemon of this host listens, by the same rules as the daemon itself. */
export function socketPath(
  env: Readonly<Record<string, string | undefined>>,
  user: { readonly isRoot: boolean; readonly home: string },
): string {
  const socket = env['TRELLIS_SOCKET'];
  if (socket !== undefined && socket !== '') return socket;
  return `${runDir(env, user)}/trellis.sock`;
}

function runDir(
  env: Readonly<Record<string, string | undefined>>,
  user: { readonly isRoot: boolean; readonly home: string },
): string {
  const run = env['TRELLIS_RUN'];
  if (run !== undefined && run !== '') return run;
  if (user.isRoot) return '/run/trellis';
  const xdgRun = env['XDG_RUNTIME_DIR'];
  if (xdgRun !== undefined && xdgRun !== '') return `${xdgRun}/trellis`;
  const state = env['TRELLIS_STATE'];
  if (state !== undefined && state !== '') return `${state}/run`;
  const xdgState = env['XDG_STATE_HOME'];
  const base = xdgState !== undefined && xdgState !== '' ? xdgState : `${user.home}/.local/state`;
  return `${base}/trellis/run`;
}
