/**
 * `fence: command`: the winner has the host of the last holder switched off before anything starts, and starts nothing while
 * that cannot be done. What switches off here is a script that writes down what it was asked for.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { AlertRow } from '../../daemon/operations/lease-answers.ts';
import { eventually } from '../await.ts';
import { monotonicMs } from '../testbed/exclusive-proof.ts';
import { ExclusiveRig } from '../testbed/exclusive-rig.ts';

/** Succeeds once `may-fence` is there. */
const script = `#!/bin/sh
read -r up rest </proc/uptime
echo "$up $TRELLIS_FENCE_HOST $TRELLIS_LEASE" >>/srv/shared/fenced.log
[ -e /srv/shared/may-fence ] || { echo 'the switch does not answer' >&2; exit 1; }
`;
const watchedMs = 8_000;
let rig: ExclusiveRig;

beforeAll(async () => {
  rig = await ExclusiveRig.create({
    hosts: 3,
    lease: '{ profile: fast, fence: command, fenceCommand: [/usr/local/bin/switch-off] }',
  });
  for (const host of rig.cluster.bed.hosts)
    host.writeFile('/usr/local/bin/switch-off', script, 0o755);
}, 240_000);

afterAll(async () => {
  await rig?.cluster.destroy();
});

const shared = (name: string): string => join(rig.cluster.bed.dir, 'shared', name);

function fenced(): { readonly atMs: number; readonly host: string }[] {
  if (!existsSync(shared('fenced.log'))) return [];
  const lines = readFileSync(shared('fenced.log'), 'utf8').trimEnd().split('\n');
  return lines.map((line) => {
    const [up = '', host = ''] = line.split(' ');
    return { atMs: Number(up) * 1_000, host };
  });
}

describe('a fence command', { timeout: 120_000 }, () => {
  it('is not run where the lease was given up in order', async () => {
    const before = await rig.waitWriting();
    const index = await rig.holder();
    const to = (index + 1) % 3;
    const order = [
      'lease',
      'switch',
      'writer-disk',
      '--to',
      rig.cluster.bed.host(to).name,
      '--yes',
    ];
    await rig.cluster.json(index, order);
    const after = await rig.waitWriting({ notBy: before.host });
    expect(after.epoch).toBe(before.epoch + 1);
    expect(fenced()).toEqual([]);
    await rig.waitReady();
  });

  it('that fails: nothing starts, and somebody is told', async () => {
    const before = await rig.waitWriting();
    const index = await rig.holder();
    const others = [0, 1, 2].filter((other) => other !== index);
    await rig.cluster.bed.host(index).powerCut();
    const cutMs = monotonicMs();
    const offset = rig.size;
    await eventually(() => fenced().length > 0, { withinMs: 30_000, what: 'it was tried' });
    expect(new Set(fenced().map(({ host }) => host))).toEqual(new Set([before.host]));
    const told = await eventually(
      async () => {
        const rows = await rig.cluster.json<AlertRow[]>(others[0] ?? 0, ['alert', 'ls']);
        return rows.find(({ id }) => id === 'all-failed:storage writer-disk');
      },
      { withinMs: 60_000, everyMs: 250, what: 'an alert' },
    );
    expect(told.text).toMatch(/fence/);
    await eventually(() => monotonicMs() - cutMs > watchedMs, { withinMs: 2 * watchedMs });
    expect(rig.size).toBe(offset);
  });

  it('that works again: it starts, and not before the command has ended', async () => {
    const triedBefore = fenced().length;
    writeFileSync(shared('may-fence'), '');
    const live = rig.cluster.bed.hosts.findIndex(({ isOn }) => isOn);
    await rig.cluster.login(live);
    await rig.cluster.json(live, ['service', 'restart', 'writer']);
    const after = await rig.waitWriting();
    const last = fenced().at(-1);
    expect(fenced().length).toBeGreaterThan(triedBefore);
    expect(after.firstMs).toBeGreaterThan(last?.atMs ?? Infinity);
    const off = rig.cluster.bed.hosts.findIndex(({ isOn }) => !isOn);
    await rig.restore(off);
    rig.expectNeverTwo();
  });
});
