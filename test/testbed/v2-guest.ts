/**
 * A guest with cgroup v2, systemd and an engine, for what this machine's own cgroups cannot show. Emulated (TCG, no KVM), so
 * that it runs wherever tests run. The code under test comes on a disk of its own that is made for each run.
 */
import { spawn } from 'node:child_process';
import { cp, mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { guestSystem, makeDisk } from './v2-guest-system.ts';
import type { GuestSystem } from './v2-guest-system.ts';

const root = path.resolve(import.meta.dirname, '../..');

const codeDiskMb = 24;
const memoryMb = 1_024;
const serialBytesMax = 4 << 20;

export interface ProofStep {
  readonly step: string;
  readonly ok: boolean;
  readonly [field: string]: unknown;
}

export interface GuestRun {
  readonly steps: readonly ProofStep[];
  /** The whole serial output, for the message of a failure. */
  readonly serial: string;
  readonly buildMs: number;
  readonly runMs: number;
}

/** Builds what is missing, boots the guest, and collects its steps until it says `end` or `limitMs` is over. */
export async function runV2Guest(limitMs: number): Promise<GuestRun> {
  const startMs = performance.now();
  const system = await guestSystem();
  const dir = await mkdtemp(path.join(os.tmpdir(), 'trellis-guest-run-'));
  try {
    const code = await makeCodeDisk(dir);
    const builtMs = performance.now();
    const serial = await boot(system, code, limitMs);
    return {
      steps: readSteps(serial),
      serial,
      buildMs: Math.round(builtMs - startMs),
      runMs: Math.round(performance.now() - builtMs),
    };
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function makeCodeDisk(dir: string): Promise<string> {
  const tree = path.join(dir, 'code');
  for (const part of ['daemon', 'crdt', 'plugins', 'test/testbed']) {
    await cp(path.join(root, part), path.join(tree, part), { recursive: true });
  }
  await cp(path.join(root, 'package.json'), path.join(tree, 'package.json'));
  const disk = path.join(dir, 'code.img');
  await makeDisk(tree, disk, codeDiskMb);
  return disk;
}

/** Ends with the step `end`, the guest's own end, or the limit, whatever comes first. */
function boot(system: GuestSystem, code: string, limitMs: number): Promise<string> {
  const append =
    'console=ttyS0 quiet panic=-1 apparmor=0 mitigations=off systemd.show_status=0 net.ifnames=0';
  const options = [
    '-machine',
    'q35,accel=tcg',
    '-cpu',
    'max',
    '-smp',
    '2',
    '-m',
    String(memoryMb),
    '-kernel',
    system.kernel,
    '-initrd',
    system.initrd,
    '-append',
    append,
    '-drive',
    `file=${system.disk},format=raw,if=virtio,snapshot=on`,
    '-drive',
    `file=${code},format=raw,if=virtio,readonly=on`,
    '-display',
    'none',
    '-serial',
    'stdio',
    '-monitor',
    'none',
    '-nic',
    'none',
    '-no-reboot',
  ];
  return new Promise((resolve, reject) => {
    const child = spawn('nice', ['-n', '10', 'qemu-system-x86_64', ...options], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let serial = '';
    const timer = setTimeout(() => child.kill('SIGKILL'), limitMs);
    const keep = (chunk: Buffer) => {
      if (serial.length < serialBytesMax) serial += chunk.toString();
      if (/^PROOF \{"step":"end".*\}\r?$/m.test(serial)) child.kill('SIGKILL');
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    child.on('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.on('close', () => {
      clearTimeout(timer);
      resolve(serial);
    });
  });
}

function readSteps(serial: string): ProofStep[] {
  return [...serial.matchAll(/^PROOF (\{.*\})\r?$/gm)].map(
    (found) => JSON.parse(found[1] ?? '') as ProofStep,
  );
}
