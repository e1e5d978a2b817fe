/**
 * PostgreSQL as Debian ships it in an image made on the spot, and a client that inserts rows for as long as it is told to.
 * Nothing about its durability is relaxed.
 */
import { readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { HostProcess, LocalHost } from '../../bootstrap/local-cluster/local-host.ts';
import { makeImage } from './image.ts';

const installed = '/usr/lib/postgresql';

/** Directory of the newest server of this machine. */
export function serverDir(): string {
  const versions = readdirSync(installed).toSorted((a, b) => Number(b) - Number(a));
  return join(installed, versions[0] ?? '');
}

export const dataDir = '/srv/db';
const uid = 999;
const options = [
  'fsync=on',
  'synchronous_commit=on',
  'full_page_writes=on',
  'listen_addresses=*',
  'unix_socket_directories=/tmp',
  'max_connections=20',
  'shared_buffers=16MB',
  'max_wal_size=32MB',
];

/**
 * First process of the container: makes the directory the server's own, fills it when there is nothing in it, and turns the
 * stop of a container, which for PostgreSQL means to wait for clients, into a fast one.
 */
const entry = (bin: string): string => `#!/bin/sh
set -e
as() { /usr/bin/setpriv --reuid=${uid} --regid=${uid} --clear-groups "$@"; }
chown ${uid}:${uid} ${dataDir}
chmod 700 ${dataDir}
chmod 1777 /tmp
if [ ! -s ${dataDir}/PG_VERSION ] && [ -z "$(ls -A ${dataDir})" ]; then
  as ${bin}/initdb -D ${dataDir} -U postgres --auth=trust --locale=C --encoding=UTF8 --wal-segsize=1
  echo 'host all all all trust' >> ${dataDir}/pg_hba.conf
  echo 'create table if not exists written (number integer primary key);' |
    as ${bin}/postgres --single -D ${dataDir} postgres
fi
# Whoever held it before is gone: that is what the lease says.
rm -f ${dataDir}/postmaster.pid
/usr/bin/setpriv --reuid=${uid} --regid=${uid} --clear-groups \\
  ${bin}/postgres -D ${dataDir} ${options.map((option) => `-c '${option}'`).join(' ')} &
server=$!
# Says when it runs, for whoever wants to know that nobody else did; stands still with everything else.
beat() {
  while read -r up rest </proc/uptime; do
    read -r epoch </run/trellis/lease/epoch
    echo "beat $epoch $up"
    sleep 0.1
  done
}
beat &
trap 'kill -INT $server' TERM
wait $server || true
wait $server
`;

/** About 70 MB; some seconds. */
export function databaseImage(host: LocalHost, reference: string): Promise<string> {
  const dir = serverDir();
  const version = dir.slice(installed.length + 1);
  return makeImage(host, reference, {
    programs: [
      `${dir}/bin/postgres`,
      `${dir}/bin/initdb`,
      `${dir}/lib/plpgsql.so`,
      `${dir}/lib/dict_snowball.so`,
      '/usr/bin/setpriv',
    ],
    trees: [`/usr/share/postgresql/${version}`],
    files: {
      '/bin/database': entry(`${dir}/bin`),
      '/etc/passwd': `root:x:0:0:root:/root:/bin/sh\npostgres:x:${uid}:${uid}:postgres:/tmp:/bin/sh\n`,
      '/etc/group': `root:x:0:\npostgres:x:${uid}:\n`,
    },
    command: ['/bin/database'],
  });
}

export interface Insert {
  readonly number: number;
  readonly isOk: boolean;
  /** Wall clock of the machine. */
  readonly atMs: number;
  readonly tookMs: number;
  readonly reason: string;
}

export interface InsertLoop {
  readonly inserts: () => readonly Insert[];
  stop(): Promise<readonly Insert[]>;
}

const client = resolve(import.meta.dirname, 'postgres-client.mjs');
/** A pause for a copy is shorter, and a server that is gone says nothing. */
const answerMs = 1_500;

/** One row about every 5 ms, by the name and number of the service. */
export async function insertLoop(
  host: LocalHost,
  server: { readonly name: string; readonly port: number },
): Promise<InsertLoop> {
  const settings = { host: server.name, port: server.port, answerMs, everyMs: 5 };
  const started: HostProcess = await host.spawn(
    [process.execPath, client, JSON.stringify({ ...settings, durationMaxMs: 600_000 })],
    { label: 'inserts' },
  );
  const inserts = (): readonly Insert[] => readInserts(started.log());
  return {
    inserts,
    stop: async () => {
      await started.signal('TERM');
      await started.exited;
      return inserts();
    },
  };
}

/** The last line may be torn. */
function readInserts(log: string): readonly Insert[] {
  const lines = log.slice(0, log.lastIndexOf('\n') + 1).split('\n');
  return lines.flatMap((line) => {
    const [kind, number, at, took, reason = ''] = line.split(' ');
    if (kind !== 'ok' && kind !== 'failed') return [];
    return [
      {
        number: Number(number),
        isOk: kind === 'ok',
        atMs: Number(at),
        tookMs: Number(took),
        reason,
      },
    ];
  });
}

/** Longest time without a committed row from `fromMs` on, when it began, and how many statements failed. */
export function gapOf(
  inserts: readonly Insert[],
  fromMs: number,
): { gapMs: number; gapAfterMs: number; failed: number } {
  const since = inserts.filter(({ atMs, tookMs }) => atMs + tookMs >= fromMs);
  const done = since.filter(({ isOk }) => isOk).map(({ atMs, tookMs }) => atMs + tookMs);
  const steps = done.map((ms, index) => ms - (done[index - 1] ?? fromMs));
  const gapMs = Math.max(0, ...steps);
  const end = done[steps.indexOf(gapMs)] ?? fromMs;
  return {
    gapMs: Math.round(gapMs),
    gapAfterMs: Math.round(end - gapMs - fromMs),
    failed: since.filter(({ isOk }) => !isOk).length,
  };
}

export interface Tenure {
  readonly host: string;
  readonly epoch: number;
  /** Of the machine's clock since its boot. */
  readonly firstMs: number;
  readonly lastMs: number;
}

/** When a server ran where, by its own account, from the logs of its containers; by time. */
export async function tenuresOn(hosts: readonly LocalHost[]): Promise<readonly Tenure[]> {
  const script =
    'for id in $(docker ps -aq --filter label=trellis.service=database); do docker logs $id 2>/dev/null | grep "^beat"; done; true';
  const all = await Promise.all(
    hosts.map(async (host) => {
      const found = new Map<number, Tenure>();
      for (const line of (await host.mustExec(script)).split('\n')) {
        const [, epochText, upText] = line.split(' ');
        if (upText === undefined) continue;
        const [epoch, atMs] = [Number(epochText), Number(upText) * 1_000];
        const known = found.get(epoch);
        const [firstMs, lastMs] = [known?.firstMs ?? atMs, known?.lastMs ?? atMs];
        found.set(epoch, {
          host: host.name,
          epoch,
          firstMs: Math.min(firstMs, atMs),
          lastMs: Math.max(lastMs, atMs),
        });
      }
      return [...found.values()];
    }),
  );
  return all.flat().toSorted((a, b) => a.firstMs - b.firstMs);
}

/** Numbers in the table, asked of the server under its name. */
export async function rowsIn(
  host: LocalHost,
  server: { readonly name: string; readonly port: number },
): Promise<ReadonlySet<number>> {
  const psql = ['psql', '-h', server.name, '-p', String(server.port), '-U', 'postgres', '-At'];
  const out = await host.mustExec([...psql, '-c', 'select number from written'], {
    env: { PGCONNECT_TIMEOUT: '5' },
  });
  return new Set(
    out
      .split('\n')
      .filter((line) => line !== '')
      .map(Number),
  );
}
