/**
 * The docker plugin against real engines, each in namespaces of its own. Tests of one group share a host and build on
 * nothing but that its engine runs and its images are there.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { eventually } from '../../await.ts';
import { type TestHost, createTestHost, importBusybox } from './engine.ts';
import { type PluginHost, clusterId, instance, startPlugin, view } from './plugin-host.ts';

const h1 = '11112222333344445555666677778888';
const prefix = `trellis-${clusterId.slice(0, 8)}`;
const fast = {
  pingIntervalMs: 500,
  pingTimeoutMs: 700,
  callTimeoutMs: 2_500,
  imageGraceMs: 1,
  lookIntervalMs: 1_000,
};

async function namesOn(host: TestHost): Promise<string[]> {
  const list = await host.docker.listContainers({ all: true });
  return list.map(({ Names }) => (Names[0] ?? '').slice(1)).toSorted();
}

describe('containers', () => {
  let host: TestHost;
  let plugin: PluginHost;
  const inspect = async (name: string) =>
    await host.docker.getContainer(`${prefix}-${name}`).inspect();
  const reconcile = async (
    ...args: Parameters<typeof view> extends [string, ...infer Rest] ? Rest : never
  ) => await plugin.call.reconcile(view(h1, ...args));

  beforeAll(async () => {
    host = await createTestHost('dc');
    await host.startEngine();
    await importBusybox(host, 'base:1');
    plugin = await startPlugin(host, h1, { config: fast });
  });
  afterAll(async () => {
    await host?.destroy();
  });

  test('[trellis:P6] creates what is desired, and a second reconcile does nothing', async () => {
    const wanted = [instance({ service: 'web' }), instance({ service: 'web', slot: '1' })];
    const first = await reconcile(wanted);
    expect(first.failures).toEqual([]);
    expect(first.changes).toHaveLength(3);
    expect(await namesOn(host)).toEqual([`${prefix}-web-0`, `${prefix}-web-1`]);
    expect(await reconcile(wanted)).toEqual({ changes: [], failures: [] });
    const fact = await eventually(
      async () => {
        const facts = await plugin.facts();
        return (
          facts.instances.every(({ state }) => state === 'running') &&
          facts.instances.length === 2 &&
          facts
        );
      },
      { withinMs: 5_000 },
    );
    expect(fact.engine).toMatchObject({ state: 'ok' });
    const [seen] = fact.instances;
    expect(seen).toMatchObject({
      service: 'web',
      slot: '0',
      instance: 'web-0',
      image: 'base:1',
      health: 'none',
      restarts: 0,
    });
    expect(seen?.address).toBe(
      (await inspect('web-0')).NetworkSettings.Networks[`${prefix}-1111`]?.IPAddress,
    );
  });
});
