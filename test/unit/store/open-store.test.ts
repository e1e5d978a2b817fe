import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { systemClock } from '../../../daemon/clock.ts';
import { silentLog } from '../../../daemon/logger.ts';
import { systemRandom } from '../../../daemon/random.ts';
import { openStore } from '../../../daemon/store/open-store.ts';
import type { Store } from '../../../daemon/store/open-store.ts';

let dir: string;
const opened: Store[] = [];

beforeEach(() => {
  dir = join(mkdtempSync(join(tmpdir(), 'trellis-store-')), 'state');
});

afterEach(async () => {
  for (const store of opened.splice(0)) await store.close();
  rmSync(join(dir, '..'), { recursive: true, force: true });
});

function open(): Store {
  const store = openStore(dir, { log: silentLog, random: systemRandom, clock: systemClock });
  opened.push(store);
  return store;
}

async function closeAll(): Promise<void> {
  for (const store of opened.splice(0)) await store.close();
}

test('identity is made once; every start raises the incarnation', async () => {
  const first = open().identity;
  await closeAll();
  const second = open().identity;
  expect(second.nodeId).toBe(first.nodeId);
  expect(second.hostId).toBe(first.hostId);
  expect(first.incarnation).toBe(1);
  expect(second.incarnation).toBe(2);
  expect(first.nodeId).toMatch(/^[0-9a-f]{64}$/);
  expect(first.hostId).toMatch(/^[0-9a-f]{32}$/);
});

test('a lost counter goes on above every earlier incarnation', async () => {
  const { incarnation } = open().identity;
  await closeAll();
  rmSync(join(dir, 'incarnation'));
  expect(open().identity.incarnation).toBeGreaterThan(incarnation + 1_000_000);
});

function damage(name: string): void {
  const path = join(dir, name);
  const text = readFileSync(path, 'utf8');
  writeFileSync(path, (text.startsWith('0') ? '1' : '0') + text.slice(1));
}

test('a damaged or lost key or host id comes back from its copy', async () => {
  const first = open().identity;
  for (const spoil of [
    () => damage('host.key'),
    () => damage('host.id'),
    () => damage('host.key.copy'),
    () => rmSync(join(dir, 'host.key')),
    () => rmSync(join(dir, 'host.id')),
  ]) {
    await closeAll();
    spoil();
    const again = open().identity;
    expect([again.nodeId, again.hostId]).toEqual([first.nodeId, first.hostId]);
  }
  for (const name of ['host.key', 'host.id'])
    expect(readFileSync(join(dir, name))).toEqual(readFileSync(join(dir, `${name}.copy`)));
});

test('a key whose copy is damaged, too, is refused, never replaced', async () => {
  open();
  await closeAll();
  damage('host.key');
  damage('host.key.copy');
  expect(() => open()).toThrowError(expect.objectContaining({ code: 'IDENTITY_DAMAGED' }));
});

test('everything is private to the owner', () => {
  open().storage.append('l', new Uint8Array(1), () => {});
  expect(statSync(dir).mode & 0o777).toBe(0o700);
  for (const name of readdirSync(dir)) {
    expect(statSync(join(dir, name)).mode & 0o077, name).toBe(0);
  }
});

test('a second daemon on the same directory is refused with the pid of the first', () => {
  open();
  expect(() => open()).toThrowError(
    expect.objectContaining({ code: 'STATE_LOCKED', details: { dir, pid: String(process.pid) } }),
  );
});

test('the lock ends with its process, also after kill -9', async () => {
  const script = `
    import { lockStateDir } from '${new URL('../../../daemon/store/lock.ts', import.meta.url).href}';
    lockStateDir(process.argv[1]);
    console.log('locked');
    setInterval(() => {}, 1000);`;
  open();
  await closeAll();
  const child = spawn(process.execPath, ['--input-type=module', '-e', script, dir]);
  try {
    await once(child.stdout, 'data');
    expect(() => open()).toThrowError(
      expect.objectContaining({ code: 'STATE_LOCKED', details: { dir, pid: String(child.pid) } }),
    );
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
  expect(open().identity.incarnation).toBe(2);
});

test('a newer state directory is refused with both versions', async () => {
  open();
  await closeAll();
  writeFileSync(join(dir, 'format'), 'trellis-state 7\n');
  expect(() => open()).toThrowError(
    expect.objectContaining({ code: 'STATE_NEWER', details: { dir, found: '7', known: 1 } }),
  );
  writeFileSync(join(dir, 'format'), 'trellis-state 1\n');
  open();
});

test('a log or file that vanished is reported as missing', async () => {
  const { storage } = open();
  storage.append('l', new Uint8Array(1), () => {});
  storage.writeFile('snapshot', new Uint8Array(1), () => {});
  await closeAll();
  rmSync(join(dir, 'logs', 'l.log'));
  rmSync(join(dir, 'files', 'snapshot'));
  const again = open().storage;
  expect(again.readLog('l').damage).toMatchObject({ name: 'l', kind: 'missing' });
  expect(again.readFile('snapshot').damage).toMatchObject({ name: 'snapshot', kind: 'missing' });
});

test('after kill -9 under load every acknowledged record is there', async () => {
  const script = `
    import { FileStorage } from '${new URL('../../../daemon/store/file-storage.ts', import.meta.url).href}';
    import { silentLog } from '${new URL('../../../daemon/logger.ts', import.meta.url).href}';
    const storage = new FileStorage(process.argv[1], silentLog);
    let n = 0;
    const more = () => { const i = n++; storage.append('l', new Uint8Array(Buffer.from(String(i).repeat(40))), (error) => {
      if (error === undefined) process.stdout.write(i + '\\n'); more(); }); };
    for (let i = 0; i < 20; i++) more();`;
  open();
  await closeAll();
  const child = spawn(process.execPath, ['--input-type=module', '-e', script, dir]);
  let told = '';
  child.stdout.on('data', (chunk: Buffer) => {
    told += chunk.toString();
    if (told.length > 4_000) child.kill('SIGKILL');
  });
  await once(child, 'exit');
  const acknowledged = told.split('\n').slice(0, -1).map(Number);
  expect(acknowledged.length).toBeGreaterThan(100);
  const kept = new Set(
    open()
      .storage.readLog('l')
      .records.map((bytes) => Buffer.from(bytes).toString()),
  );
  for (const i of acknowledged) expect(kept).toContain(String(i).repeat(40));
});
