import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ClusterId, HostId } from '../../crdt/ids.ts';
import { virtualAddressOf } from '../../crdt/virtual-address.ts';
import type { ServiceRoute } from '../../plugins/api.ts';
import { renderHostsBlock, replaceHostsBlock } from '../../plugins/names/hosts-block.ts';
import { chainsOf, renderRules, restoreText, type RuleInputs } from '../../plugins/names/rules.ts';
import { isIpv4, usableRoutes } from '../../plugins/names/usable-routes.ts';

const hex = (length: number) => fc.stringMatching(new RegExp(`^[0-9a-f]{${length}}$`));
const hostId = hex(32) as fc.Arbitrary<HostId>;
const address = fc
  .tuple(fc.nat(255), fc.nat(255), fc.nat(255), fc.nat(255))
  .map((parts) => parts.join('.'));
const name = fc.stringMatching(/^[a-z][a-z0-9-]{0,10}[a-z0-9]$/);

const port = fc.record({
  name,
  protocol: fc.constantFrom('tcp' as const, 'udp' as const),
  number: fc.integer({ min: 20_000, max: 20_030 }),
  container: fc.integer({ min: 1, max: 65_535 }),
  local: fc.uniqueArray(address, { maxLength: 4 }),
  remote: fc.uniqueArray(address, { maxLength: 4 }),
});
const routes: fc.Arbitrary<ServiceRoute[]> = fc.uniqueArray(
  fc
    .record({
      service: name,
      ports: fc.uniqueArray(port, { maxLength: 4, selector: (entry) => entry.name }),
    })
    .map((route) => ({
      ...route,
      name: `${route.service}.prod.internal`,
    })),
  { maxLength: 6, selector: (route) => route.service },
);
const virtualAddress = '169.254.71.12';
const advertise = '10.44.0.1';

function inputsOf(
  all: readonly ServiceRoute[],
  id: HostId,
  changes: Partial<RuleInputs> = {},
): RuleInputs {
  return {
    hostId: id,
    virtualAddress,
    advertise,
    routes: usableRoutes({ routes: all, advertise }).routes,
    isAdvertiseLocal: true,
    bridgeSubnets: ['172.30.1.0/24'],
    taken: new Set(),
    ...changes,
  };
}

describe('virtual address', () => {
  it('is link-local, outside the reserved blocks and not the metadata address [trellis:R8]', () => {
    fc.assert(
      fc.property(hex(32), (id) => {
        const parts = virtualAddressOf(id as ClusterId)
          .split('.')
          .map(Number);
        expect(parts.slice(0, 2)).toEqual([169, 254]);
        expect(parts[2]).toBeGreaterThan(0);
        expect(parts[2]).toBeLessThan(255);
        expect(parts[3]).toBeGreaterThan(0);
        expect(parts[3]).toBeLessThan(255);
        expect(parts.join('.')).not.toBe('169.254.169.254');
      }),
    );
  });

  it('is not the metadata address even for the cluster that would get it', () => {
    const number = (169 - 1) * 254 + (254 - 1);
    expect(virtualAddressOf(number.toString(16).padStart(12, '0') as ClusterId)).toBe(
      '169.254.169.253',
    );
  });
});

describe('renderRules', () => {
  it('names only our own chains, in rules and in jumps', () => {
    fc.assert(
      fc.property(routes, hostId, (all, id) => {
        const rules = renderRules(inputsOf(all, id));
        const chains = Object.values(chainsOf(id)) as string[];
        expect(chains.every((chain) => chain.length <= 28 && chain.endsWith(id.slice(0, 8)))).toBe(
          true,
        );
        for (const rule of [...rules.nat, ...rules.filter])
          expect(chains).toContain(rule.split(' ')[1]);
        for (const jump of rules.jumps) expect(chains).toContain(jump.to);
        for (const line of restoreText(rules, { nat: [], filter: [] }).split('\n')) {
          if (line.startsWith(':')) expect(chains).toContain(line.slice(1).split(' ')[0]);
        }
      }),
    );
  });

  it('is the same for every order of services, ports and addresses', () => {
    const shuffled = fc.tuple(routes, fc.infiniteStream(fc.nat(1000))).map(([all, numbers]) => {
      const next = () => numbers.next().value as number;
      const mix = <T>(list: readonly T[]) =>
        list
          .map((item) => [next(), item] as const)
          .toSorted((a, b) => a[0] - b[0])
          .map(([, item]) => item);
      const changed = mix(all).map((route) => ({
        ...route,
        ports: mix(route.ports).map((entry) => ({
          ...entry,
          local: mix(entry.local),
          remote: mix(entry.remote),
        })),
      }));
      return [all, changed] as const;
    });
    fc.assert(
      fc.property(shuffled, hostId, ([all, changed], id) => {
        expect(renderRules(inputsOf(changed, id))).toEqual(renderRules(inputsOf(all, id)));
      }),
    );
  });

  it('gives every target of the virtual address the same share, and loses no connection', () => {
    fc.assert(
      fc.property(routes, hostId, fc.option(address), (all, id, sender) => {
        const inputs = inputsOf(all, id);
        const { nat } = renderRules(inputs);
        for (const { port: entry } of inputs.routes) {
          const outside = shares(nat, entry, null);
          const count = entry.local.length + entry.remote.length;
          const total = [...outside.values()].reduce((sum, share) => sum + share, 0);
          expect(total).toBeCloseTo(count === 0 ? 0 : 1, 6);
          for (const share of outside.values()) expect(share).toBeCloseTo(1 / count, 6);
          // A container that is a target itself reaches the others, and loses none either.
          for (const source of [...entry.local, ...(sender === null ? [] : [sender])]) {
            const own = shares(nat, entry, source);
            expect([...own.values()].reduce((sum, share) => sum + share, 0)).toBeCloseTo(
              count === 0 ? 0 : 1,
              6,
            );
            if (count > 1 && entry.local.includes(source))
              expect(own.has(`${source}:${entry.container}`)).toBe(false);
          }
        }
      }),
    );
  });

  it('lets others in to local containers only, and not where the number is taken', () => {
    fc.assert(
      fc.property(routes, hostId, fc.boolean(), (all, id, isAdvertiseLocal) => {
        const inputs = inputsOf(all, id, { isAdvertiseLocal });
        const taken = new Set(
          inputs.routes.slice(0, 1).map((route) => `${route.port.protocol}/${route.port.number}`),
        );
        const { nat } = renderRules({ ...inputs, taken });
        const inbound = nat.filter(
          (rule) =>
            !rule.includes(`-d ${virtualAddress}/32`) && rule.includes('DNAT --to-destination'),
        );
        const local = new Set(
          inputs.routes.flatMap(({ port: { local: own, container } }) =>
            own.map((to) => `${to}:${container}`),
          ),
        );
        for (const rule of inbound) {
          expect(local).toContain(rule.split(' ').at(-1));
          expect(rule).toContain(isAdvertiseLocal ? `-d ${advertise}/32` : '--dst-type LOCAL');
          for (const key of taken) {
            const [protocol, number] = key.split('/');
            expect(rule.includes(`-p ${protocol} `) && rule.includes(`--dport ${number} `)).toBe(
              false,
            );
          }
        }
      }),
    );
  });

  it('lets nothing of hostile facts into the text', () => {
    const hostile = fc.oneof(
      fc.string(),
      fc.constantFrom('1.2.3.4\n-A INPUT -j DROP', '1.2.3.4/0', '1.2.3.4 -j X', '010.1.1.1'),
    );
    fc.assert(
      fc.property(
        fc.array(hostile),
        fc.array(hostile),
        hostile,
        hostId,
        (local, remote, text, id) => {
          const all = [
            {
              service: text,
              name: text,
              ports: [
                {
                  name: text,
                  protocol: 'tcp' as const,
                  number: 20_001,
                  container: 80,
                  local,
                  remote,
                },
              ],
            },
          ];
          const { nat, filter } = renderRules(inputsOf(all, id));
          for (const rule of [...nat, ...filter]) {
            expect(rule).toMatch(/^[A-Za-z0-9 !."/:_-]+$/);
            const to = / --to-destination (.*)$/.exec(rule)?.[1];
            if (to !== undefined) expect(isIpv4(to.split(':')[0] ?? '')).toBe(true);
          }
          const block = renderHostsBlock({ hostId: id, virtualAddress, routes: all });
          expect(block.split('\n').length).toBeLessThanOrEqual(4);
        },
      ),
    );
  });
});

/** Share of new connections that each target gets, walking the rules as the kernel does. */
function shares(
  nat: readonly string[],
  port: { protocol: string; number: number },
  source: string | null,
): Map<string, number> {
  const found = new Map<string, number>();
  let left = 1;
  for (const rule of nat) {
    if (
      !rule.includes(`-d ${virtualAddress}/32 -p ${port.protocol} `) ||
      !rule.includes(`--dport ${port.number} `)
    )
      continue;
    const only = / (! )?-s (\S+)\/32 /.exec(rule);
    if (only && (only[2] === source) === (only[1] !== undefined)) continue;
    const share = left * Number(/--probability (\S+)/.exec(rule)?.[1] ?? 1);
    const to = rule.split(' ').at(-1) as string;
    found.set(to, (found.get(to) ?? 0) + share);
    left -= share;
    if (left <= 0) break;
  }
  return found;
}

describe('hosts block', () => {
  const line = fc.oneof(
    fc.constantFrom('127.0.0.1 localhost', '', '# comment', '# end trellis', '10.0.0.1 a b', '\t'),
    fc.string({ maxLength: 20 }),
  );
  const file = fc
    .tuple(fc.array(line), fc.constantFrom('\n', ''))
    .map(([lines, end]) => lines.join('\n') + end);

  it('comes and goes without changing any other byte', () => {
    fc.assert(
      fc.property(file, hostId, routes, routes, (text, id, first, second) => {
        const blockOf = (all: ServiceRoute[]) =>
          renderHostsBlock({ hostId: id, virtualAddress, routes: all });
        const once = replaceHostsBlock(text, id, blockOf(first));
        expect(once.startsWith(text)).toBe(true);
        expect(replaceHostsBlock(once, id, blockOf(first))).toBe(once);
        const twice = replaceHostsBlock(once, id, blockOf(second));
        expect(replaceHostsBlock(twice, id, '')).toBe(text);
      }),
    );
  });

  it('keeps what others wrote around it, and other daemons their blocks', () => {
    fc.assert(
      fc.property(file, file, hostId, hostId, routes, (before, after, id, other, all) => {
        fc.pre(id.slice(0, 8) !== other.slice(0, 8) && all.length > 0);
        const block = renderHostsBlock({ hostId: id, virtualAddress, routes: all });
        const theirs = renderHostsBlock({ hostId: other, virtualAddress, routes: all });
        const start = before === '' || before.endsWith('\n') ? before : `${before}\n`;
        const text = start + theirs + block + after;
        expect(replaceHostsBlock(text, id, '')).toBe(start + theirs + after);
      }),
    );
  });

  it('does not swallow the lines after a block whose end was lost', () => {
    const id = 'ab'.repeat(16) as HostId;
    const block = renderHostsBlock({
      hostId: id,
      virtualAddress,
      routes: [{ service: 'a', name: 'a.p.internal', ports: [] }],
    });
    const torn = `127.0.0.1 localhost\n${block.split('\n').slice(0, 2).join('\n')}\n10.0.0.1 mine\n`;
    expect(replaceHostsBlock(torn, id, '')).toBe('127.0.0.1 localhost\n10.0.0.1 mine\n');
  });
});
