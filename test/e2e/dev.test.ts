/** `trellis dev` as people use it: through the command, as another process that ends. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import type { DevStatus } from '../../bootstrap/local-cluster/dev.ts';
import { isRunning, processId } from '../../bootstrap/local-cluster/process-id.ts';
import { runCommand } from '../../bootstrap/local-cluster/run-command.ts';
import { eventually } from '../await.ts';

// Not the place of a local cluster that somebody may be using on this machine.
const place = mkdtempSync(join(tmpdir(), 'trellis-dev-test-'));
const trellis = resolve(import.meta.dirname, '../../bootstrap/trellis.mjs');

function run(args: readonly string[], env: Record<string, string> = {}) {
  const settings = Object.entries({ TRELLIS_LOCAL_DIR: place, ...env }).map(
    ([name, value]) => `${name}=${value}`,
  );
  return runCommand('env', [...settings, process.execPath, trellis, ...args], {
    timeoutMs: 170_000,
  });
}

afterAll(async () => {
  await run(['dev', 'down']);
  rmSync(place, { recursive: true, force: true });
});

it(
  'dev up makes a ready cluster that outlives the command, dev down leaves nothing',
  { timeout: 180_000 },
  async () => {
    expect((await run(['dev', 'status'])).code).toBe(1);
    const start = performance.now();
    const up = await run(['dev', 'up', '-n', '2', '--json']);
    expect(up.code, up.stderr).toBe(0);
    console.log(`dev up -n 2: ${Math.round(performance.now() - start)} ms`);
    const { hosts } = JSON.parse(up.stdout) as DevStatus;
    expect(hosts.map(({ name, isOn }) => [name, isOn])).toEqual([
      ['h1', true],
      ['h2', true],
    ]);

    const socket = { TRELLIS_SOCKET: hosts[1]?.socket ?? '' };
    const ls = await run(['host', 'ls', '--json'], socket);
    expect(
      (JSON.parse(ls.stdout) as { name: string; state: string }[]).map((row) => [
        row.name,
        row.state,
      ]),
    ).toEqual([
      ['h1', 'ready'],
      ['h2', 'ready'],
    ]);
    // Logged in on every host: an edit from the second one.
    expect((await run(['role', 'create', 'web'], socket)).code).toBe(0);

    const again = await run(['dev', 'up', '--json']);
    expect(again.code).toBe(3);
    expect(again.stderr).toContain('CONFLICT');

    const pids = hosts.map(({ enter }) => processId(Number(/-t (\d+)/.exec(enter ?? '')?.[1])));
    expect(pids.every((id) => id !== null && isRunning(id))).toBe(true);
    expect((await run(['dev', 'down'])).code).toBe(0);
    await eventually(() => pids.every((id) => id === null || !isRunning(id)), { withinMs: 10_000 });
    expect(existsSync(join(place, 'dev'))).toBe(false);
    expect((await run(['dev', 'down'])).code).toBe(0);
  },
);
