/** Small images made on the spot, because a testbed reaches no registry: busybox, the files a test wants, a command. */
import type { LocalHost } from '../../bootstrap/local-cluster/local-host.ts';

export interface ImageOptions {
  /** Path in the image to content; those below /bin or starting with '#!' are executable. */
  readonly files?: Readonly<Record<string, string | Uint8Array>>;
  /** Default: sleep for ever, obeying SIGTERM. */
  readonly command?: readonly string[];
  /** Programs and libraries of this machine with the libraries they need, e.g. '/usr/bin/curl'. */
  readonly programs?: readonly string[];
  /** Directories of this machine, copied whole to the same place. */
  readonly trees?: readonly string[];
  /** Further lines of a Dockerfile for `docker import --change`, e.g. 'EXPOSE 80'. */
  readonly changes?: readonly string[];
}

let count = 0;

/** Makes `reference` on the host's engine; about 2 MB and 100 ms. Returns the image id. */
export async function makeImage(
  host: LocalHost,
  reference: string,
  options: ImageOptions = {},
): Promise<string> {
  const root = `/run/testbed/image-${++count}`;
  await host.mustExec(`
    mkdir -p ${root}/bin ${root}/etc ${root}/tmp ${root}/dev ${root}/proc ${root}/sys ${root}/root
    cp /bin/busybox ${root}/bin/ && chroot ${root} /bin/busybox --install -s /bin
    echo 'root:x:0:0:root:/root:/bin/sh' > ${root}/etc/passwd
    for program in ${(options.programs ?? []).join(' ')}; do
      ldd "$program" | grep -o '/[^ ]*' | while read -r lib; do mkdir -p "${root}$(dirname "$lib")"; cp -L "$lib" "${root}$lib"; done
      mkdir -p "${root}$(dirname "$program")"; cp -L "$program" "${root}$program"
    done
    for tree in ${(options.trees ?? []).join(' ')}; do
      mkdir -p "${root}$(dirname "$tree")"; cp -a "$tree" "${root}$tree"
    done`);
  for (const [path, content] of Object.entries(options.files ?? {})) {
    const isProgram =
      path.startsWith('/bin/') || (typeof content === 'string' && content.startsWith('#!'));
    host.writeFile(`${root}${path}`, content, isProgram ? 0o755 : 0o644);
  }
  const command = options.command ?? [
    'sh',
    '-c',
    'trap exit TERM; while :; do sleep 86400 & wait $!; done',
  ];
  const changes = [
    `CMD ${JSON.stringify(command)}`,
    'ENV PATH=/bin:/usr/bin',
    ...(options.changes ?? []),
  ];
  const flags = changes.map((change) => `--change '${change.replaceAll("'", `'\\''`)}'`).join(' ');
  const id = await host.mustExec(`tar -C ${root} -c . | docker import ${flags} - ${reference}`, {
    timeoutMs: 60_000,
  });
  await host.mustExec(['rm', '-rf', root]);
  return id.trim();
}

/** A web server on port 80 whose /index.html is `text` and /hostname the container's name. */
export function webImage(host: LocalHost, reference: string, text: string): Promise<string> {
  return makeImage(host, reference, {
    files: {
      '/www/index.html': `${text}\n`,
      '/bin/serve':
        '#!/bin/sh\nhostname > /www/hostname\nhttpd -f -p 80 -h /www &\ntrap exit TERM\nwait\n',
    },
    command: ['/bin/serve'],
    changes: ['EXPOSE 80'],
  });
}
