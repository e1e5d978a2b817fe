import { describe, expect, it } from 'vitest';
import { bridgesOf, parseSockets, subnetOf } from '../../plugins/names/host-network.ts';
import { jumpEdits, parseTable } from '../../plugins/names/iptables.ts';
import { parseNamesConfig } from '../../plugins/names/names.ts';
import { chainsOf, jumpsOf, probability } from '../../plugins/names/rules.ts';
import { parseState } from '../../plugins/names/state.ts';
import { isIpv4, isSubnet, usableRoutes } from '../../plugins/names/usable-routes.ts';
import type { HostId } from '../../crdt/ids.ts';

const chains = chainsOf('0123456789abcdef0123456789abcdef' as HostId);
const jumps = jumpsOf(chains);
const empty = parseTable('');

describe('jumps', () => {
  it('come first, and last of the operator rules where the engine made its own chain', () => {
    const filter = parseTable(
      ':FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -s 1.2.3.4/32 -j DROP\n-A DOCKER-USER -j RETURN\n',
    );
    expect(jumpEdits(jumps, { nat: empty, filter })).toEqual({
      nat: [
        `-I PREROUTING 1 -j ${chains.nat}`,
        `-I OUTPUT 1 -j ${chains.nat}`,
        `-I POSTROUTING 1 -j ${chains.post}`,
      ],
      filter: [`-I FORWARD 1 -j ${chains.forward}`, `-I DOCKER-USER 2 -j ${chains.forward}`],
    });
  });

  it('are left alone when they are there, wherever, and taken out when doubled', () => {
    const nat = parseTable(
      `-A PREROUTING -j X\n-A PREROUTING -j ${chains.nat}\n-A OUTPUT -j ${chains.nat}\n-A OUTPUT -j ${chains.nat}\n-A POSTROUTING -j ${chains.post}\n`,
    );
    const filter = parseTable(
      `:DOCKER-USER - [0:0]\n-A FORWARD -j ${chains.forward}\n-A DOCKER-USER -j ${chains.forward}\n`,
    );
    expect(jumpEdits(jumps, { nat, filter })).toEqual({
      nat: [`-D OUTPUT -j ${chains.nat}`],
      filter: [],
    });
  });

  it('move ahead of the walls that an engine put before them', () => {
    const behind = `-A FORWARD -j DOCKER-ISOLATION-STAGE-1\n-A FORWARD -j ${chains.forward}\n-A FORWARD -j DOCKER-USER\n`;
    const edits = [`-D FORWARD -j ${chains.forward}`, `-I FORWARD 1 -j ${chains.forward}`];
    const user = `:DOCKER-USER - [0:0]\n-A DOCKER-USER -j ${chains.forward}\n`;
    expect(jumpEdits(jumps, { nat: empty, filter: parseTable(behind + user) }).filter).toEqual(
      edits,
    );
    const usual = `-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-ISOLATION-STAGE-1\n-A FORWARD -j ${chains.forward}\n`;
    expect(jumpEdits(jumps, { nat: empty, filter: parseTable(usual + user) }).filter).toEqual([]);
  });

  it('end an engine chain that lost its return', () => {
    const filter = parseTable(`:DOCKER-USER - [0:0]\n-A FORWARD -j ${chains.forward}\n`);
    expect(jumpEdits(jumps, { nat: empty, filter }).filter).toEqual([
      `-I DOCKER-USER 1 -j ${chains.forward}`,
    ]);
  });
});

describe('usable routes', () => {
  const port = {
    name: 'http',
    protocol: 'tcp' as const,
    number: 20_001,
    container: 80,
    local: [],
    remote: [],
  };

  it('gives a number to one port only and says so', () => {
    const routes = ['b', 'a'].map((service) => ({
      service,
      name: `${service}.p.internal`,
      ports: [port],
    }));
    const { routes: usable, failures } = usableRoutes({ routes, advertise: '10.0.0.1' });
    expect(usable.map(({ service }) => service)).toEqual(['a']);
    expect(failures).toMatchObject([{ item: 'b/http', code: 'CONFLICT', isTransient: false }]);
  });

  it('does not send to this host as if it were another', () => {
    const routes = [
      {
        service: 'a',
        name: 'a.p.internal',
        ports: [{ ...port, remote: ['10.0.0.2', '10.0.0.1'] }],
      },
    ];
    expect(usableRoutes({ routes, advertise: '10.0.0.1' }).routes[0]?.port.remote).toEqual([
      '10.0.0.2',
    ]);
  });

  it.each(['1.2.3', '1.2.3.256', '01.2.3.4', '1.2.3.4 ', '', '::1'])(
    'refuses %j as address',
    (text) => {
      expect(isIpv4(text)).toBe(false);
      expect(isSubnet(`${text}/24`)).toBe(false);
    },
  );
});

describe('host network', () => {
  it('finds listeners on the advertised and on all addresses, of both families', () => {
    const table = [
      '  sl  local_address rem_address   st',
      '   0: 00000000:4E21 00000000:0000 0A 0',
      '   1: 01002C0A:4E22 00000000:0000 0A 0',
      '   2: 0100007F:4E23 00000000:0000 0A 0',
      '   3: 01002C0A:4E24 02002C0A:1F90 01 0',
      '   4: 0000000000000000FFFF000001002C0A:4E25 00000000000000000000000000000000:0000 0A 0',
    ].join('\n');
    expect(parseSockets(table, 'tcp', '10.44.0.1')).toEqual([20_001, 20_002, 20_005]);
  });

  it('knows the bridges that hold containers', () => {
    const interfaces = [
      { name: 'lo', addresses: [{ address: '127.0.0.1', prefixLength: 8 }] },
      { name: 'eth0', addresses: [{ address: '10.0.0.1', prefixLength: 24 }] },
      { name: 'br', addresses: [{ address: '172.30.1.1', prefixLength: 20 }] },
    ];
    expect(bridgesOf(interfaces, ['172.30.2.9'])).toEqual([
      { name: 'br', subnet: '172.30.0.0/20' },
    ]);
    expect(subnetOf('255.255.255.255', 1)).toBe('128.0.0.0/1');
  });
});

it('prints probabilities as the kernel holds them', () => {
  expect([2, 3, 7].map(probability)).toEqual(['0.50000000000', '0.33333333349', '0.14285714272']);
});

it('refuses a configuration that names no program or file', () => {
  expect(parseNamesConfig(undefined)).toEqual({ iptables: 'iptables', hostsFile: '/etc/hosts' });
  expect(() => parseNamesConfig({ iptables: 'a; b' })).toThrow('iptables');
  expect(() => parseNamesConfig({ hostsFile: 'hosts' })).toThrow('hostsFile');
});

it('takes a damaged memory for none', () => {
  expect(parseState('{"v":1,"virtualAdd')).toBeNull();
  expect(parseState('{"v":2}')).toBeNull();
});
