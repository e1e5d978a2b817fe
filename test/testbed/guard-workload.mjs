// What runs behind a gate in tests: takes itself into the gate, then appends "<epoch> <monotonic ns> <host>" to a file
// every millisecond. With --careful it stops writing by itself when its lease directory says that authority has ended.
import { openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import path from 'node:path';

const [procs = '', leaseDir = '', file = '', host = '', careful = ''] = process.argv.slice(2);
writeFileSync(procs, String(process.pid));
const epoch = readFileSync(path.join(leaseDir, 'epoch'), 'utf8').trim();
const out = openSync(file, 'a');

setInterval(() => {
  if (careful !== '') {
    const { deadlineBoottimeNs } = JSON.parse(
      readFileSync(path.join(leaseDir, 'lease.json'), 'utf8'),
    );
    // No test host suspends: the boot clock and the monotonic one agree.
    if (process.hrtime.bigint() >= BigInt(deadlineBoottimeNs)) return;
  }
  writeSync(out, `${epoch} ${process.hrtime.bigint()} ${host}\n`);
}, 1);
