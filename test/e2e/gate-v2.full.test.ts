/**
 * The gate on cgroup v2 with systemd slices, in an emulated guest: nothing here depends on this machine's own cgroups. The
 * guest's system is built on first use (about two minutes, from Debian packages) and kept in the temporary directory.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { runV2Guest } from '../testbed/v2-guest.ts';
import type { GuestRun, ProofStep } from '../testbed/v2-guest.ts';

/** It takes 200 s on a machine with seven times more to do than it has cores. */
const guestLimitMs = 480_000;
const buildLimitMs = 900_000;

/** In the order in which the guest goes through them. */
const steps = [
  ['world', 'cgroup v2, systemd driver, real engine'],
  ['gate-alone', 'what doctor tries works there'],
  ['image', 'an image is imported'],
  ['unit', 'a gate is made frozen and stays so when systemd takes it over as a slice'],
  ['create', 'a container is made for the gate'],
  ['frozen-start', 'a start while frozen blocks and executes nothing; lists go on'],
  ['thaw-runs', 'the thaw lets it run'],
  ['freeze', 'the freeze stops it, with no engine call'],
  ['daemon-reload', 'a reload of systemd does not thaw it'],
  ['daemon-reexec', 'nor a new systemd'],
  ['kill-running', 'clear empties a running gate; it stays, empty and frozen'],
  ['late-start', 'a late start into the empty frozen gate is killed before it executed'],
  ['thaw-after-clear', 'that start does not come back with the thaw'],
  ['open-start', 'a start into the open gate runs'],
  ['kill-frozen', 'clear empties a frozen gate'],
  ['remove', 'the gate and its unit go'],
] as const;

let guest: GuestRun | null = null;

beforeAll(async () => {
  guest = await runV2Guest(guestLimitMs);
}, guestLimitMs + buildLimitMs);

afterAll(() => {
  if (guest === null) return;
  console.log(`guest: made in ${guest.buildMs} ms, ran ${guest.runMs} ms`);
  for (const step of guest.steps) console.log(JSON.stringify(step));
});

describe('gate on cgroup v2 under systemd', () => {
  for (const [name, title] of steps) {
    it(`[I15 I16] ${name}: ${title}`, () => {
      expect(stepOf(name)).toMatchObject({ ok: true });
    });
  }

  it('the guest came to the end of its proof without a warning of the gate', () => {
    expect(stepOf('end')).toMatchObject({ ok: true, warnings: [] });
  });
});

function stepOf(name: string): ProofStep {
  const found = guest?.steps.find(({ step }) => step === name);
  if (found !== undefined) return found;
  const end = JSON.stringify(guest?.steps.at(-1) ?? null);
  throw new Error(
    `the guest never came to ${name}; last step ${end}; ${guest?.serial.slice(-2_000)}`,
  );
}
