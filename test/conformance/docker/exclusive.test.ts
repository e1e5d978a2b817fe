/**
 * Exclusive containers against a real engine and a real freezer: who guards the gate is this test, so the plugin is
 * shown every order in which a gate may open and close around its calls.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { DesiredInstance } from '../../../plugins/api.ts';
import { label } from '../../../plugins/docker/labels.ts';
import { eventually } from '../../await.ts';
import { type TestHost, createTestHost, importBusybox } from './engine.ts';
import { TestGate } from './gate.ts';
import {
  type InstanceChanges,
  type PluginHost,
  clusterId,
  instance,
  startPlugin,
  view,
} from './plugin-host.ts';

const h1 = '11112222333344445555666677778888';
const name = `trellis-${clusterId.slice(0, 8)}-db-0`;
const lease = 'service/default/00000000000000aa';
const config = {
  reconcileWaitMs: 10_000,
  pingIntervalMs: 500,
  callTimeoutMs: 3_000,
  startTimeoutMs: 15_000,
  // Long: what happens is to be heard of, not found.
  lookIntervalMs: 60_000,
};

describe('exclusive containers', () => {
  let host: TestHost;
  let plugin: PluginHost;
  let gate: TestGate;
  let leaseDir: string;

  const db = (changes: Partial<InstanceChanges> = {}): DesiredInstance =>
    instance({
      service: 'db',
      restart: 'no',
      exclusive: { lease, gate: gate.name, leaseDir, epoch: null },
      ...changes,
    });
  const reconcile = (...instances: DesiredInstance[]) => plugin.call.reconcile(view(h1, instances));
  const tell = (epoch: number | null, mayStart = true): Promise<void> =>
    plugin.call.setGates(new Map(epoch === null ? [] : [[lease, { epoch, mayStart }]]));
  const stateOf = async (): Promise<string> => {
    const all = await host.docker.listContainers({ all: true });
    return all.find(({ Names }) => Names.includes(`/${name}`))?.State ?? 'absent';
  };
  const idOf = async (): Promise<string> => {
    const all = await host.docker.listContainers({ all: true });
    return all.find(({ Names }) => Names.includes(`/${name}`))?.Id ?? 'absent';
  };
  const whenState = (state: string) =>
    eventually(async () => (await stateOf()) === state, { withinMs: 10_000, everyMs: 20 });
  const whenFact = (state: string) =>
    eventually(async () => (await plugin.fact('db-0')).state === state, { withinMs: 10_000 });
  /** A container that the plugin has not seen yet is left to the next reconcile, so that once may be too early. */
  const startNow = () =>
    eventually(
      async () => {
        await plugin.call.startNow(lease);
        return gate.processes().length > 0;
      },
      { withinMs: 10_000, everyMs: 100 },
    );
  /** Opens it as the guard would, and says so. */
  const acquire = async (epoch: number): Promise<void> => {
    writeFileSync(join(leaseDir, 'epoch'), `${epoch}\n`);
    await gate.clear();
    gate.open();
    await tell(epoch);
  };
  const lose = async (): Promise<void> => {
    await gate.close();
    await tell(null);
    await gate.clear();
  };

  beforeAll(async () => {
    host = await createTestHost('dx');
    await host.startEngine();
    await importBusybox(host, 'base:1');
    plugin = await startPlugin(host, h1, { config });
  });
  beforeEach(async () => {
    gate = new TestGate(`trellis-x-t${process.pid}-db`);
    leaseDir = join(host.dir, 'lease');
    mkdirSync(leaseDir, { recursive: true });
    await tell(null);
  });
  afterEach(async () => {
    await gate.clear();
    const list = await host.docker.listContainers({ all: true });
    await Promise.all(list.map(({ Id }) => host.docker.getContainer(Id).remove({ force: true })));
    await gate.dispose();
  });
  afterAll(async () => {
    await host?.destroy();
  });

  test('[trellis:A41] made beforehand behind its gate, and not started while that is closed', async () => {
    const first = await reconcile(db());
    expect(first.failures).toEqual([]);
    expect(first.changes).toContain(`created ${name}`);
    expect(await reconcile(db())).toEqual({ changes: [], failures: [] });
    expect(await stateOf()).toBe('created');
    const made = await host.docker.getContainer(name).inspect();
    expect(made.HostConfig).toMatchObject({
      CgroupParent: `/${gate.name}`,
      RestartPolicy: { Name: 'no' },
    });
    expect(made.Config.Labels[label.lease]).toBe(lease);
    expect(await plugin.call.unprepared(lease)).toBeNull();
    await whenFact('created');
    await plugin.call.startNow(lease);
    expect(gate.processes()).toEqual([]);
  });

  test('an open gate starts it at once; when it closes, the plugin only watches', async () => {
    await reconcile(db());
    await acquire(7);
    const beganMs = performance.now();
    await startNow();
    await whenState('running');
    console.log(`running ${Math.round(performance.now() - beganMs)} ms after the gate opened`);
    expect(await reconcile(db())).toEqual({ changes: [`started ${name}`], failures: [] });
    expect(await reconcile(db())).toEqual({ changes: [], failures: [] });
    const inside = await plugin.call.exec(name, {
      command: ['cat', '/run/trellis/lease/epoch'],
      isTty: false,
    });
    expect(inside).toMatchObject({ stdout: '7\n', exitCode: 0 });
    // Frozen: everything goes on answering, and nothing is asked of it.
    await gate.close();
    await tell(null);
    const changed = db({ env: { NEW: '1' } });
    const frozenMs = performance.now();
    expect(await reconcile(changed)).toMatchObject({ changes: [], failures: [] });
    expect(performance.now() - frozenMs).toBeLessThan(2_000);
    await expect(plugin.call.exec(name, { command: ['true'], isTty: false })).rejects.toMatchObject(
      { code: 'CONFLICT' },
    );
    expect(await stateOf()).toBe('running');
    await gate.clear();
    await whenState('exited');
    await whenFact('exited');
    expect((await reconcile(changed)).changes).toEqual([
      `recreated ${name} (its description changed)`,
    ]);
    expect(await stateOf()).toBe('created');
  });

  test('a start that meets a closed gate holds up nobody, and does not come true later', async () => {
    await reconcile(db());
    // Told too early, or closed again since: the engine's start then blocks.
    await tell(8);
    await startNow();
    await eventually(() => gate.processes().length > 0, { withinMs: 5_000 });
    const other = instance({ service: 'web' });
    const beganMs = performance.now();
    const working = reconcile(db(), other);
    await eventually(
      async () =>
        (await plugin.facts()).instances.find((one) => one.service === 'web')?.state === 'running',
      { withinMs: 8_000, everyMs: 20 },
    );
    console.log(`another ran ${Math.round(performance.now() - beganMs)} ms after it was wanted`);
    expect(await plugin.call.engine()).toMatchObject({ state: 'ok' });
    await tell(null);
    await gate.clear();
    await working;
    expect(['created', 'exited']).toContain(await stateOf());
    // Under the next lease it comes up as if nothing had been.
    await acquire(9);
    await eventually(
      async () => {
        await reconcile(db(), other);
        return (await stateOf()) === 'running';
      },
      { withinMs: 10_000, everyMs: 50 },
    );
  });

  test('[trellis:R1] a daemon that crashed touches nothing before it knows its gates', async () => {
    await reconcile(db());
    await acquire(3);
    await reconcile(db());
    await whenState('running');
    const before = await idOf();
    await plugin.kill();
    plugin = await startPlugin(host, h1, { config });
    expect(await reconcile(db({ env: { NEW: '1' } }))).toMatchObject({ failures: [] });
    expect([await idOf(), await stateOf()]).toEqual([before, 'running']);
    await tell(3);
    expect((await reconcile(db())).changes).toEqual([]);
    expect([await idOf(), await stateOf()]).toEqual([before, 'running']);
    // A new description while the lease is held: replaced in place, the gate stays open.
    const { changes, failures } = await reconcile(db({ env: { NEW: '1' } }));
    expect([changes, failures]).toEqual([[`recreated ${name} (its description changed)`], []]);
    expect(await stateOf()).toBe('running');
  });

  test('what ends by itself is started again after a pause, and given up when it never comes up', async () => {
    const broken = db({ command: ['false'] });
    await reconcile(broken);
    await acquire(4);
    const failures = await eventually(
      async () => {
        const outcome = await reconcile(broken);
        return outcome.failures.length > 0 && outcome.failures;
      },
      { withinMs: 15_000, everyMs: 50 },
    );
    expect(failures).toMatchObject([{ item: 'db-0', code: 'START_FAILED', isTransient: false }]);
    await whenFact('failed');
    await lose();
    await acquire(5);
    expect((await reconcile(broken)).failures).toEqual([]);
  });

  test('nothing is started outside a gate, should guard and engine not mean the same one', async () => {
    const lost = db({
      exclusive: { lease, gate: 'trellis-x-00000000-nowhere', leaseDir, epoch: null },
    });
    await tell(4);
    const { failures } = await reconcile(lost);
    expect(failures).toMatchObject([{ item: 'db-0', code: 'GATE_FAULT' }]);
    expect((await reconcile(lost)).failures).toMatchObject([{ code: 'START_FAILED' }]);
    expect(await stateOf()).toBe('created');
  });

  test('a planned stop takes the time it was promised, and nothing is started meanwhile', async () => {
    const slow = db({
      command: [
        'sh',
        '-c',
        'trap "sleep 0.3; echo bye; exit 0" TERM; while :; do sleep 0.05; done',
      ],
      stopGraceMs: 10_000,
    });
    await reconcile(slow);
    await acquire(6);
    await startNow();
    await whenState('running');
    await tell(6, false);
    await plugin.call.stopAll(lease);
    expect(gate.processes()).toEqual([]);
    expect((await reconcile(slow)).changes).toEqual([`started ${name}`, `stopped ${name}`]);
    expect((await reconcile(slow)).changes).toEqual([]);
    const output = await plugin.call.logs(name, {});
    expect(output.map(({ text }) => text).join('')).toContain('bye');
    // Given up: it goes on here.
    await tell(6, true);
    await reconcile(slow);
    await whenState('running');
  });
});
