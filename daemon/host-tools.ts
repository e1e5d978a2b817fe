/** `HostTools` of this process: the few things that operations need besides the node. */
import { execFile } from 'node:child_process';
import { statfsSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { ClusterError } from './errors.ts';
import type { Member } from './member.ts';
import type { AuditLog } from './operations/audit-log.ts';
import type { HostTools } from './operations/tools.ts';
import type { Workload } from './workload.ts';

const programLimitMs = 10_000;

export function makeHostTools(options: {
  readonly stateDir: string;
  readonly runDir: string;
  member(): Member | null;
  workload(): Workload | null;
  audit(): AuditLog;
}): HostTools {
  return {
    removeMember: async (session, target, reason) => {
      const member = options.member();
      if (member === null) throw new ClusterError('NOT_INITIALISED');
      await member.removeMember(session, target.node, reason);
    },
    rescanInventory: async () => {
      const workload = options.workload();
      if (workload === null) throw new ClusterError('DAEMON_STARTING');
      return workload.rescan();
    },
    auditLines: (max) => options.audit().newest(max),
    probe: tryConnect,
    tryProgram: (program, args) =>
      new Promise((resolve) => {
        execFile(program, [...args], { timeout: programLimitMs }, (error, _stdout, stderr) =>
          resolve(
            error === null ? null : (stderr.trim().split('\n').at(-1) ?? '') || error.message,
          ),
        );
      }),
    stateDiskFreeBytes: () => {
      const { bavail, bsize } = statfsSync(options.stateDir);
      return bavail * bsize;
    },
    guardSocket: () => join(options.runDir, 'guard', 'guard.sock'),
  };
}

function tryConnect(address: string, port: number, timeoutMs: number): Promise<string | null> {
  return new Promise((resolve) => {
    const socket = connect({ host: address, port });
    const done = (reason: string | null): void => {
      socket.destroy();
      resolve(reason);
    };
    socket.setTimeout(timeoutMs, () => done(`no answer within ${timeoutMs} ms`));
    socket.on('connect', () => done(null));
    socket.on('error', (error) => done(error.message));
  });
}
