/**
 * Removes what killed test runs left on this machine: exactly what their records name, and only of runs whose process
 * is gone. `node test/testbed/cleanup.ts`; prints what it removed.
 */
import { pathToFileURL } from 'node:url';
import { abandonedRecords, removeRun } from '../../bootstrap/local-cluster/run-record.ts';

export async function cleanUpAbandoned(): Promise<string[]> {
  const removed: string[] = [];
  for (const record of abandonedRecords()) {
    await removeRun(record);
    removed.push(record.name);
  }
  return removed;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const removed = await cleanUpAbandoned();
  console.log(removed.length === 0 ? 'nothing was left behind' : `removed ${removed.join(', ')}`);
}
