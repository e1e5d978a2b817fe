import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { expect, test } from 'vitest';
import { assertPortFree } from '../../../daemon/net/free-port.ts';

test('a taken port is refused by number before a code is used up; the check itself takes none', async () => {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await expect(assertPortFree('127.0.0.1', port)).rejects.toMatchObject({
    code: 'PORT_TAKEN',
    details: { port, host: '127.0.0.1' },
  });
  await new Promise((resolve) => server.close(resolve));
  await assertPortFree('127.0.0.1', port);
  await assertPortFree('127.0.0.1', port);
  await assertPortFree('127.0.0.1', 0);
});
