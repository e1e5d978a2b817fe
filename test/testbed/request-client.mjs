// Sends requests at a fixed rate and prints one line each: `ok|failed <sent at, wall ms> <took ms> <answer>`.
// A new connection per request: a kept one would hide what happens to new consumers. Plain JavaScript, because it is
// started very often. Argument: JSON of { url, everyMs, timeoutMs, requestsMax, durationMaxMs }.
import { get } from 'node:http';

const { url, everyMs, timeoutMs, requestsMax, durationMaxMs } = JSON.parse(process.argv[2]);
const bodyCharsMax = 100;
let sent = 0;
let pending = 0;
let isEnding = false;

function send() {
  const atMs = Date.now();
  const start = performance.now();
  let isDone = false;
  pending++;
  const finish = (kind, answer) => {
    if (isDone) return;
    isDone = true;
    pending--;
    console.log(
      `${kind} ${atMs} ${(performance.now() - start).toFixed(1)} ${answer.trim().replaceAll('\n', ' ')}`,
    );
    if (isEnding) endWhenIdle();
  };
  const request = get(url, { agent: false, signal: AbortSignal.timeout(timeoutMs) }, (response) => {
    let body = '';
    response.on('data', (chunk) => (body = (body + chunk).slice(0, bodyCharsMax)));
    response.on('end', () =>
      finish(
        response.statusCode === 200 ? 'ok' : 'failed',
        response.statusCode === 200 ? body : `HTTP-${response.statusCode}`,
      ),
    );
    response.on('error', (error) => finish('failed', error.code ?? error.name));
  });
  request.on('error', (error) => finish('failed', error.cause?.name ?? error.code ?? error.name));
  if (++sent >= requestsMax) end();
}

function endWhenIdle() {
  if (pending > 0) return;
  console.log(`end ${Date.now()}`);
  process.exit(0);
}

function end() {
  if (isEnding) return;
  isEnding = true;
  clearInterval(timer);
  endWhenIdle();
}

console.log(`start ${Date.now()}`);
const timer = setInterval(send, everyMs);
setTimeout(end, durationMaxMs).unref();
process.on('SIGTERM', end);
send();
