import { beforeEach, describe, expect, test } from 'vitest';
import type { ApplyAnswer, PlanAnswer } from '../../../daemon/operations/answers.ts';
import { applyOperations, hasRegistry } from '../../../daemon/operations/apply.ts';
import { serviceOperations } from '../../../daemon/operations/service.ts';
import { ClusterError } from '../../../daemon/errors.ts';
import { eventually } from '../../await.ts';
import { FakeNode, runOperation } from './fake-node.ts';
import type { RunOptions } from './fake-node.ts';

const file = (image = 'demo/site:1', more = '') => `
apiVersion: trellis/v1
roles:
  web: { minHosts: 1 }
services:
  site:
    role: web
    image: ${image}
    count: { perRole: { min: 2, max: 2 } }
    ports: [ { name: http, container: 80 } ]
${more}`;

let node: FakeNode;
beforeEach(() => {
  node = new FakeNode(['h1', 'h2', 'h3']);
  for (const name of ['h1', 'h2']) node.host(name).roles = ['web'];
});

const given = (text: string, more: object = {}) => ({
  text,
  fileName: 'site.yaml',
  source: 'site.yaml',
  ...more,
});

const apply = (text: string, more: object = {}, options: RunOptions = {}) =>
  runOperation(applyOperations, 'desired/apply', given(text, more), {
    node,
    ...options,
  }) as Promise<ApplyAnswer>;

const run = (name: string, params: object) => runOperation(applyOperations, name, params, { node });

function heads(): string {
  return JSON.stringify([node.doc.heads(), node.committed?.pointerHash]);
}

describe('apply', () => {
  test('edits, plans and commits in one step; a second time there is nothing to do', async () => {
    const first = await apply(file());
    expect(first.hash).toMatch(/^[0-9a-f]{64}$/);
    expect(first.plan?.steps.map(({ kind, service }) => `${kind} ${service}`)).toEqual([
      'start site',
      'start site',
    ]);
    expect(node.committed?.plan.placements.length).toBe(2);
    expect(node.envView().numbers.get('site/http')).toBeGreaterThanOrEqual(20_000);
    const before = heads();
    const second = await apply(file());
    expect([second.hash, second.changed, second.plan?.steps, heads()]).toEqual([
      null,
      0,
      [],
      before,
    ]);
  });

  test('a dry run touches nothing and says the same', async () => {
    const before = heads();
    const dry = await apply(file(), { dryRun: true }, { isLoggedOut: true });
    expect(heads()).toBe(before);
    expect(dry.plan?.steps.length).toBe(2);
    expect(dry.changes).toContainEqual({
      path: 'services/site/image',
      from: null,
      to: 'demo/site:1',
    });
  });

  test('--no-plan edits only', async () => {
    const answer = await apply(file(), { noPlan: true });
    expect([answer.hash === null, answer.plan, node.committed]).toEqual([false, null, null]);
  });

  test('without a login nothing is changed', async () => {
    const before = heads();
    await expect(apply(file(), {}, { isLoggedOut: true })).rejects.toMatchObject({
      code: 'LOGIN_REQUIRED',
    });
    expect(heads()).toBe(before);
  });

  test.each([
    ['FILE_INVALID', 'services: { site: { rolle: web, image: x, role: web } }', 'rolle'],
    ['NOT_SUPPORTED', 'files: { data: {} }', 'line 3'],
    ['NOT_SUPPORTED', 'services: { db: { role: web, image: x, update: {} } }', 'update'],
  ])('%s is refused by name and line, all or nothing', async (code, text, words) => {
    const before = heads();
    const refused = apply(`# a file\napiVersion: trellis/v1\n${text}\n`);
    await expect(refused).rejects.toMatchObject({ code });
    await expect(refused).rejects.toThrow(words);
    expect(heads()).toBe(before);
  });

  test('a field changed elsewhere since is STALE unless --overwrite', async () => {
    await apply(file());
    const scale = { service: 'site', count: '3' };
    await runOperation(serviceOperations, 'service/scale', scale, { node });
    const before = heads();
    const stale = apply(file('demo/site:2'));
    await expect(stale).rejects.toMatchObject({ code: 'STALE' });
    await expect(stale).rejects.toThrow('services/site/count/perRole/max (now 3)');
    expect(heads()).toBe(before);
    expect((await apply(file('demo/site:2'), { overwrite: true })).changed).toBeGreaterThan(0);
    expect(node.envView().services.get('site')?.count.perRole).toEqual({ min: 2, max: 2 });
  });

  test('what is no longer in the file goes only with --prune', async () => {
    await apply(file('demo/site:1', '  old: { role: web, image: demo/old:1 }\n'));
    expect((await apply(file())).pruned).toEqual([]);
    expect(node.envView().services.has('old')).toBe(true);
    expect((await apply(file(), { prune: true, dryRun: true })).pruned).toEqual(['service old']);
    expect(node.envView().services.has('old')).toBe(true);
    await apply(file(), { prune: true });
    expect(node.envView().services.has('old')).toBe(false);
    expect(node.committed?.plan.placements.every(({ serviceName }) => serviceName === 'site')).toBe(
      true,
    );
  });

  test('what fits nowhere is said and does not stop the rest', async () => {
    const answer = await apply(
      file(
        'demo/site:1',
        '  far: { role: mail, image: demo/far:1, count: { perRole: { min: 1, max: 1 } } }\n',
      ),
    );
    expect(answer.plan?.unplaceable.map(({ service }) => service)).toEqual(['far']);
    expect(node.committed?.plan.placements.length).toBe(2);
  });

  test('the plan is not committed when the edit is refused', async () => {
    node.refusal = new ClusterError('DISK_FULL', { dir: '/x', reason: 'no room' });
    await expect(apply(file())).rejects.toMatchObject({ code: 'DISK_FULL' });
    expect(node.committed).toBe(null);
  });

  test('images that only this engine has are pushed with the same edit', async () => {
    const pushed: string[] = [];
    const runtime: RunOptions['runtime'] = {
      localImageId: (image) => Promise.resolve(image === 'demo/site:1' ? 'sha256:1' : null),
      pushImage: (reference) => {
        pushed.push(reference);
        const manifest = 'ab'.repeat(32) as never;
        return Promise.resolve({
          reference,
          manifest,
          imageId: 'sha256:1',
          sizeBytes: 7,
          layers: [],
        });
      },
    };
    await expect(apply(file(), { noPush: true }, { runtime })).rejects.toMatchObject({
      code: 'CONFLICT',
    });
    expect((await apply(file(), { dryRun: true }, { runtime })).pushed).toEqual(['demo/site:1']);
    expect([pushed, node.committed]).toEqual([[], null]);
    expect((await apply(file(), {}, { runtime })).pushed).toEqual(['demo/site:1']);
    expect(node.envView().images.get('demo/site:1')?.imageId).toBe('sha256:1');
    expect((await apply(file(), {}, { runtime })).pushed).toEqual([]);
    expect(pushed).toEqual(['demo/site:1']);
  });

  test('--wait returns when all members have it and all of it runs healthily', async () => {
    const said: string[] = [];
    node.missing = [node.host('h3').id];
    const waiting = apply(
      file(),
      { wait: true, timeoutMs: 5_000 },
      { onProgress: (text) => said.push(text) },
    );
    let isDone = false;
    const settled = waiting.then(() => (isDone = true));
    await new Promise((resolve) => setImmediate(resolve));
    expect(isDone).toBe(false);
    node.missing = [];
    node.changed();
    await eventually(() => said.join().includes('waiting for site (0/2 healthy)'), {
      withinMs: 5_000,
    });
    node.runEverything();
    await settled;
    expect((await waiting).seenBy).toEqual(['h1', 'h2', 'h3']);
  });

  test('--wait gives up with words about what is missing', async () => {
    const waiting = apply(file(), { wait: true, timeoutMs: 30 });
    await expect(waiting).rejects.toMatchObject({ code: 'TIMED_OUT' });
    await expect(waiting).rejects.toThrow('site (0/2 healthy)');
  });
});

describe('plan, diff and export', () => {
  test('plan -f touches nothing; plan apply commits exactly what was shown', async () => {
    await apply(file(), { noPlan: true });
    const before = heads();
    const shown = (await run('plan/show', {})) as PlanAnswer;
    expect([shown.steps.length, shown.id, heads()]).toEqual([
      2,
      shown.inputHash.slice(0, 12),
      before,
    ]);
    const other = (await run('plan/show', given(file('demo/site:9')))) as PlanAnswer;
    expect(other.inputHash).not.toBe(shown.inputHash);
    const applied = (await run('plan/apply', { id: shown.id })) as PlanAnswer;
    expect(applied.inputHash).toBe(shown.inputHash);
    expect(node.committed?.plan.inputHash).toBe(shown.inputHash);
  });

  test('a plan whose inputs changed is STALE', async () => {
    await apply(file(), { noPlan: true });
    const shown = (await run('plan/show', {})) as PlanAnswer;
    await apply(file('demo/site:2'), { noPlan: true });
    await expect(run('plan/apply', { id: shown.id })).rejects.toMatchObject({ code: 'STALE' });
    expect(node.committed).toBe(null);
  });

  test('diff lists fields; of an applied file there are none', async () => {
    await apply(file());
    expect(await run('desired/diff', given(file()))).toMatchObject({ changes: [] });
    expect(await run('desired/diff', given(file('demo/site:2')))).toMatchObject({
      changes: [{ path: 'services/site/image', from: 'demo/site:1', to: 'demo/site:2' }],
    });
  });

  test('what is exported can be applied and changes nothing', async () => {
    await apply(file());
    const { text } = (await run('desired/export', {})) as { text: string };
    const answer = await apply(text);
    expect([answer.hash, answer.changes]).toEqual([null, []]);
    const json = (await run('desired/export', { format: 'json' })) as { services: object };
    expect(Object.keys(json.services)).toEqual(['site']);
  });
});

test('a registry is assumed only where the name of the image says so', () => {
  expect(['demo/site:1', 'site', 'a/b/c:2'].map(hasRegistry)).toEqual([false, false, false]);
  expect(['r.example/site:1', 'localhost/x', 'h:5000/x', 'x@sha256:00'].map(hasRegistry)).toEqual([
    true,
    true,
    true,
    true,
  ]);
});
