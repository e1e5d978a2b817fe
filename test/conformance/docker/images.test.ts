/** Images between two real engines: pushed on one host, run on another that has no registry. */
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Hash } from '../../../crdt/ids.ts';
import type { DesiredInstance, DesiredView } from '../../../plugins/api.ts';
import { referencedBlobs } from '../../../plugins/docker/manifest.ts';
import { eventually } from '../../await.ts';
import { type TestHost, createTestHost, importBusybox } from './engine.ts';
import { type PluginHost, blobDir, instance, startPlugin, view } from './plugin-host.ts';

const h1 = '11112222333344445555666677778888';
const h2 = '99992222333344445555666677778888';
const config = { reconcileWaitMs: 25_000, imageGraceMs: 1, lookIntervalMs: 500 };

let a: TestHost;
let b: TestHost;
let pluginA: PluginHost;
let pluginB: PluginHost;
type Pushed = Awaited<ReturnType<PluginHost['call']['push']>>;

beforeAll(async () => {
  [a, b] = await Promise.all([createTestHost('ia'), createTestHost('ib')]);
  await Promise.all([a.startEngine(), b.startEngine()]);
  await importBusybox(a, 'base:1');
  await layer('app:1', 'one');
  await layer('app:2', 'two');
  [pluginA, pluginB] = await Promise.all([
    startPlugin(a, h1, { config }),
    startPlugin(b, h2, { config, peers: [blobDir(a)] }),
  ]);
});
afterAll(async () => {
  await Promise.all([a?.destroy(), b?.destroy()]);
});

/** base:1 and a small layer on top. */
async function layer(reference: string, text: string): Promise<void> {
  const container = await a.docker.createContainer({
    Image: 'base:1',
    Cmd: ['sh', '-c', `echo ${text} > /which`],
  });
  await container.start();
  await container.wait();
  const [repo, tag] = reference.split(':');
  await container.commit({ repo, tag, changes: 'CMD ["sleep","1000000"]' });
  await container.remove();
}

function from(pushed: Pushed, service: string): DesiredInstance {
  return instance({
    service,
    image: pushed.reference,
    command: [],
    clusterImage: { manifest: pushed.manifest as Hash, imageId: pushed.imageId },
  });
}

async function runOnB(
  wanted: readonly DesiredInstance[],
  changes: Partial<DesiredView> = {},
): Promise<void> {
  await eventually(
    async () => {
      const { failures } = await pluginB.call.reconcile(view(h2, wanted, changes));
      expect(failures).toEqual([]);
      return (await pluginB.facts()).instances.every(({ state }) => state === 'running');
    },
    { withinMs: 15_000 },
  );
}

test('[coreos:A4] an image of one host runs on another; only missing layers are fetched', async () => {
  const one = await pluginA.call.push('app:1');
  expect(one.imageId).toBe((await a.docker.getImage('app:1').inspect()).Id);
  expect(await pluginA.call.push('app:1')).toEqual(one);
  const two = await pluginA.call.push('app:2');
  expect(two.layers[0]).toBe(one.layers[0]);

  await runOnB([from(one, 'one')]);
  const first = await pluginB.call.fetched();
  expect(first.toSorted()).toEqual([one.manifest, one.imageId.slice(7), ...one.layers].toSorted());
  await runOnB([from(one, 'one'), from(two, 'two')]);
  const second = (await pluginB.call.fetched()).slice(first.length);
  expect(second.toSorted()).toEqual(
    [two.manifest, two.imageId.slice(7), two.layers[1] ?? ''].toSorted(),
  );
  const blobs = { path: (hash: Hash) => join(blobDir(b), hash) };
  const referenced = referencedBlobs(blobs, [one.manifest, two.manifest] as Hash[]);
  expect([...referenced].toSorted()).toEqual([...first, ...second].toSorted());

  const containers = await b.docker.listContainers();
  expect(containers.map(({ ImageID }) => ImageID).toSorted()).toEqual(
    [one.imageId, two.imageId].toSorted(),
  );
  const names = (await b.docker.listImages()).flatMap(({ RepoTags, RepoDigests }) => [
    ...(RepoTags ?? []),
    ...(RepoDigests ?? []),
  ]);
  expect(names.every((name) => name.startsWith('trellis.internal/'))).toBe(true);
  expect(names).toHaveLength(2);
});

test('an own image that nothing uses is collected; one in use stays', async () => {
  const one = await pluginA.call.push('app:1');
  const two = await pluginA.call.push('app:2');
  await runOnB([from(one, 'one'), from(two, 'two')]);
  await runOnB([from(two, 'two')]);
  const ids = async (): Promise<string[]> => (await b.docker.listImages()).map(({ Id }) => Id);
  await eventually(async () => expect(await ids()).toEqual([two.imageId]), { withinMs: 10_000 });
});

test('a layer of another local image is not fetched', async () => {
  const three = await (async () => {
    await layer('app:3', 'three');
    return await pluginA.call.push('app:3');
  })();
  const c = await createTestHost('ic');
  try {
    await c.startEngine();
    // The same base by other means: the engine cannot know that it is the layer that the manifest names.
    await a.run('sh', '-c', `docker -H unix://${a.socket} save base:1 -o ${a.dir}/base.tar`);
    await c.run('sh', '-c', `docker -H unix://${c.socket} load -i ${a.dir}/base.tar`);
    const pluginC = await startPlugin(c, h2, { config, peers: [blobDir(a)] });
    await pluginC.call.reconcile(view(h2, [from(three, 'three')]));
    await eventually(async () => (await c.docker.listContainers()).length === 1, {
      withinMs: 10_000,
    });
    expect(await pluginC.call.fetched()).not.toContain(three.layers[0]);
    expect(await pluginC.call.fetched()).toContain(three.layers[1]);
  } finally {
    await c.destroy();
  }
});

test('a corrupt layer is refused, by the engine too', async () => {
  await layer('app:4', 'four');
  const four = await pluginA.call.push('app:4');
  const wanted = [from(four, 'four')];
  // As if the blob store had not noticed: the bytes under the layer's name are others.
  await writeFile(join(blobDir(b), four.layers[1] ?? ''), 'not this layer');
  const { failures } = await pluginB.call.reconcile(view(h2, wanted));
  expect(failures).toMatchObject([{ item: 'four-0', code: 'IMAGE_UNAVAILABLE' }]);
  expect(JSON.stringify(failures)).not.toMatch(/127\.0\.0\.1:\d+\/[0-9a-f]{32}/);
  expect((await b.docker.listImages()).map(({ Id }) => Id)).not.toContain(four.imageId);
});

test('an image that is nowhere is said to be so, and the others run', async () => {
  const one = await pluginA.call.push('app:1');
  const nowhere = instance({ service: 'nowhere', image: 'registry.invalid/none:1' });
  const lost = { ...from({ ...one, manifest: 'f'.repeat(64) }, 'lost') };
  const { failures } = await pluginB.call.reconcile(view(h2, [nowhere, lost, from(one, 'one')]));
  for (const item of ['nowhere-0', 'lost-0']) {
    await eventually(
      async () => (await pluginB.fact(item)).reason?.startsWith('IMAGE_UNAVAILABLE'),
      { withinMs: 15_000 },
    );
  }
  expect(failures.every(({ code }) => code === 'IMAGE_UNAVAILABLE')).toBe(true);
  await eventually(async () => (await pluginB.fact('one-0')).state === 'running', {
    withinMs: 5_000,
  });
  await expect(pluginA.call.push('no-such:1')).rejects.toMatchObject({ code: 'IMAGE_UNAVAILABLE' });
  await expect(pluginA.call.push('../containers/json?all=1')).rejects.toMatchObject({
    code: 'IMAGE_UNAVAILABLE',
  });
});

test('purge leaves no image, network or file of ours', async () => {
  await pluginB.call.purge();
  expect(await b.docker.listImages()).toEqual([]);
  expect(await b.docker.listContainers({ all: true })).toEqual([]);
  expect((await b.docker.listNetworks()).map(({ Name }) => Name).toSorted()).toEqual([
    'bridge',
    'host',
    'none',
  ]);
  expect(await readdir(join(b.dir, 'state'))).toEqual([]);
});
