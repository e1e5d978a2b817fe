/** The README's tour, word for word, on a host with an engine and no registry. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { repoDir, type HostProcess } from '../../bootstrap/local-cluster/local-host.ts';
import { eventually } from '../await.ts';
import { Testbed } from '../testbed/testbed.ts';

let bed: Testbed;

beforeAll(async () => {
  bed = await Testbed.create({ hosts: 1, engines: true, hasTrellis: false });
}, 120_000);

afterAll(() => bed?.destroy());

/** Lines of the marked block, each as a person would type it. */
function tour(): string[] {
  const text = readFileSync(path.join(repoDir, 'README.md'), 'utf8');
  const block = /<!-- tour[^>]*-->\n```sh\n([\s\S]*?)```\n<!-- \/tour -->/.exec(text)?.[1] ?? '';
  return block.split('\n').filter((line) => line.trim() !== '');
}

async function startDaemon(): Promise<HostProcess> {
  const host = bed.host(0);
  const daemon = await host.spawn(['sh', '-c', `cd ${repoDir} && exec npm start`], {
    label: 'npm-start',
  });
  const isUp = async (): Promise<boolean> => (await typed('npx trellis info')).code === 0;
  await eventually(isUp, { withinMs: 60_000, everyMs: 200, what: 'the daemon answers' });
  return daemon;
}

const typed = (line: string) =>
  bed.host(0).exec(`cd ${repoDir} && ${line}`, { timeoutMs: 150_000 });

const startedAt = (): Promise<string> =>
  bed
    .host(0)
    .mustExec('docker ps -q --no-trunc | xargs docker inspect -f "{{.Name}} {{.State.StartedAt}}"');

test(
  'the five-minute tour works as printed, and the page outlives the daemon [trellis:R3 H6]',
  { timeout: 400_000 },
  async () => {
    const daemon = await startDaemon();
    const printed: string[] = [];
    for (const line of tour()) {
      const { code, stdout, stderr } = await typed(line);
      expect(code, `${line}: exit ${code}: ${stdout}${stderr}`).toBe(0);
      printed.push(stdout);
    }
    expect(printed).toHaveLength(tour().length);
    expect(printed.join('\n')).toContain('Hello from Trellis');
    const before = await startedAt();
    expect(before).toContain('site');

    await bed.host(0).mustExec(`kill -TERM ${daemon.pid}`);
    await daemon.exited;
    expect((await typed('curl -fsS http://127.0.0.1:8080/')).stdout).toContain(
      'Hello from Trellis',
    );

    await startDaemon();
    const isDesired = async (): Promise<boolean> => (await typed('npx trellis status')).code === 0;
    await eventually(isDesired, { withinMs: 60_000, everyMs: 200, what: 'all is as desired' });
    expect(await startedAt()).toBe(before);
  },
);
