import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { makeClient } from '../../../daemon/cli/client.ts';
import type { ServerLine } from '../../../daemon/operations/wire.ts';

async function daemon(
  answer: (request: IncomingMessage, response: ServerResponse) => void,
): Promise<{ socket: string; server: ReturnType<typeof createServer> }> {
  const dir = mkdtempSync(join(tmpdir(), 'trellis-cli-'));
  const server = createServer(answer);
  const socket = join(dir, 's');
  await new Promise<void>((resolve) => server.listen(socket, resolve));
  onTestFinished(() => {
    server.close();
    server.closeAllConnections();
    rmSync(dir, { recursive: true });
  });
  return { socket, server };
}

test('plain answers and errors', async () => {
  const { socket } = await daemon((request, response) => {
    const isGood = request.url === '/api/v1/role/ls';
    response.writeHead(isGood ? 200 : 404, { 'content-type': 'application/json' });
    const error = {
      code: 'NOT_FOUND',
      message: 'no role named x; list them',
      details: { name: 'x' },
    };
    response.end(JSON.stringify(isGood ? [1] : { error }));
  });
  const client = makeClient(socket);
  expect(await client.call('role/ls', {})).toEqual([1]);
  await expect(client.call('role/show', {})).rejects.toMatchObject({
    code: 'NOT_FOUND',
    message: 'no role named x; list them',
    details: { name: 'x' },
  });
});

test('a streamed answer gives progress and data, then its result', async () => {
  const { socket } = await daemon((_, response) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    const lines: ServerLine[] = [
      { type: 'progress', text: 'pushing' },
      { type: 'data', data: 'ä' },
      { type: 'result', data: { done: true } },
    ];
    const bytes = Buffer.from(lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
    // In the middle of a character and of a line.
    response.write(bytes.subarray(0, bytes.indexOf(0xa4)));
    response.end(bytes.subarray(bytes.indexOf(0xa4)));
  });
  const seen: unknown[] = [];
  const data = await makeClient(socket).call(
    'events/ls',
    {},
    { onProgress: (text) => seen.push(text), onData: (item) => seen.push(item) },
  );
  expect([data, seen]).toEqual([{ done: true }, ['pushing', 'ä']]);
});

test('a daemon that is not there, or breaks off, is said in words', async () => {
  await expect(makeClient('/nonexistent/s').call('role/ls', {})).rejects.toMatchObject({
    code: 'DAEMON_UNREACHABLE',
  });
  const { socket } = await daemon((_, response) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' });
    response.end('{"type":"progress","text":"x"}\n');
  });
  await expect(makeClient(socket).call('role/ls', {})).rejects.toMatchObject({ code: 'INTERNAL' });
});

test('a two-way call carries its parameters in a header, lines both ways', async () => {
  const { socket, server } = await daemon(() => undefined);
  server.on('upgrade', (request, connection) => {
    const params = Buffer.from(String(request.headers['trellis-params']), 'base64url').toString();
    connection.write(
      'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: trellis-stream\r\n\r\n',
    );
    connection.on('data', (bytes: Buffer) => {
      const line = JSON.parse(bytes.toString()) as { bytes: string };
      connection.write(`${JSON.stringify({ type: 'data', data: [params, line.bytes] })}\n`);
      connection.end(`${JSON.stringify({ type: 'result', data: { exitCode: 3 } })}\n`);
    });
  });
  const link = await makeClient(socket).open('service/exec', { service: 'site' });
  link.send({ type: 'input', bytes: 'aGk=' });
  const lines: ServerLine[] = [];
  for await (const line of link.lines) lines.push(line);
  link.close();
  expect(lines).toEqual([
    { type: 'data', data: ['{"service":"site"}', 'aGk='] },
    { type: 'result', data: { exitCode: 3 } },
  ]);
});
