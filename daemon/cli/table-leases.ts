/** Commands about leases, voters and alerts. */
import type { Command, Flag, Positional } from './spec.ts';
import { waitFlags } from './table-cluster.ts';

const leasePositional: Positional = {
  name: 'NAME',
  param: 'name',
  isMany: true,
  complete: 'lease',
};

const nameWords =
  'NAME is `service db`, `storage dbdata`, just `db` where that is one of them, or the whole name that `lease ls --json` shows.';

const forceConfirm = (what: string): Flag => ({
  name: 'confirm',
  kind: 'string',
  value: 'NAME',
  summary: `second confirmation: ${what} once more`,
});

export const leaseCommands: readonly Command[] = [
  {
    words: ['storage', 'ls'],
    section: 'leases',
    summary: 'storage, where it is active, and how far the copies are',
    examples: ['trellis storage ls', 'trellis storage ls --json'],
    call: 'storage/ls',
    view: 'storageLs',
  },
  {
    words: ['lease', 'ls'],
    section: 'leases',
    summary: 'leases and who holds them',
    examples: ['trellis lease ls', 'trellis lease ls --json'],
    call: 'lease/ls',
    view: 'leaseLs',
  },
  {
    words: ['lease', 'show'],
    section: 'leases',
    summary: 'who holds it, who may take over and why not, time left, history',
    about: `${nameWords} Asked of the holder when somebody is logged in, since it alone knows its time and gate.`,
    positionals: [leasePositional],
    examples: ['trellis lease show db', 'trellis lease show service db --json'],
    call: 'lease/show',
    view: 'leaseShow',
  },
  {
    words: ['lease', 'switch'],
    section: 'leases',
    summary: 'let another host take over, in order',
    about:
      `${nameWords} The other host gets ready first; then the workload is stopped here in order and started there. ` +
      'Until it is stopped, whatever goes wrong leaves it where it is.',
    positionals: [leasePositional],
    flags: [
      {
        name: 'to',
        kind: 'string',
        value: 'H',
        summary: 'this host; default: the best that is ready',
        complete: 'host',
      },
    ],
    examples: ['trellis lease switch db', 'trellis lease switch db --to h2 --yes'],
    call: 'lease/switch',
    view: 'leaseMove',
    confirm: async (run) => (await import('./confirm.ts')).whatDryRunSays(run),
  },
  {
    words: ['lease', 'release'],
    section: 'leases',
    summary: 'stop what runs under it and give it up',
    about: `${nameWords} Another candidate may take it; the host that gave it up does not for 15 s.`,
    positionals: [leasePositional],
    examples: ['trellis lease release db', 'trellis lease release db --yes'],
    call: 'lease/release',
    view: 'leaseMove',
    confirm: async (run) => (await import('./confirm.ts')).whatDryRunSays(run),
  },
  {
    words: ['lease', 'freeze'],
    section: 'leases',
    summary: 'no automatic takeover or handover',
    about: `${nameWords} Whoever holds it keeps it; a holder that is lost is still fenced.`,
    positionals: [leasePositional],
    flags: waitFlags,
    examples: ['trellis lease freeze db'],
    call: 'lease/freeze',
    view: 'edited',
  },
  {
    words: ['lease', 'unfreeze'],
    section: 'leases',
    summary: 'automatic takeover again',
    positionals: [leasePositional],
    flags: waitFlags,
    examples: ['trellis lease unfreeze db'],
    call: 'lease/unfreeze',
    view: 'edited',
  },
  ...parkCommands(),
  {
    words: ['lease', 'force-active'],
    section: 'leases',
    summary: 'take it from a host that you declare dead',
    about:
      'For a holder that is gone for good: parked, or one of two voters. If it still runs, two hosts run the workload at ' +
      'once and data may be lost: switch it off first. Needs two confirmations.',
    positionals: [leasePositional],
    flags: [
      {
        name: 'host',
        kind: 'string',
        value: 'H',
        summary: 'who takes it; default: this host',
        complete: 'host',
      },
      forceConfirm('NAME'),
    ],
    examples: ['trellis lease force-active db', 'trellis lease force-active db --yes --confirm db'],
    call: 'lease/force-active',
    view: 'leaseMove',
    handler: () => import('./handlers/force.ts'),
  },
  {
    words: ['lock'],
    section: 'leases',
    summary: 'run a command on one host of the cluster at a time',
    about:
      'Takes the lease `lock/NAME`, runs the command with TRELLIS_EPOCH and TRELLIS_LEASE_DIR in its environment, and gives ' +
      'the lease back when it has ended. When the lease is lost, the command and all it started are frozen and killed in ' +
      'time, and this exits 1. Else the exit code is that of the command; 5: not acquired in time. Needs root.',
    positionals: [
      { name: 'NAME', param: 'name' },
      { name: 'CMD', param: 'cmd', isRest: true, complete: 'file' },
    ],
    flags: [
      {
        name: 'wait',
        kind: 'duration',
        value: 'TIME',
        param: 'waitMs',
        summary: 'how long to wait for it; default 30s',
      },
      {
        name: 'profile',
        kind: 'string',
        value: 'P',
        summary: 'fast (default), wan or fenced',
        complete: ['fast', 'wan', 'fenced'],
      },
    ],
    examples: [
      'trellis lock backup -- /usr/local/bin/backup',
      'trellis lock deploy --wait 2m -- make deploy',
    ],
    handler: () => import('./handlers/lock.ts'),
  },
  ...envCommands(),
  {
    words: ['alert', 'ls'],
    section: 'looking',
    summary: 'what needs a person',
    examples: ['trellis alert ls', 'trellis alert ls --json'],
    call: 'alert/ls',
    view: 'alertLs',
  },
  {
    words: ['alert', 'ack'],
    section: 'looking',
    summary: 'say that an alert has been seen',
    about: 'An edit that all hosts see. An alert that is over and comes back has to be seen again.',
    positionals: [{ name: 'ID', param: 'id', isOptional: true, complete: 'alert' }],
    flags: [{ name: 'all', kind: 'boolean', summary: 'all that nobody has seen yet' }],
    examples: ['trellis alert ack daemon-down:h2', 'trellis alert ack --all'],
    call: 'alert/ack',
    view: 'alertAck',
  },
];

function parkCommands(): Command[] {
  const hostFlag: Flag = {
    name: 'host',
    kind: 'string',
    value: 'H',
    summary: 'everything of this host; default: the one it is run on',
    complete: 'host',
  };
  return [
    {
      words: ['lease', 'park'],
      section: 'leases',
      summary: 'maintenance: keep what a host holds through a stop of everything',
      about:
        'Nobody takes a parked lease over, however long its host is away; its workload may run on. It ends only by unpark ' +
        'on the same host, or by force-active.',
      positionals: [{ ...leasePositional, isOptional: true }],
      flags: [hostFlag],
      examples: ['trellis lease park', 'trellis lease park db', 'trellis lease park --host h2'],
      call: 'lease/park',
      view: 'leasePark',
    },
    {
      words: ['lease', 'unpark'],
      section: 'leases',
      summary: 'end the parking',
      positionals: [{ ...leasePositional, isOptional: true }],
      flags: [hostFlag],
      examples: ['trellis lease unpark', 'trellis lease unpark --host h2'],
      call: 'lease/unpark',
      view: 'leasePark',
    },
  ];
}

function envCommands(): Command[] {
  return [
    {
      words: ['env', 'ls'],
      section: 'leases',
      summary: 'environments of the cluster',
      examples: ['trellis env ls'],
      call: 'env/ls',
      view: 'envLs',
    },
    {
      words: ['env', 'show'],
      section: 'leases',
      summary: 'voters, and what is lost if one more goes',
      positionals: [{ name: 'NAME', param: 'name', isOptional: true }],
      examples: ['trellis env show', 'trellis env show --json'],
      call: 'env/show',
      view: 'envShow',
    },
    {
      words: ['env', 'set'],
      section: 'leases',
      summary: 'choose voters, freeze, or stop automatic planning',
      about:
        '`voters auto`: 1, 3 or 5 of the hosts, chosen by themselves. `voters pair`: both of two hosts; a holder goes on ' +
        'without the other, nobody takes over by itself. `voters witness H`: two hosts and H, which only votes. ' +
        '`voters H1,H2,H3`: these. `frozen on`: nothing exclusive moves by itself in the whole environment.',
      positionals: [
        { name: 'KEY', param: 'key', complete: ['voters', 'frozen', 'auto-apply'] },
        {
          name: 'VALUE',
          param: 'value',
          isMany: true,
          complete: ['auto', 'pair', 'witness', 'on', 'off', 'safe'],
        },
      ],
      flags: waitFlags,
      examples: [
        'trellis env set voters h1,h2,h3',
        'trellis env set voters witness h3',
        'trellis env set voters auto --wait',
        'trellis env set frozen on',
      ],
      call: 'env/set',
      view: 'edited',
    },
    forceVotersCommand(),
  ];
}

function forceVotersCommand(): Command {
  return {
    words: ['env', 'force-voters'],
    section: 'leases',
    summary: 'majority lost: make the survivors the voters',
    about:
      'Only when a majority of voters is gone for good, or has lost memory. Every present voter is named: as a survivor, ' +
      'or as dead. If one that is declared dead still runs, two hosts may run exclusive work at once. Needs two confirmations.',
    flags: [
      { name: 'voters', kind: 'strings', value: 'H,…', summary: 'survivors', complete: 'host' },
      {
        name: 'dead',
        kind: 'strings',
        value: 'H,…',
        summary: 'voters that are gone for good',
        complete: 'host',
      },
      forceConfirm('the name of the environment'),
    ],
    examples: ['trellis env force-voters --voters h1 --dead h2,h3 --yes --confirm prod'],
    call: 'env/force-voters',
    view: 'forceVoters',
    handler: () => import('./handlers/force.ts'),
  };
}
