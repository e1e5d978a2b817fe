import { describe, expect, test } from 'vitest';
import type { Blobs, Plugin, RunningPlugin } from '../../../plugins/api.ts';
import { pluginApiVersion } from '../../../plugins/api.ts';
import type { ClusterId, HostId } from '../../../crdt/ids.ts';
import { inOrder, PluginHost } from '../../../daemon/reconcile/plugin-host.ts';
import { ManualClock, settled } from './manual-clock.ts';

const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

interface Made extends Partial<Plugin> {
  readonly name: string;
  readonly running?: Partial<RunningPlugin>;
}

function world() {
  const clock = new ManualClock();
  const said: string[] = [];
  const host = new PluginHost({
    self: { clusterId: '' as ClusterId, hostId: '' as HostId, env: 'prod' },
    clock,
    log: silent,
    blobs: {} as Blobs,
    stateDir: (plugin) => `/state/${plugin}`,
    requestReconcile: (plugin, reason) => said.push(`${plugin} asks: ${reason}`),
    publish: (topic) => said.push(`${topic} publishes`),
  });
  const plugin = ({ name, running, ...changes }: Made) => ({
    config: undefined,
    plugin: {
      name,
      apiVersion: pluginApiVersion,
      provides: [],
      requires: [],
      parseConfig: (raw: unknown) => raw,
      start: () => {
        said.push(`${name} starts`);
        return Promise.resolve(runningOf(name, running));
      },
      ...changes,
    } as Plugin,
  });
  const runningOf = (name: string, changes: Partial<RunningPlugin> = {}): RunningPlugin => ({
    reconcile: () => Promise.resolve({ changes: [], failures: [] }),
    stop: () => {
      said.push(`${name} stops`);
      return Promise.resolve();
    },
    purge: () => {
      said.push(`${name} purges`);
      return Promise.resolve();
    },
    ...changes,
  });
  return { clock, host, said, plugin, runningOf };
}

describe('plugin host', () => {
  test('providers start before those who require them and stop after them', async () => {
    const { host, said, plugin } = world();
    await host.start([
      plugin({ name: 'c', requires: ['b/1'] }),
      plugin({ name: 'b', requires: ['a/1'], provides: ['b/1'] }),
      plugin({ name: 'a', provides: ['a/1'] }),
    ]);
    await host.stop();
    await host.stop();
    const order = ['a starts', 'b starts', 'c starts', 'c stops', 'b stops', 'a stops'];
    expect(said).toEqual(order);
  });

  test('a cycle, an unmet requirement, a twin, a wrong version and a bad configuration are refused', async () => {
    const { host, plugin } = world();
    const code = expect.objectContaining({ code: 'PLUGIN_CONFIG_INVALID' }) as unknown;
    const cycle = [
      plugin({ name: 'a', requires: ['b/1'], provides: ['a/1'] }),
      plugin({ name: 'b', requires: ['a/1'], provides: ['b/1'] }),
    ];
    expect(() => inOrder(cycle)).toThrow(code as Error);
    expect(() => inOrder([plugin({ name: 'a', requires: ['none/1'] })])).toThrow(code as Error);
    expect(() => inOrder([plugin({ name: 'a' }), plugin({ name: 'a' })])).toThrow(code as Error);
    await expect(host.start([plugin({ name: 'a', apiVersion: 9 as never })])).rejects.toEqual(code);
    const parseConfig = (): never => {
      throw new Error('field x');
    };
    await expect(host.start([plugin({ name: 'a', parseConfig })])).rejects.toEqual(code);
  });

  test('one that fails to start is disabled with its reason; the others run', async () => {
    const { host, plugin } = world();
    const started = await host.start([
      plugin({ name: 'bad', start: () => Promise.reject(new Error('no engine')) }),
      plugin({
        name: 'worse',
        start: () => {
          throw new Error('at once');
        },
      }),
      plugin({ name: 'good' }),
    ]);
    expect(started.map((one) => one.name)).toEqual(['good']);
    expect([...host.disabled]).toEqual([
      ['bad', 'no engine'],
      ['worse', 'at once'],
    ]);
  });

  test('one that starts too late is disabled, and stopped when it has started after all', async () => {
    const { host, clock, plugin, runningOf, said } = world();
    let finish!: (running: RunningPlugin) => void;
    const start = (): Promise<RunningPlugin> => new Promise((resolve) => (finish = resolve));
    const starting = host.start([plugin({ name: 'late', start }), plugin({ name: 'good' })]);
    await clock.advance(10_000);
    expect((await starting).map((one) => one.name)).toEqual(['good']);
    expect(host.disabled.get('late')).toContain('10000 ms');
    finish(runningOf('late'));
    await settled();
    expect(said).toEqual(['good starts', 'late stops']);
  });

  test('one that does not stop or throws holds up none; what could not be purged is said', async () => {
    const { host, clock, plugin, said } = world();
    await host.start([
      plugin({ name: 'a' }),
      plugin({ name: 'hung', running: { stop: () => new Promise<void>(() => {}) } }),
      plugin({
        name: 'bad',
        running: {
          stop: () => Promise.reject(new Error('x')),
          purge: () => Promise.reject(new Error('still in use')),
        },
      }),
    ]);
    expect(await host.purge(new AbortController().signal)).toEqual(['bad: still in use']);
    expect(said).toContain('a purges');
    const stopping = host.stop();
    await clock.advance(6_000);
    await stopping;
    expect(said).toContain('a stops');
  });

  test('a plugin speaks under its own name', async () => {
    const { host, plugin, said } = world();
    await host.start([
      plugin({
        name: 'a',
        start: (context) => {
          context.requestReconcile('changed');
          context.publish(1);
          said.push(context.stateDir);
          return Promise.reject(new Error('enough'));
        },
      }),
    ]);
    expect(said).toEqual(['a asks: changed', 'a publishes', '/state/a']);
  });
});
