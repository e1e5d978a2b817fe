import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { hex } from '../../../crdt/ids.ts';
import { openAs, seal } from '../../../crdt/records.ts';
import { systemCrypto } from '../../../daemon/crypto.ts';
import { silentLog } from '../../../daemon/logger.ts';
import { foundCluster, openAuthority } from '../../../daemon/trust/authority.ts';
import { base32, unbase32 } from '../../../daemon/trust/base32.ts';
import { dnsLabelOf, randomHostId } from '../../../daemon/trust/identity.ts';
import { checkCode, inviteState } from '../../../daemon/trust/invites.ts';
import { LoginThrottle, StrangerLimits } from '../../../daemon/trust/limits.ts';
import { Logins, loginMsMax, makeLogin, SessionKeeper } from '../../../daemon/trust/login.ts';
import {
  argon2id,
  argon2idWasm,
  generatePassphrase,
  sealSeed,
  unlockOperator,
  unsealSeed,
} from '../../../daemon/trust/operators.ts';
import { assertStrongPassphrase } from '../../../daemon/trust/passphrase.ts';
import { parseRecovery } from '../../../daemon/trust/recovery.ts';
import { newCluster, newHost, passphrase, rosterOf } from './cluster.ts';
import type { TestCluster } from './cluster.ts';

let cluster: TestCluster;
let dir: string;
beforeAll(async () => {
  cluster = await newCluster();
  dir = mkdtempSync(join(tmpdir(), 'trellis-trust-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

function codeOf(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    return (error as { code: string }).code;
  }
  return 'none';
}

describe('authority', () => {
  test('the cluster id is derived from the key, and the record speaks for its certificate', () => {
    const { founding, roster } = cluster;
    const signed = founding.records[0] as Uint8Array;
    expect(openAuthority(signed, founding.caPem)?.record.clusterId).toBe(founding.clusterId);
    expect(roster.authority()?.name).toBe('shop');
    expect(roster.membersEver()).toHaveLength(1);
  });

  test('a tampered record, another certificate and a record under another key are refused', async () => {
    const { founding } = cluster;
    const other = await newCluster('other');
    const signed = founding.records[0] as Uint8Array;
    expect(openAuthority(signed, other.founding.caPem)).toBeNull();
    for (let at = 0; at < signed.length; at += 7) {
      const bent = Uint8Array.from(signed);
      bent[at] = (bent[at] ?? 0) ^ 1;
      expect(openAuthority(bent, founding.caPem)).toBeNull();
    }
    const record = openAs('authority', signed)!.record;
    const forged = seal({ ...record, name: 'evil' }, (bytes) => other.host.keys.sign(bytes));
    expect(openAuthority(forged)).toBeNull();
  });

  test('the recovery key gives back the authority, and a mistyped one nothing', () => {
    const { recovery, clusterId } = cluster.founding;
    const parsed = parseRecovery(
      ` ${recovery.toUpperCase().replace('TRELLIS-RECOVERY-1:SHOP', 'trellis-recovery-1:shop')}\n`,
    );
    expect(parsed?.clusterId).toBe(clusterId);
    for (const last of '0123456789abcdefghjkmnpqrstvwxyz') {
      const mistyped = recovery.replace(/.$/, last);
      if (mistyped !== recovery) expect(parseRecovery(mistyped), last).toBeNull();
    }
    expect(parseRecovery('trellis-recovery-1:shop:')).toBeNull();
  });

  test('no private seed is in any record', () => {
    const seed = parseRecovery(cluster.founding.recovery)!.seed;
    for (const record of cluster.founding.records) expect(hex(record)).not.toContain(hex(seed));
  });
});

describe('passphrases', () => {
  test('argon2 of Node and of hash-wasm give the same key', async () => {
    const work = { iterations: 2, memoryKib: 1024, parallelism: 1 };
    const salt = new Uint8Array(16).fill(7);
    const password = Buffer.from('x');
    expect(hex(await argon2id(password, salt, work))).toBe(
      hex(await argon2idWasm(password, salt, work)),
    );
  });

  test('generated ones are long, distinct and forgiving about how they are typed', async () => {
    const made = generatePassphrase();
    expect(made).toMatch(/^([0-9a-z]{5}-){3}[0-9a-z]{5}$/);
    expect(generatePassphrase()).not.toBe(made);
    const key = new Uint8Array(32).fill(1);
    const sealed = await sealSeed(key, key, made);
    expect(await unsealSeed(sealed, key, ` ${made.toUpperCase().replaceAll('-', ' ')} `)).toEqual(
      key,
    );
  });

  test.each([
    'short1!',
    'passwordpassword',
    'P@ssw0rd123456',
    'aaaaaaaaaaaaaaaaaaaa',
    'abcdefghijklmnopq',
    '123456789012345678',
    'qwertyuiop123456',
    'ada-shop-ada-shop',
    'letmein letmein letmein',
    'Trellis2026!Admin',
  ])('%s is refused', (weak) => {
    expect(codeOf(() => assertStrongPassphrase(weak, ['ada', 'shop']))).toBe('PASSPHRASE_WEAK');
  });

  test.each([
    passphrase,
    'correct battery horse staple',
    'Ünbequeme Schönheit im Märzen',
    'tK9#vQ2!mZx7',
    generatePassphrase(),
  ])('%s is taken', (strong) => {
    expect(codeOf(() => assertStrongPassphrase(strong, ['ada', 'shop']))).toBe('none');
  });

  test('init refuses a weak one before it makes anything', async () => {
    const host = newHost();
    const options = {
      name: 'x',
      env: 'prod',
      operator: 'ada',
      hostKeySeed: host.seed,
      hostId: host.hostId,
    };
    const founded = foundCluster({
      ...options,
      passphrase: 'hello',
      hostName: 'h',
      roles: [],
      meta: {},
      nowWallMs: 0,
    });
    await expect(founded).rejects.toMatchObject({ code: 'PASSPHRASE_WEAK' });
  });

  test('a wrong passphrase, an unknown operator and a tampered box are refused alike', async () => {
    const { roster } = cluster;
    await expect(unlockOperator(roster, { operator: 'ada', passphrase })).resolves.toMatchObject({
      name: 'ada',
    });
    await expect(unlockOperator(roster, { operator: null, passphrase })).resolves.toMatchObject({
      name: 'ada',
    });
    await expect(
      unlockOperator(roster, { operator: 'ada', passphrase: 'x' }),
    ).rejects.toMatchObject({ code: 'LOGIN_REFUSED' });
    await expect(unlockOperator(roster, { operator: 'eve', passphrase })).rejects.toMatchObject({
      code: 'LOGIN_REFUSED',
    });
    const operator = roster.operators()[0]!;
    const box = Uint8Array.from(operator.sealed!.box);
    box[0] = (box[0] ?? 0) ^ 1;
    expect(
      await unsealSeed({ ...operator.sealed!, box }, operator.publicKey, passphrase),
    ).toBeNull();
    expect(
      await unsealSeed({ ...operator.sealed!, memoryKib: 1 << 30 }, operator.publicKey, passphrase),
    ).toBeNull();
    expect(await unsealSeed(operator.sealed!, new Uint8Array(32), passphrase)).toBeNull();
  });
});

describe('logins', () => {
  function logins(runDir: string, wallMs = Date.now): Logins {
    const { founding, host, roster } = cluster;
    return new Logins({
      runDir,
      clusterId: founding.clusterId,
      host: host.hostId,
      roster,
      wallMs,
      log: silentLog,
    });
  }

  test('a login survives a restart in the run directory, with a new session each time', async () => {
    const runDir = join(dir, 'run1');
    const first = logins(runDir);
    const session = await first.login({ operator: 'ada', passphrase, isKept: true });
    const file = join(runDir, 'login-ada.json');
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(readFileSync(file, 'utf8')).not.toContain(passphrase);
    expect(first.sessions.current()).toEqual(session);
    const second = logins(runDir);
    expect(second.resume()).toBe(1);
    const again = second.sessions.current()!;
    expect(again.id).not.toBe(session.id);
    expect(cluster.roster.session(again.id)).not.toBeNull();
    expect(codeOf(() => second.sessions.sign(session.id, new Uint8Array(1)))).toBe(
      'LOGIN_REQUIRED',
    );
    const bytes = new Uint8Array([1, 2]);
    const key = cluster.roster.session(again.id)!.record.sessionKey;
    expect(systemCrypto.verify(key, bytes, second.sessions.sign(again.id, bytes))).toBe(true);
    expect(second.logout('ada')).toEqual(['ada']);
    expect(second.sessions.current()).toBeNull();
    expect(logins(runDir).resume()).toBe(0);
  });

  test('it ends after 12 h, for the running daemon and for the next', async () => {
    const runDir = join(dir, 'run2');
    const now = { ms: Date.now() };
    const first = logins(runDir, () => now.ms);
    const session = await first.login({ operator: null, passphrase, isKept: true });
    expect(session.expiresAtWallMs).toBe(now.ms + loginMsMax);
    now.ms += loginMsMax;
    expect(first.sessions.get(session.id)).toBeNull();
    expect(codeOf(() => first.sessions.sign(session.id, new Uint8Array(1)))).toBe('LOGIN_REQUIRED');
    expect(logins(runDir, () => now.ms).resume()).toBe(0);
  });

  test('damaged, foreign and forged login files are dropped', async () => {
    const { founding } = cluster;
    const runDir = join(dir, 'run3');
    await logins(runDir).login({ operator: 'ada', passphrase, isKept: true });
    const file = join(runDir, 'login-ada.json');
    const good = JSON.parse(readFileSync(file, 'utf8')) as Record<string, string>;
    const forged = makeLogin({
      clusterId: founding.clusterId,
      operator: 'ada',
      operatorKeys: newHost().keys,
      nowWallMs: Date.now(),
    });
    const bad = [
      'garbage',
      'null',
      JSON.stringify({ ...good, clusterId: '0'.repeat(32) }),
      JSON.stringify({ ...good, seed: '00'.repeat(32) }),
      JSON.stringify({
        ...good,
        record: Buffer.from(forged.record).toString('base64'),
        seed: hex(forged.seed),
      }),
    ];
    for (const content of bad) {
      writeFileSync(file, content);
      expect(logins(runDir).resume()).toBe(0);
    }
  });

  test('a login over HTTPS leaves no file and is not what the socket uses', async () => {
    const runDir = join(dir, 'run4');
    const held = logins(runDir);
    const session = await held.login({ operator: 'ada', passphrase, isKept: false });
    expect(held.sessions.current()).toBeNull();
    expect(held.sessions.get(session.id)).toEqual(session);
    expect(logins(runDir).resume()).toBe(0);
  });

  test('sessions of one process are bounded', () => {
    const { founding, host } = cluster;
    const keeper = new SessionKeeper({
      clusterId: founding.clusterId,
      host: host.hostId,
      wallMs: Date.now,
    });
    const first = keeper.open(founding.login, { isKept: false }).session;
    for (let i = 0; i < 1_000; i++) keeper.open(founding.login, { isKept: i % 2 === 0 });
    expect(keeper.list()).toHaveLength(1_000);
    expect(keeper.get(first.id)).toBeNull();
    for (let i = 0; i < 500; i++) keeper.open(founding.login, { isKept: true });
    expect(codeOf(() => keeper.open(founding.login, { isKept: true }))).toBe('BUSY');
  });
});

describe('invitations', () => {
  const now = (): { nowWallMs: number } => ({ nowWallMs: Date.now() });

  test('[trellis:H8] a code is known by its hash alone, and in any spelling', () => {
    const made = cluster.invite();
    expect(made.code).toMatch(/^([0-9a-hjkmnp-tv-z]{4}-){7}[0-9a-hjkmnp-tv-z]{4}$/);
    const plain = made.code.replaceAll('-', '');
    for (const spelling of [
      made.code,
      plain.toUpperCase(),
      ` ${plain.replaceAll('0', 'O').replaceAll('1', 'l')}\n`,
    ]) {
      expect(checkCode(cluster.roster, spelling, now())).toMatchObject({ usesLeft: 1 });
    }
    const secret = hex(unbase32(made.code, 20)!.slice(2, 18));
    expect(hex(made.record)).not.toContain(secret);
  });

  test('[trellis:H8] wrong, mistyped, foreign, expired and revoked codes have reasons of their own', async () => {
    const { roster, keeper, session, founding } = cluster;
    const check = (code: string, atMs = Date.now()): unknown => {
      const checked = checkCode(roster, code, { nowWallMs: atMs });
      return 'refused' in checked ? checked.refused : 'ok';
    };
    const made = cluster.invite();
    expect(check('')).toBe('malformed');
    expect(check('hello')).toBe('malformed');
    expect(check('x'.repeat(100_000))).toBe('malformed');
    const bent = made.code.replace(
      /^(....-.)(.)/,
      (_, head: string, letter: string) => head + (letter === 'a' ? 'b' : 'a'),
    );
    expect(check(bent)).toBe('mistyped');
    expect(check((await newCluster('other')).invite().code)).toBe('foreign');
    const unknown = rosterOf(founding.clusterId, founding.records);
    expect(checkCode(unknown, made.code, now())).toEqual({ refused: 'unknown' });
    expect(check(made.code, Date.now() + 60_001)).toBe('expired');
    const removal = seal(
      {
        kind: 'removal',
        v: 1,
        clusterId: founding.clusterId,
        subject: 'invite',
        id: made.id,
        by: session.id,
        reason: 'lost',
      },
      (bytes) => keeper.sign(session.id, bytes),
    );
    expect(roster.add(removal).kind).toBe('added');
    expect(check(made.code)).toBe('revoked');
    const record = roster.invites().find(({ id }) => id === made.id)!;
    expect(inviteState(roster, record, Date.now())).toBe('revoked');
  });

  test('base 32 round trips every length', () => {
    for (let length = 1; length < 40; length++) {
      const bytes = systemCrypto.sha256(new Uint8Array([length])).slice(0, Math.min(32, length));
      expect(unbase32(base32(bytes), bytes.length)).toEqual(bytes);
    }
  });
});

describe('names and limits', () => {
  test('any machine name becomes a DNS label', () => {
    expect(dnsLabelOf('Büro PC_7.local')).toBe('b-ro-pc-7');
    expect(dnsLabelOf('---')).toBe('host');
    expect(dnsLabelOf('')).toBe('host');
    expect(dnsLabelOf('x'.repeat(300))).toHaveLength(63);
    expect(dnsLabelOf('h1.example.org')).toBe('h1');
    expect(randomHostId()).toMatch(/^[0-9a-f]{32}$/);
  });

  test('strangers are slowed down per address, and others are not', () => {
    const clock = { ms: 0 };
    const limits = new StrangerLimits(() => clock.ms);
    for (let i = 0; i < 10; i++) {
      limits.enter('10.0.0.9');
      limits.failed('10.0.0.9');
    }
    expect(codeOf(() => limits.enter('10.0.0.9'))).toBe('RATE_LIMITED');
    expect(codeOf(() => limits.enter('10.0.0.8'))).toBe('none');
    clock.ms += 6_000;
    expect(codeOf(() => limits.enter('10.0.0.9'))).toBe('none');
  });

  test('failed logins wait longer, a success forgets them, and the socket is apart', () => {
    const clock = { ms: 0 };
    const throttle = new LoginThrottle(() => clock.ms);
    const from = { address: '10.0.0.9', operator: 'ada' };
    for (let i = 0; i < 5; i++) throttle.enter(from);
    expect(codeOf(() => throttle.enter(from))).toBe('LOGIN_THROTTLED');
    expect(codeOf(() => throttle.enter({ address: null, operator: 'ada' }))).toBe('none');
    clock.ms += 20_000;
    throttle.enter(from);
    throttle.succeeded(from);
    for (let i = 0; i < 5; i++) expect(codeOf(() => throttle.enter(from))).toBe('none');
  });
});
