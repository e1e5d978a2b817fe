import fc from 'fast-check';
import { beforeAll, expect, test } from 'vitest';
import { readJsonLines } from '../../daemon/api/lines.ts';
import { systemClock } from '../../daemon/clock.ts';
import { ClusterError } from '../../daemon/errors.ts';
import { silentLog } from '../../daemon/logger.ts';
import { CallGuard } from '../../daemon/operations/remote.ts';
import { base32, canonical, unbase32 } from '../../daemon/trust/base32.ts';
import { dnsLabelOf } from '../../daemon/trust/identity.ts';
import { acceptIntroduction } from '../../daemon/trust/introduce.ts';
import { checkCode } from '../../daemon/trust/invites.ts';
import { parseRecovery } from '../../daemon/trust/recovery.ts';
import { nameSchema } from '../../crdt/records.ts';
import { newCluster } from '../unit/trust/cluster.ts';
import type { TestCluster } from '../unit/trust/cluster.ts';

let cluster: TestCluster;
beforeAll(async () => {
  cluster = await newCluster();
});

test('base 32 gives back any bytes, in any spelling and grouping', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 1, maxLength: 64 }),
      fc.integer({ min: 1, max: 9 }),
      (bytes, group) => {
        const text = base32(bytes, group);
        expect(unbase32(text, bytes.length)).toEqual(bytes);
        expect(
          unbase32(text.toUpperCase().replaceAll('0', 'O').replaceAll('1', 'I'), bytes.length),
        ).toEqual(bytes);
        expect(unbase32(`${text}0`, bytes.length + 1)?.length ?? bytes.length + 1).toBe(
          bytes.length + 1,
        );
      },
    ),
  );
});

test('[trellis:H8] no text but the code itself is taken for it', () => {
  const { code } = cluster.invite({ uses: 100 });
  const check = (text: string): boolean =>
    'invite' in checkCode(cluster.roster, text, { nowWallMs: Date.now() });
  const mutated = fc
    .tuple(fc.nat(code.length - 1), fc.string({ minLength: 0, maxLength: 2 }))
    .map(([at, by]) => code.slice(0, at) + by + code.slice(at + 1));
  fc.assert(
    fc.property(fc.oneof(mutated, fc.string({ maxLength: 300 })), (text) => {
      expect(check(text)).toBe(canonical(text.trim()) === canonical(code));
    }),
    { numRuns: 2_000 },
  );
});

test('whatever strangers send, they get a coded refusal and change nothing', async () => {
  const admission = cluster.admission();
  const before = cluster.roster.records().size;
  const refused = async (act: () => Promise<unknown>): Promise<void> => {
    await expect(act()).rejects.toBeInstanceOf(ClusterError);
  };
  await fc.assert(
    fc.asyncProperty(fc.jsonValue(), fc.ipV4(), async (body, address) => {
      await refused(() => admission.join(body, address));
      await refused(() => admission.check(body, address));
      expect(() => acceptIntroduction(cluster.roster, body)).toThrow(ClusterError);
    }),
    { numRuns: 300 },
  );
  expect(cluster.roster.records().size).toBe(before);
});

test('garbage for a call is refused in words', () => {
  const { clusterId } = cluster.founding;
  const guard = new CallGuard({
    clusterId,
    self: '1'.repeat(32) as never,
    roster: cluster.roster,
    clock: systemClock,
    log: silentLog,
  });
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 500 }), (bytes) => {
      expect(() => guard.check(bytes)).toThrow(ClusterError);
    }),
    { numRuns: 500 },
  );
});

test('a recovery key with one changed character recovers nothing', () => {
  const { recovery } = cluster.founding;
  const start = recovery.lastIndexOf(':') + 1;
  fc.assert(
    fc.property(
      fc.integer({ min: start, max: recovery.length - 1 }),
      fc.constantFrom(...'23456789abcdefgh'.split('')),
      (at, letter) => {
        const bent = recovery.slice(0, at) + letter + recovery.slice(at + 1);
        if (canonical(bent.slice(start)) === canonical(recovery.slice(start))) return;
        // The last character carries padding bits besides; those may differ.
        if (at === recovery.length - 1) return;
        expect(parseRecovery(bent)).toBeNull();
      },
    ),
  );
});

test('any machine name becomes a name that the roster takes', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', maxLength: 300 }), (name) => {
      expect(nameSchema.safeParse(dnsLabelOf(name)).success).toBe(true);
    }),
    { numRuns: 1_000 },
  );
});

test('lines of JSON come out the same however the bytes were cut', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.jsonValue(), { maxLength: 20 }),
      fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }),
      async (values, sizes) => {
        const bytes = Buffer.from(values.map((value) => `${JSON.stringify(value)}\n`).join(''));
        async function* cut(): AsyncGenerator<Buffer> {
          for (let at = 0, i = 0; at < bytes.length; i++) {
            const size = sizes[i % sizes.length] ?? 1;
            yield bytes.subarray(at, at + size);
            at += size;
          }
        }
        const out: unknown[] = [];
        for await (const value of readJsonLines(cut())) out.push(value);
        expect(out).toEqual(values.map((value) => JSON.parse(JSON.stringify(value)) as unknown));
      },
    ),
  );
});
