import { describe, expect, test } from 'vitest';
import { parseDesiredFile } from '../../../crdt/desired-file.ts';
import {
  formatDuration,
  formatSize,
  parseCpu,
  parseDuration,
  parseSize,
} from '../../../crdt/durations.ts';

const head = 'apiVersion: trellis/v1\n';

function errorsOf(text: string): string[] {
  const result = parseDesiredFile(text, 'site.yaml');
  return 'errors' in result ? result.errors.map((e) => `${e.line} ${e.code} ${e.message}`) : [];
}

function service(lines: string): string {
  return `${head}services:\n  site:\n    role: web\n    image: demo/site:7.1\n${lines}`;
}

describe('desired-state file', () => {
  test('[trellis:P26] reads everything this release honours, in YAML and as JSON', () => {
    const text = `${head}
roles:
  web: { minHosts: 2 }
  spare:
  lb: { dedicated: true }
services:
  site:
    role: web
    image: demo/site:7.1
    command: [httpd, -f, 80]
    count: { perHost: { max: 1 }, perRole: 4 }
    ports: [ { name: http, container: 80, host: 8080, expose: public } ]
    env: { DB: "{{services.db.host}}:{{services.db.ports.sql}}", N: 08, ON: true }
    resources: { cpu: 500m, memory: 128Mi }
    health: { http: { port: http, path: /healthz }, interval: 2s, timeout: 500ms, retries: 3, startPeriod: 10s }
    dependsOn: [ { service: db, port: sql, onChange: none } ]
    relocatable: yes
    placement: { policy: pack, where: { dc: east } }
    onIsolation: stop
    stopGrace: 5s
    exclusive: false
  db: { role: database, image: demo/db:1, ports: [ { name: sql, container: 5432 } ] }
`;
    const result = parseDesiredFile(text, 'site.yaml');
    expect(result).toEqual({
      ok: {
        fileName: 'site.yaml',
        roles: [{ name: 'lb', isDedicated: true }, { name: 'spare' }, { name: 'web', minHosts: 2 }],
        services: [
          {
            name: 'db',
            role: 'database',
            image: 'demo/db:1',
            ports: [{ name: 'sql', container: 5432 }],
          },
          {
            name: 'site',
            role: 'web',
            image: 'demo/site:7.1',
            command: ['httpd', '-f', '80'],
            count: { perHost: { max: 1 }, perRole: { min: 4, max: 4 } },
            ports: [{ name: 'http', container: 80, host: 8080, expose: 'public' }],
            env: { DB: '{{services.db.host}}:{{services.db.ports.sql}}', N: '08', ON: 'true' },
            resources: { cpu: 0.5, memoryBytes: 128 << 20 },
            health: {
              kind: 'http',
              port: 'http',
              path: '/healthz',
              intervalMs: 2000,
              timeoutMs: 500,
              retries: 3,
              startPeriodMs: 10_000,
            },
            dependsOn: [{ service: 'db', port: 'sql', onChange: 'none' }],
            relocatable: 'yes',
            placement: { policy: 'pack', where: { dc: 'east' } },
            onIsolation: 'stop',
            stopGraceMs: 5000,
          },
        ],
      },
    });
    const json = JSON.stringify(
      { apiVersion: 'trellis/v1', services: { a: { role: 'web', image: 'x' } } },
      null,
      '\t',
    );
    expect(parseDesiredFile(json, 'a.json')).toHaveProperty('ok.services.0.name', 'a');
  });

  test('refuses unknown fields by name and line, with the nearest known one', () => {
    const errors = errorsOf(
      service('    imge: x\n    health: { http: { prt: http } }\n    zzzzzzzz: 1\n'),
    );
    expect(errors[0]).toBe('6 FILE_INVALID unknown field services.site.imge; did you mean image?');
    expect(errors.join('\n')).toContain(
      '7 FILE_INVALID unknown field services.site.health.http.prt; did you mean port?',
    );
    expect(errors.join()).toContain('unknown field services.site.zzzzzzzz; known are role');
  });

  test('refuses one by one what a later release will honour', () => {
    const text = `${service(`    update: { maxUnavailable: 1 }
    files: [ { file: a, mount: /a } ]
    resources: { disk: 1Gi, network: 10Mbit }
    placement: { policy: least-load }
    env: { A: "{{config.log.level}}", B: "{{secret.db}}", C: "{{secret db}}" }
`)}storage: { data: { role: web, driver: external, path: /srv/x } }\nfiles: {}\nconfig: {}\nsites: {}\n`;
    const errors = errorsOf(text);
    expect(errors.every((error) => error.includes('NOT_SUPPORTED'))).toBe(true);
    expect(errors.map((error) => Number(error.split(' ')[0]))).toEqual([
      6, 7, 8, 8, 9, 10, 10, 10, 11, 12, 13, 14,
    ]);
  });

  test('[trellis:P8] [trellis:P36] reads exclusive services and storage', () => {
    const text = `${head}
services:
  db:
    role: database
    image: demo/db:1
    exclusive: true
    follows: dbdata
    lease: { profile: fast, onLoss: freeze, lockDelay: 2s, onDaemonDown: move, preempt: 10m }
  cron:
    role: web
    image: demo/cron:1
    exclusive: true
    lease: { profile: fenced, fence: command, fenceCommand: [/usr/bin/fence, "--off"], preempt: never }
    placement: { policy: order, hosts: [h2, h1], where: { dc: east } }
storage:
  dbdata: { role: database, driver: sync, exclusive: true, path: /srv/db, placement: { policy: score, key: rank } }
  logs: { role: web, path: /srv/logs }
`;
    expect(parseDesiredFile(text, 'f')).toMatchObject({
      ok: {
        services: [
          {
            name: 'cron',
            isExclusive: true,
            lease: {
              profile: 'fenced',
              fence: 'command',
              fenceCommand: ['/usr/bin/fence', '--off'],
              preemptAfterMs: null,
            },
            placement: { policy: 'order', hosts: ['h2', 'h1'], where: { dc: 'east' } },
          },
          {
            name: 'db',
            isExclusive: true,
            follows: 'dbdata',
            lease: {
              profile: 'fast',
              onLoss: 'freeze',
              lockDelayMs: 2_000,
              onDaemonDown: 'move',
              preemptAfterMs: 600_000,
            },
          },
        ],
        storage: [
          {
            name: 'dbdata',
            role: 'database',
            driver: 'sync',
            isExclusive: true,
            path: '/srv/db',
            placement: { policy: 'score', key: 'rank' },
          },
          { name: 'logs', role: 'web', path: '/srv/logs' },
        ],
      },
    });
  });

  test.each([
    ['exclusive: true\n    count: 3', '7 FILE_INVALID services.site.count must be a map'],
    [
      'exclusive: true\n    count: { perRole: 2 }',
      '7 FILE_INVALID services.site.count: an exclusive service has one instance',
    ],
    [
      'exclusive: true\n    count: { perHost: 1 }',
      '7 FILE_INVALID services.site.count: an exclusive service has one instance',
    ],
    ['exclusive: true\n    count: { perRole: 1 }', ''],
    [
      'lease: { profile: fast, onLoss: keep }',
      '6 FILE_INVALID services.site.lease: needs `exclusive: true`',
    ],
    [
      'follows: dta',
      '6 FILE_INVALID services.site.follows: there is no storage named dta; did you',
    ],
    [
      'follows: data\n    count: { perRole: 2 }',
      '7 FILE_INVALID services.site.count: an exclusive',
    ],
    ['follows: far', '6 FILE_INVALID services.site.follows: storage far is of role database'],
    ['follows: free\n    count: { perRole: 2 }', ''],
    ['follows: free\n    lease: { onLoss: keep }', '7 FILE_INVALID services.site.lease: needs'],
    [
      'follows: data\n    lease: { onLoss: keep }',
      '7 FILE_INVALID services.site.lease: is not what',
    ],
    ['follows: data\n    lease: { profile: wan }', ''],
    [
      'follows: data\n    placement: { policy: sticky }',
      '7 FILE_INVALID services.site.placement: is not what storage data says',
    ],
    [
      'placement: { policy: order, hosts: [h1] }',
      '6 FILE_INVALID services.site.placement: policy order is for exclusive work',
    ],
    [
      'exclusive: true\n    placement: { policy: order }',
      '7 FILE_INVALID services.site.placement: policy order needs `hosts`',
    ],
    [
      'exclusive: true\n    placement: { hosts: [h1] }',
      '7 FILE_INVALID services.site.placement.hosts is for policy order or pinned',
    ],
    ['exclusive: true\n    placement: { policy: score }', 'policy score needs `key`'],
    ['exclusive: true\n    placement: { policy: pinned, hosts: [a, a] }', 'names a twice'],
    ['exclusive: true\n    lease: { fence: command }', 'command needs a fenceCommand'],
    ['exclusive: true\n    lease: { fenceCommand: [x] }', 'is only run with `fence: command`'],
    ['exclusive: true\n    lease: { fence: watchdog }', 'write `profile: fenced`'],
    ['exclusive: true\n    lease: { fence: watchdog, profile: fenced }', ''],
    ['exclusive: true\n    lease: { fence: panic, onLoss: keep }', 'choose one'],
    ['exclusive: true\n    lease: { profile: slow }', 'must be fast or wan or fenced'],
    ['exclusive: true\n    lease: { preempt: 5 }', 'must be a duration with a unit'],
    ['exclusive: true\n    lease: { ttl: 5s }', 'unknown field services.site.lease.ttl'],
    ['exclusive: maybe', 'must be true or false'],
  ])('exclusive: %s', (lines, words) => {
    const storage = `storage:
  data: { role: web, exclusive: true, path: /srv/data, lease: { profile: wan }, placement: { policy: load } }
  far: { role: database, exclusive: true, path: /srv/data }
  free: { role: web, path: /srv/free }
`;
    const errors = errorsOf(`${service(`    ${lines}\n`)}${storage}`).join('\n');
    if (words === '') expect(errors).toBe('');
    else expect(errors).toContain(words);
  });

  test.each([
    ['path: /srv/db', ''],
    ['path: /srv/db/', 'letters, digits'],
    ['path: srv/db', 'must be absolute'],
    ['path: /srv/../etc', 'must not hold . or ..'],
    ['path: /srv//db', 'single slashes'],
    ['path: "/srv/a b"', 'letters, digits'],
    ['path: "/srv/a:b"', 'letters, digits'],
    ['path: /', 'is shared by others'],
    ['path: /srv', 'use a directory of its own below /srv'],
    ['path: /etc', 'is in /etc, which belongs to the system'],
    ['path: /etc/db', 'is in /etc'],
    ['path: /var/lib/docker/volumes', 'is in /var/lib/docker'],
    ['path: /var/lib', 'is shared by others'],
    ['path: /var/lib/trellis', 'is in /var/lib/trellis'],
    ['path: /run/db', 'is in /run'],
    ['path: /home/db', ''],
    ['path: /var/lib/db', ''],
    ['driver: sync, path: /srv/db', 'write `exclusive: true`'],
    ['driver: zfs, path: /srv/db', 'must be local or sync'],
    ['path: /srv/db, lease: { profile: wan }', 'storage.db.lease needs `exclusive: true`'],
    ['path: /srv/db, placement: { where: { dc: a } }', 'storage.db.placement needs'],
    ['path: /srv/db, size: 5', 'unknown field storage.db.size'],
    ['exclusive: true', 'storage.db.path is missing'],
  ])('storage: %s', (fields, words) => {
    const errors = errorsOf(`${head}storage:\n  db: { role: a, ${fields} }\n`);
    if (words === '') expect(errors).toEqual([]);
    else expect(errors.join()).toMatch(/^3 FILE_INVALID/);
    expect(errors.join()).toContain(words);
  });

  test('directories of one role may not overlap, wherever the name sorts', () => {
    const storage = (lines: string) => errorsOf(`${head}storage:\n${lines}`);
    const overlap = storage(
      '  a: { role: x, path: /srv/db/in }\n  b: { role: x, path: /srv/db }\n  c: { role: x, path: /srv/db-2 }\n  d: { role: y, path: /srv/db }\n',
    );
    expect(overlap).toEqual([
      '3 FILE_INVALID storage.a.path: /srv/db/in overlaps /srv/db of storage b on hosts of role x',
    ]);
  });

  test('reports all errors at once, sorted by line', () => {
    const errors = errorsOf(
      service(`    count: { perHost: { min: 3, max: 1 } }
    ports:
      - { name: http, container: 70000 }
      - { name: HTTP, container: 80 }
      - { name: a, container: 80, host: 8080 }
      - { name: a, container: 81, host: 8080 }
      - { name: c, container: 81, host: 20001 }
      - { name: d, container: 81, expose: public }
    env: { 1A: x, B: null, C: "{{services.site.prts.a}}", D: "{{services.sit.host}}", E: "{{services.site.ports.zz}}" }
    resources: { cpu: -1, memory: 12 }
    health: { tcp: { port: zz }, interval: 2 }
    dependsOn: [ { service: site }, { service: nowhere } ]
    stopGrace: 5
    relocatable: maybe
    command: httpd -f
`),
    );
    expect(errors.map((error) => error.split(' ')[0])).toEqual([
      '6',
      '8',
      '9',
      '11',
      '11',
      '12',
      '13',
      '14',
      '14',
      '14',
      '14',
      '14',
      '15',
      '15',
      '16',
      '16',
      '17',
      '17',
      '18',
      '19',
      '20',
    ]);
    expect(errors.join('\n')).toContain('there is no service named sit; did you mean site?');
  });

  test('finds circles and references to what exists already', () => {
    const text = `${head}services:
  a: { role: r, image: i, dependsOn: [ { service: b } ] }
  b: { role: r, image: i, dependsOn: [ { service: c } ] }
`;
    const existing = (dependsOn: { service: string }[]) => ({
      services: new Map([['c', { ports: [{ name: 'x' }], dependsOn }]]),
    });
    expect(errorsOf(text).join()).toContain('no service named c');
    expect(parseDesiredFile(text, 'f', existing([]))).toHaveProperty('ok');
    const circle = parseDesiredFile(text, 'f', existing([{ service: 'a' }]));
    expect(JSON.stringify(circle)).toContain('services a, b, c depend on each other in a circle');
  });

  test.each([
    ['', 'is empty'],
    ['[1, 2', 'Flow sequence'],
    ['a: 1\na: 2\n', 'a is there twice'],
    ['a: *x\n', '*x stands for nothing above it'],
    ['a: &a [*a]\n', '*a stands for nothing above it'],
    ['[1]', 'the file must be a map'],
    ['apiVersion: v2\n', 'apiVersion must be trellis/v1'],
    ['services: {}\n', 'apiVersion is missing'],
    [`${head}services: []\n`, 'services must be a map of names'],
    [
      `${head}services: { Site: { role: a, image: b } }\n`,
      'service name must be 1 to 63 lower-case',
    ],
    [`${head}services: { site: }\n`, 'services.site must be a map'],
    [`${head}services: { site: {} }\n`, 'services.site.role is missing'],
    ['? [a]\n: 1\n', 'a key must be a plain word'],
    ['a: 1\n---\nb: 1\n', 'multiple documents'],
    ['a: !x 1\n', 'tag'],
    ['['.repeat(100_000), 'nested too deeply'],
    ['- '.repeat(4_000), 'nested too deeply'],
    ['&a '.repeat(100_000), 'anchors'],
    [' '.repeat((8 << 20) + 1), 'larger than 8 MB'],
  ])('refuses %#', (text, words) => {
    expect(errorsOf(text).join('\n')).toContain(words);
  });

  test('refuses alias bombs before they grow, and shares harmless aliases', () => {
    const names = 'abcdefghij'.split('');
    const bomb = names
      .map(
        (name, i) =>
          `${name}: &${name} [${Array.from({ length: 9 }, () => (i === 0 ? 'x' : `*${names[i - 1]}`)).join(',')}]`,
      )
      .join('\n');
    expect(errorsOf(bomb)).toEqual([expect.stringContaining('grows to more than 1000000 values')]);
    const text = `${head}services:\n  a: &base { role: r, image: i, env: &env { A: x } }\n  b: { role: r, image: i, env: *env }\n  c: *base\n`;
    expect(parseDesiredFile(text, 'f')).toHaveProperty('ok.services.2.env', { A: 'x' });
  });

  test('bounds the number of errors, ports and services', () => {
    const many = `${head}${Array.from({ length: 5_000 }, (_, i) => `k${i}: 1`).join('\n')}\n`;
    expect(errorsOf(many)).toHaveLength(201);
    const ports = Array.from({ length: 65 }, (_, i) => `{ name: p${i}, container: 80 }`).join(', ');
    expect(errorsOf(service(`    ports: [ ${ports} ]\n`)).join()).toContain('more than 64 items');
  });

  test('leaves templates of other tools alone', () => {
    expect(errorsOf(service('    command: [ps, --format, "{{.Names}} {{ .ID }}"]\n'))).toEqual([]);
    expect(errorsOf(service('    env: { A: "{{services.site.host" }\n')).join()).toContain(
      'not closed',
    );
  });
});

test('durations, sizes and cores', () => {
  expect(['2s', '500ms', '1m', '1h30m', '1.5s', '0'].map(parseDuration)).toEqual([
    2000, 500, 60_000, 5_400_000, 1500, 0,
  ]);
  expect(['2', 's', '-1s', '2 s', '', '1.5ms', 2, null].map(parseDuration)).toEqual(
    Array(8).fill(null),
  );
  expect(['128Mi', '1Gi', '64M', '1.5Gi', '5', 7, '1GB'].map(parseSize)).toEqual([
    128 << 20,
    1 << 30,
    64e6,
    1.5 * 2 ** 30,
    5,
    7,
    1e9,
  ]);
  expect(['Mi', '-1', '1X', '1.0000001Ki', 1.5].map(parseSize)).toEqual(Array(5).fill(null));
  expect([0.5, '500m', '2', '1.25'].map(parseCpu)).toEqual([0.5, 0.5, 2, 1.25]);
  expect([-1, 'x', 0.0001, Number.NaN].map(parseCpu)).toEqual(Array(4).fill(null));
  for (const ms of [0, 1, 500, 2000, 60_000, 90_000, 86_400_000])
    expect(parseDuration(formatDuration(ms))).toBe(ms);
  for (const bytes of [0, 1, 1000, 1024, 64e6, 128 << 20])
    expect(parseSize(formatSize(bytes))).toBe(bytes);
});
