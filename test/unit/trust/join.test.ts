import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join as joinPath } from 'node:path';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { hex } from '../../../crdt/ids.ts';

import { consentBytes, openAs, seal } from '../../../crdt/records.ts';
import type { ClusterError } from '../../../daemon/errors.ts';
import { silentLog } from '../../../daemon/logger.ts';
import type { Clock } from '../../../daemon/ports.ts';
import { ApiCertificate } from '../../../daemon/trust/api-certificate.ts';
import { memberCertificateLifeMs, renewBeforeMs } from '../../../daemon/trust/certificates.ts';
import { nodeIdOf } from '../../../daemon/trust/identity.ts';
import { acceptIntroduction, introduce } from '../../../daemon/trust/introduce.ts';
import { readIssuingKey, writeIssuingKey } from '../../../daemon/trust/issuing-key.ts';
import { checkInvite, join } from '../../../daemon/trust/join-client.ts';
import type { Joined, JoinOptions } from '../../../daemon/trust/join-client.ts';
import { proofOf } from '../../../daemon/trust/proof.ts';
import { startWorld } from '../api/world.ts';
import type { World } from '../api/world.ts';
import { newCluster, newHost, rosterOf } from './cluster.ts';
import type { TestCluster, TestHost } from './cluster.ts';

let cluster: TestCluster;
let world: World;
let peer: string;

beforeAll(async () => {
  cluster = await newCluster();
});
beforeEach(async () => {
  world = await startWorld(cluster);
  peer = `127.0.0.1:${world.port}`;
});
afterEach(async () => world.stop());

function joining(
  code: string,
  changes: Partial<JoinOptions> = {},
  host = newHost(),
): Promise<Joined> {
  return join({
    peers: [peer],
    caPem: cluster.founding.caPem,
    code,
    hostKeySeed: host.seed,
    hostId: host.hostId,
    name: 'h2',
    roles: [],
    meta: { dc: 'east' },
    listenAddresses: ['/ip4/127.0.0.1/tcp/7440'],
    ...changes,
  });
}

async function failure(act: Promise<unknown>): Promise<{ code: string; message: string }> {
  try {
    await act;
  } catch (error) {
    const { code, message } = error as ClusterError;
    return { code, message };
  }
  return { code: 'none', message: '' };
}

function removal(subject: 'member' | 'invite', id: string): Uint8Array {
  const { founding, keeper, session } = cluster;
  return seal(
    {
      kind: 'removal',
      v: 1,
      clusterId: founding.clusterId,
      subject,
      id,
      by: session.id,
      reason: '',
    },
    (bytes) => keeper.sign(session.id, bytes),
  );
}

describe('joining', () => {
  test('[trellis:H8] a code makes a host a member, with all it needs to prove everybody', async () => {
    const made = cluster.invite({ roles: ['web', 'lb'], meta: { rack: 'r1' } });
    const check = await checkInvite({
      peers: [peer],
      caPem: cluster.founding.caPem,
      code: made.code,
    });
    expect(check).toMatchObject({
      clusterName: 'shop',
      env: 'prod',
      roles: ['web', 'lb'],
      usesLeft: 1,
    });
    const host = newHost();
    const joined = await joining(made.code, {}, host);
    expect(joined.member).toMatchObject({
      name: 'h2',
      env: 'prod',
      roles: ['web', 'lb'],
      hostId: host.hostId,
    });
    expect(joined.member.meta).toEqual({ dc: 'east', rack: 'r1' });
    const roster = rosterOf(joined.clusterId, []);
    for (const record of joined.records)
      expect(['added', 'known']).toContain(roster.add(record).kind);
    expect(roster.membersEver()).toHaveLength(cluster.roster.membersEver().length);
    expect(joined.issuingKeyPem).toBe(cluster.founding.certificates.keyPem);
    expect(cluster.attempts.at(-1)).toMatchObject({
      outcome: 'admitted',
      invite: made.id,
      host: host.hostId,
    });
    expect(await failure(joining(made.code))).toMatchObject({ code: 'INVITE_REFUSED' });
    expect((await failure(joining(made.code))).message).toContain('as often as it may');
  });

  test('[trellis:H16] a host without an id is given one', async () => {
    const joined = await joining(cluster.invite().code, { hostId: null });
    expect(joined.hostId).toMatch(/^[0-9a-f]{32}$/);
    expect(joined.member.hostId).toBe(joined.hostId);
  });

  test('asking again after a lost answer uses nothing up and gives the same record', async () => {
    const made = cluster.invite();
    const host = newHost();
    const first = await joining(made.code, {}, host);
    const again = await joining(made.code, {}, host);
    expect(again.member).toEqual(first.member);
    const other = cluster.invite();
    expect(await failure(joining(other.code, {}, host))).toMatchObject({ code: 'JOIN_REFUSED' });
  });

  test('one use is one use, however many ask at once', async () => {
    const made = cluster.invite({ uses: 2 });
    const answers = await Promise.all(Array.from({ length: 6 }, () => failure(joining(made.code))));
    const codes = answers.map(({ code }) => code);
    expect(codes.filter((code) => code === 'none')).toHaveLength(2);
    expect(codes.filter((code) => code === 'INVITE_REFUSED')).toHaveLength(4);
  });

  test('[trellis:H17] a clone and a removed host are refused in words', async () => {
    const host = newHost();
    await joining(cluster.invite().code, {}, host);
    const clone: TestHost = { ...newHost(), hostId: host.hostId };
    const twin = await failure(joining(cluster.invite().code, {}, clone));
    expect(twin.code).toBe('JOIN_REFUSED');
    expect(twin.message).toContain('clone');
    const otherId = await failure(
      joining(cluster.invite().code, {}, { ...host, hostId: newHost().hostId }),
    );
    expect(otherId.message).toContain('another host id');
    cluster.roster.add(removal('member', hex(host.keys.publicKey)));
    const removed = await failure(joining(cluster.invite().code, {}, host));
    expect(removed.message).toContain('was removed');
    // Its place may be taken by a new key under the same id.
    expect(await failure(joining(cluster.invite().code, {}, clone))).toMatchObject({
      code: 'none',
    });
  });

  test('weird names are refused, taken ones numbered, an invite’s name wins', async () => {
    for (const name of ['', 'Big Host', 'a'.repeat(64), '../etc', '-x', 'ß', 'h1\n']) {
      expect([name, (await failure(joining(cluster.invite().code, { name }))).code]).toEqual([
        name,
        'JOIN_REFUSED',
      ]);
    }
    const host = newHost();
    const second = await joining(cluster.invite().code, { name: 'h1' }, host);
    expect(second.member.name).toBe(`h1-${host.hostId.slice(0, 4)}`);
    const named = await joining(cluster.invite({ hostName: 'db7' }).code, { name: 'ignored' });
    expect(named.member.name).toBe('db7');
    expect((await failure(joining(cluster.invite({ hostName: 'db7' }).code))).message).toContain(
      'db7 exists already',
    );
  });

  test('a host may ask for fewer roles than its invitation, never for others', async () => {
    const fewer = await joining(cluster.invite({ roles: ['web', 'db'] }).code, { roles: ['db'] });
    expect(fewer.member.roles).toEqual(['db']);
    expect((await failure(joining(cluster.invite().code, { roles: ['db'] }))).message).toContain(
      'does not allow role db',
    );
  });
});

describe('what is not trusted', () => {
  test('a member of another cluster, a dead peer and a wrong certificate: the next peer is asked', async () => {
    const foreign = await newCluster('shop');
    const stranger = await startWorld(foreign);
    try {
      const made = cluster.invite();
      const joined = await joining(made.code, {
        peers: [`127.0.0.1:${stranger.port}`, '127.0.0.1:1', peer],
      });
      expect(joined.peer).toBe(peer);
      const none = await failure(
        joining(cluster.invite().code, { peers: [`127.0.0.1:${stranger.port}`, '127.0.0.1:1'] }),
      );
      expect(none.code).toBe('JOIN_UNREACHABLE');
      expect(none.message).toMatch(/not of this cluster.*ECONNREFUSED/);
      expect(await failure(joining(foreign.invite().code))).toMatchObject({
        code: 'INVITE_REFUSED',
      });
    } finally {
      await stranger.stop();
    }
  });

  test('garbage instead of a certificate, peers or a code is said before anything is sent', async () => {
    const { code } = cluster.invite();
    expect((await failure(joining(code, { caPem: 'hello' }))).code).toBe('INVALID');
    expect((await failure(joining(code, { peers: ['http://x/y'] }))).code).toBe('INVALID');
    expect((await failure(joining(code, { peers: [] }))).code).toBe('INVALID');
  });

  test('a request without the host’s own consent is refused', async () => {
    const made = cluster.invite();
    const host = newHost();
    const victim = newHost();
    const { clusterId } = cluster.founding;
    const consent = host.keys.sign(
      consentBytes({ clusterId, hostId: victim.hostId, hostKey: victim.keys.publicKey }),
    );
    const body = {
      v: 1,
      code: made.code,
      hostKey: hex(victim.keys.publicKey),
      hostId: victim.hostId,
      consent: Buffer.from(consent).toString('base64'),
      name: 'x',
      roles: [],
      meta: {},
      addresses: [],
    };
    expect((await failure(cluster.admission().join(body, 'a'))).message).toContain('did not prove');
    for (const bad of [
      null,
      7,
      'x',
      [],
      {},
      { ...body, hostKey: 'zz' },
      { ...body, meta: { a: 1 } },
    ]) {
      expect((await failure(cluster.admission().join(bad, 'b'))).code).toBe('INVALID');
    }
  });

  test('a stranger that guesses is slowed down, and every attempt is noted', async () => {
    const admission = cluster.admission();
    const codes: string[] = [];
    for (let i = 0; i < 12; i++)
      codes.push((await failure(admission.check({ code: `wrong-${i}` }, '10.0.0.9'))).code);
    expect(codes.filter((code) => code === 'INVITE_REFUSED')).toHaveLength(10);
    expect(codes.filter((code) => code === 'RATE_LIMITED')).toHaveLength(2);
    expect(cluster.attempts.filter(({ address }) => address === '10.0.0.9')).toHaveLength(10);
    const { code } = cluster.invite();
    expect((await failure(admission.check({ code }, '10.0.0.8'))).code).toBe('none');
  });

  test('an admission that still tells the others counts once', async () => {
    const made = cluster.invite({ uses: 2 });
    const { clusterId } = cluster.founding;
    const bodyOf = (host: TestHost) => ({
      v: 1,
      code: made.code,
      hostKey: hex(host.keys.publicKey),
      hostId: host.hostId,
      consent: Buffer.from(
        host.keys.sign(
          consentBytes({ clusterId, hostId: host.hostId, hostKey: host.keys.publicKey }),
        ),
      ).toString('base64'),
      name: 'x',
      roles: [],
      meta: {},
      addresses: [],
    });
    let told = (): void => {};
    const telling = new Promise<void>((resolve) => (told = resolve));
    const admission = cluster.admission({
      admit: (record) => {
        cluster.roster.add(record);
        return telling;
      },
    });
    const first = admission.join(bodyOf(newHost()), 'a');
    const second = admission.join(bodyOf(newHost()), 'b');
    const third = await failure(admission.join(bodyOf(newHost()), 'c'));
    told();
    expect([await failure(first), await failure(second)].map(({ code }) => code)).toEqual([
      'none',
      'none',
    ]);
    expect(third.code).toBe('INVITE_REFUSED');
  });

  test('a failed push leaves the use free', async () => {
    const made = cluster.invite();
    const host = newHost();
    const failing = cluster.admission({ admit: () => Promise.reject(new Error('disk')) });
    const { clusterId } = cluster.founding;
    const consent = host.keys.sign(
      consentBytes({ clusterId, hostId: host.hostId, hostKey: host.keys.publicKey }),
    );
    const body = {
      v: 1,
      code: made.code,
      hostKey: hex(host.keys.publicKey),
      hostId: host.hostId,
      consent: Buffer.from(consent).toString('base64'),
      name: 'h9',
      roles: [],
      meta: {},
      addresses: [],
    };
    expect((await failure(failing.join(body, 'a'))).code).toBe('INTERNAL');
    expect((await failure(cluster.admission().join(body, 'a'))).code).toBe('none');
  });
});

describe('introductions', () => {
  test('a member that was away takes a host whose chain leads to somebody it knows, and nothing from strangers', async () => {
    const { founding, roster } = cluster;
    // What the member knows that was away: the founding, not the invitation nor who came on it.
    const away = { ...cluster, roster: rosterOf(founding.clusterId, founding.records) };
    const host = newHost();
    const joined = await joining(cluster.invite().code, { name: 'late' }, host);
    const self = nodeIdOf(host.keys.publicKey);
    const newcomer = rosterOf(founding.clusterId, []);
    for (const record of joined.records) newcomer.add(record);
    const chain = proofOf(newcomer, self);
    expect(chain.length).toBeLessThan(8);
    const body = (records: readonly Uint8Array[]): unknown => ({
      records: records.map((one) => Buffer.from(one).toString('base64')),
    });
    const foreign = await newCluster('other');
    const stranger = newHost();
    const forged = seal(
      { ...openAs('member', chain.at(-1)!)!.record, hostKey: stranger.keys.publicKey },
      (bytes) => stranger.keys.sign(bytes),
    );
    for (const bad of [
      body([]),
      body([forged]),
      body(foreign.founding.records),
      {},
      body([new Uint8Array(9)]),
    ]) {
      expect(() => acceptIntroduction(away.roster, bad)).toThrow();
    }
    expect(away.roster.membersEver()).toHaveLength(1);
    const there = rosterOf(founding.clusterId, founding.records);
    expect(acceptIntroduction(there, body(chain)).added).toBeGreaterThan(0);
    expect(there.membersEver().map(({ node }) => node)).toContain(self);
    await introduce({ roster: newcomer, self, peer, caPem: founding.caPem });
    expect(cluster.attempts.at(-1)).toMatchObject({ outcome: 'introduced' });
    expect(roster.membersEver().length).toBeGreaterThan(1);
  });
});

describe('the API certificate', () => {
  function certificate(
    dir: string,
    now: { ms: number },
    addresses: string[],
    renewed: string[] = [],
  ): ApiCertificate {
    const clock: Clock = {
      monotonicMs: () => now.ms,
      wallMs: () => now.ms,
      setTimer: () => ({ cancel: () => {} }),
    };
    const authority = readIssuingKey(dir, cluster.founding.certificates.certificateDer)!;
    return new ApiCertificate({
      dir,
      authority,
      clusterName: 'shop',
      hostName: () => 'h1',
      addresses: () => addresses,
      clock,
      log: silentLog,
      onRenewed: ({ certPem }) => renewed.push(certPem),
    });
  }

  test('kept over a restart, renewed before a third is left, for a new address and when damaged', async () => {
    const dir = mkdtempSync(joinPath(tmpdir(), 'trellis-cert-'));
    try {
      writeIssuingKey(dir, cluster.founding.certificates.keyPem);
      expect(statSync(joinPath(dir, 'issuing.key')).mode & 0o777).toBe(0o600);
      const now = { ms: Date.now() };
      const first = await certificate(dir, now, ['10.0.0.1']).start();
      expect(statSync(joinPath(dir, 'api.key')).mode & 0o777).toBe(0o600);
      expect((await certificate(dir, now, ['10.0.0.1']).start()).certPem).toBe(first.certPem);
      const renewed: string[] = [];
      const held = certificate(dir, now, ['10.0.0.1'], renewed);
      await held.start();
      now.ms += memberCertificateLifeMs - renewBeforeMs - 1_000;
      expect((await held.refresh()).certPem).toBe(first.certPem);
      now.ms += 2_000;
      const second = await held.refresh();
      expect(renewed).toEqual([second.certPem]);
      expect(second.certPem).not.toBe(first.certPem);
      const moved = await certificate(dir, now, ['10.0.0.2']).start();
      expect(moved.certPem).not.toBe(second.certPem);
      writeFileSync(joinPath(dir, 'api.pem'), 'garbage');
      const repaired = await certificate(dir, now, ['10.0.0.2']).start();
      expect(readFileSync(joinPath(dir, 'api.pem'), 'utf8')).toBe(repaired.certPem);
      // Damage in the second certificate of the chain, which Node's parser does not look at.
      const at = repaired.certPem.lastIndexOf('-----BEGIN') + 200;
      const flipped = repaired.certPem.at(at) === 'A' ? 'B' : 'A';
      const damaged = repaired.certPem.slice(0, at) + flipped + repaired.certPem.slice(at + 1);
      writeFileSync(joinPath(dir, 'api.pem'), damaged);
      const again = await certificate(dir, now, ['10.0.0.2']).start();
      expect([damaged, repaired.certPem]).not.toContain(again.certPem);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  });
});
