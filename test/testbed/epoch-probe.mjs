// A resource that several hosts could reach at once: takes datagrams "<epoch> <ns> <host>" on port 7000, accepts those whose
// epoch is not lower than the highest so far, and keeps count of both in a file, replaced every 50 ms.
import { createSocket } from 'node:dgram';
import { renameSync, writeFileSync } from 'node:fs';

const [file = ''] = process.argv.slice(2);
const state = { highest: 0, accepted: 0, refused: 0, refusedFrom: {}, fell: 0 };
let lastAccepted = 0;
const socket = createSocket('udp4');
socket.on('message', (message) => {
  const [epochText = '', , host = ''] = message.toString().trim().split(' ');
  const epoch = Number(epochText);
  if (!Number.isInteger(epoch)) return;
  if (epoch < state.highest) {
    state.refused++;
    state.refusedFrom[host] = (state.refusedFrom[host] ?? 0) + 1;
    return;
  }
  if (epoch < lastAccepted) state.fell++;
  lastAccepted = epoch;
  state.highest = epoch;
  state.accepted++;
});
socket.bind(7000);
setInterval(() => {
  writeFileSync(`${file}.tmp`, JSON.stringify(state));
  renameSync(`${file}.tmp`, file);
}, 50);
