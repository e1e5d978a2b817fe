/** Asked before anything that cannot be undone: a join uses its code up, and only then would the node fail to listen. */
import { createServer } from 'node:net';
import { ClusterError } from '../errors.ts';

/** Fails with PORT_TAKEN. Port 0 is always free. */
export async function assertPortFree(address: string, port: number): Promise<void> {
  if (port === 0) return;
  await new Promise<void>((resolve, reject) => {
    const server = createServer();
    server.once('error', (error: NodeJS.ErrnoException) => {
      const owner = error.code === 'EADDRINUSE' ? 'another program' : error.message;
      reject(new ClusterError('PORT_TAKEN', { port, host: address, owner }, error));
    });
    server.listen({ host: address, port, exclusive: true }, () => server.close(() => resolve()));
  });
}
