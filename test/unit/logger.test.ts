import { expect, test } from 'vitest';
import { createLog, taggedLog } from '../../daemon/logger.ts';

function capture(): { lines: Record<string, unknown>[]; write(text: string): void } {
  const lines: Record<string, unknown>[] = [];
  return { lines, write: (text) => void lines.push(JSON.parse(text) as Record<string, unknown>) };
}

test('values whose key looks like a secret are never written', () => {
  const out = capture();
  const log = createLog({ destination: out });
  log.info('trust.login', {
    passphrase: 'p1',
    nested: { inviteCode: 'p2', list: [{ token: 'p3' }], operator: 'ada' },
    hostSeed: new Uint8Array(32),
    code: 'p4',
  });
  expect(JSON.stringify(out.lines)).not.toMatch(/p[1-4]/);
  expect(out.lines[0]).toMatchObject({
    event: 'trust.login',
    level: 'info',
    nested: { operator: 'ada' },
  });
});

test('long values are cut, errors keep code and cause, bytes are counted', () => {
  const out = capture();
  const log = taggedLog(createLog({ destination: out, level: 'debug' }), { plugin: 'docker' });
  const cause = Object.assign(new Error('inner'), { code: 'ENOSPC' });
  log.debug('x', {
    text: 'y'.repeat(10_000),
    error: new Error('outer', { cause }),
    bytes: new Uint8Array(9),
  });
  const [line] = out.lines;
  expect(line).toMatchObject({
    plugin: 'docker',
    bytes: '9 bytes',
    error: { message: 'outer', cause: { code: 'ENOSPC' } },
  });
  expect(JSON.stringify(line).length).toBeLessThan(9_000);
});
