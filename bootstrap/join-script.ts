/**
 * The way from a bare machine to a member: the installer script that every member serves, the one line that starts it,
 * and the same as cloud-init user data.
 *
 * The line trusts nothing before it is checked: it carries the cluster's certificate, and curl must see a member's
 * certificate signed by it before a byte of the script is run. The code travels on standard input, never as an argument
 * or in an environment that other users of the machine could read.
 */
import type { InvitationForm } from '../daemon/trust/invites.ts';
import { readFileSync } from 'node:fs';
import { hostMinimums, type Minimums } from '../crdt/minimums.ts';
import { ClusterError } from '../daemon/errors.ts';

export interface JoinTarget {
  /** The certificate that signs every member's API certificate, PEM. Public. */
  readonly caPem: string;
  /** A DNS label; members answer as '<name>.trellis.internal'. */
  readonly clusterName: string;
  /** 'address:port' or '[v6]:port' of HTTPS APIs, tried in this order. */
  readonly peers: readonly string[];
}

const peersMax = 16;
/** Peers and API, as `trellis daemon` has them. */
const daemonPorts = [7440, 8443];
const domain = 'trellis.internal';

/** What `/join` answers (text/x-shellscript). Holds nothing secret. Fails with INVALID when a value cannot be quoted. */
export function renderJoinScript(
  target: JoinTarget & {
    readonly minimums?: Minimums;
    /** TCP ports that must be free on the host; the default is what `trellis daemon` listens on. */
    readonly ports?: readonly number[];
  },
): string {
  const {
    caPem,
    clusterName,
    peers,
    minimums = hostMinimums,
    ports = daemonPorts,
  } = checked(target);
  const values: Readonly<Record<string, string>> = {
    CLUSTER: clusterName,
    SERVER_NAME: `${clusterName}.${domain}`,
    PEERS: peers.join(' '),
    MIN_CPUS: String(minimums.cpuCount),
    MIN_MEMORY_MIB: String(Math.floor(minimums.memoryBytes / 2 ** 20)),
    MIN_DISK_MIB: String(Math.floor(minimums.diskFreeBytes / 2 ** 20)),
    MIN_KERNEL: minimums.kernel,
    MIN_ENGINE: minimums.engine,
    PORTS: ports.join(' '),
    CA_PEM: caPem.trim(),
    COMMON: beside('install-common.sh').trim(),
  };
  return beside('join.sh.template').replaceAll(/@([A-Z_]+)@/g, (_, name: string) => {
    const value = values[name];
    if (value === undefined)
      throw new ClusterError('INTERNAL', { reason: `join script: no value for ${name}` });
    return value;
  });
}

/**
 * One line for a root shell, or for a user who may use sudo: works in sh, bash and zsh with curl 7.49 or newer.
 * It runs in a subshell, so that the code stays in no variable of the shell it was typed into.
 */
export function renderJoinCommand(
  target: JoinTarget & { readonly code: string; readonly options?: readonly string[] },
): string {
  const { caPem, clusterName, peers } = checked(target);
  const { code, options } = checkedCode(target);
  const fetch = `curl -qfsS --noproxy '*' --cacert /dev/stdin --capath /none --connect-timeout 5 --connect-to "::$p"`;
  return (
    `(c=${code}; for p in ${peers.map(quotedPeer).join(' ')}; do ` +
    `s=$(printf '%s\\n' ${pemLines(caPem)} | ${fetch} https://${clusterName}.${domain}/join) && break; done; ` +
    `[ -n "$s" ] && printf 'code=%s\\n%s\\n' "$c" "$s" | $([ "$(id -u)" = 0 ] || echo sudo) sh${asArguments(options)})`
  );
}

/** The same for machines without curl: openssl checks the certificate, the rest is the same script. */
export function renderJoinCommandWithoutCurl(
  target: JoinTarget & { readonly code: string; readonly options?: readonly string[] },
): string {
  const { caPem, clusterName, peers } = checked(target);
  const { code, options } = checkedCode(target);
  const name = `${clusterName}.${domain}`;
  const fetch =
    `openssl s_client -quiet -connect "$p" -servername ${name} -verify_hostname ${name} ` +
    `-verify_return_error -no-CApath -CAfile "$f" 2>/dev/null`;
  return (
    `(c=${code}; f=$(mktemp); printf '%s\\n' ${pemLines(caPem)} >"$f"; for p in ${peers.map(quotedPeer).join(' ')}; do ` +
    `s=$(printf 'GET /join HTTP/1.0\\r\\nHost: ${name}\\r\\n\\r\\n' | ${fetch} | sed '1,/^.$/d'); ` +
    `case $s in '#!/bin/sh'*) break ;; *) s= ;; esac; done; rm -f "$f"; [ -n "$s" ] && printf 'code=%s\\n%s\\n' "$c" "$s" | $([ "$(id -u)" = 0 ] || echo sudo) sh${asArguments(options)})`
  );
}

/**
 * cloud-init user data that does what the line does. Cloud-init keeps user data on the host's disk: use an invite with
 * one use and a short life.
 */
export function renderCloudInit(
  target: JoinTarget & { readonly code: string; readonly options?: readonly string[] },
): string {
  const line = renderJoinCommand(target);
  return [
    '#cloud-config',
    'write_files:',
    '  - path: /run/trellis-join.sh',
    "    permissions: '0700'",
    '    content: |',
    '      #!/bin/sh',
    `      ${line}`,
    'runcmd:',
    '  - [sh, /run/trellis-join.sh]',
    '  - [rm, -f, /run/trellis-join.sh]',
    '',
  ].join('\n');
}

export function renderInvitation(
  target: JoinTarget & { readonly code: string },
  form: InvitationForm,
): string {
  switch (form) {
    case 'curl':
      return renderJoinCommand(target);
    case 'openssl':
      return renderJoinCommandWithoutCurl(target);
    case 'cloud-init':
      return renderCloudInit(target);
  }
}

function checked<T extends JoinTarget>(target: T): T {
  const { caPem, clusterName, peers } = target;
  const isPem = /^-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+\n-----END CERTIFICATE-----$/.test(
    caPem.trim(),
  );
  if (!isPem)
    throw new ClusterError('INVALID', {
      reason: 'the cluster certificate is not one PEM certificate',
    });
  if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(clusterName)) {
    throw new ClusterError('INVALID', { reason: `cluster name ${clusterName} is not a DNS label` });
  }
  if (peers.length === 0)
    throw new ClusterError('INVALID', { reason: 'no address of a member is known' });
  const bad = peers.find((peer) => !/^(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):\d{1,5}$/.test(peer));
  if (bad !== undefined)
    throw new ClusterError('INVALID', { reason: `${bad} is not ADDRESS:PORT` });
  return { ...target, peers: peers.slice(0, peersMax) };
}

function checkedCode({
  code,
  options = [],
}: {
  readonly code: string;
  readonly options?: readonly string[];
}): {
  code: string;
  options: readonly string[];
} {
  if (!/^[A-Za-z0-9_-]{1,200}$/.test(code))
    throw new ClusterError('INVALID', { reason: 'malformed code' });
  const bad = options.find((option) => !/^[A-Za-z0-9.:=_-]+$/.test(option));
  if (bad !== undefined)
    throw new ClusterError('INVALID', { reason: `option ${bad} cannot stand in the line` });
  return { code, options };
}

function asArguments(options: readonly string[]): string {
  return options.length === 0 ? '' : ` -s -- ${options.join(' ')}`;
}

/** zsh would take brackets for a pattern. */
function quotedPeer(peer: string): string {
  return peer.startsWith('[') ? `'${peer}'` : peer;
}

/** As arguments of printf: a PEM reader wants its lines. */
function pemLines(pem: string): string {
  return pem
    .trim()
    .split('\n')
    .map((line) => (line.startsWith('-') ? `'${line}'` : line))
    .join(' ');
}

/** Files beside this one in a clone, and beside the daemon in a bundle. */
function beside(name: string): string {
  return readFileSync(new URL(name, import.meta.url), 'utf8');
}
