/** Commands that look, and tools around the cluster. */
import type { Command, Flag } from './spec.ts';

const onHost: Flag = {
  name: 'host',
  kind: 'string',
  value: 'H',
  summary: 'ask this host; default: this one',
  complete: 'host',
};

export const lookCommands: readonly Command[] = [
  {
    words: ['status'],
    section: 'looking',
    summary: 'the cluster against its desired state',
    about:
      'Exits 1 on any difference: missing instances, dead hosts, conflicts, problems, exclusive services without a holder, alerts that nobody has seen.',
    flags: [
      { name: 'all', short: 'a', kind: 'boolean', summary: 'also what is as it should be' },
      {
        name: 'redundancy',
        kind: 'boolean',
        summary: 'how many more losses each exclusive service survives',
      },
    ],
    examples: ['trellis status', 'trellis status --all', 'trellis status --redundancy'],
    call: 'cluster/status',
    view: 'status',
    isFailure: (data) => (data as { ok?: unknown }).ok !== true,
  },
  {
    words: ['info'],
    section: 'looking',
    summary: 'this host and its cluster',
    examples: ['trellis info'],
    call: 'cluster/info',
    view: 'info',
  },
  {
    words: ['doctor'],
    section: 'looking',
    summary: 'check what this host needs to work',
    about: 'Exits 1 when a check fails; warnings do not count.',
    flags: [onHost],
    examples: ['trellis doctor', 'trellis doctor --host h2'],
    call: 'cluster/doctor',
    view: 'doctor',
    isFailure: (data) => (data as { ok?: unknown }).ok !== true,
  },
  {
    words: ['events'],
    section: 'looking',
    summary: 'what happened, oldest first',
    flags: [
      { name: 'follow', short: 'f', kind: 'boolean', summary: 'go on until interrupted' },
      { name: 'max', short: 'n', kind: 'integer', value: 'N', summary: 'past events; default 50' },
    ],
    examples: ['trellis events', 'trellis events -f --json'],
    call: 'events/ls',
    handler: () => import('./handlers/events.ts'),
  },
  {
    words: ['audit'],
    section: 'looking',
    summary: 'who ran what on this host',
    flags: [
      onHost,
      { name: 'max', short: 'n', kind: 'integer', value: 'N', summary: 'entries; default 50' },
    ],
    examples: ['trellis audit', 'trellis audit --host h2'],
    call: 'audit/ls',
    view: 'audit',
  },
  {
    words: ['names', 'show'],
    section: 'looking',
    summary: 'names and numbers of services, and where this host sends them',
    flags: [onHost],
    examples: ['trellis names show'],
    call: 'names/show',
    view: 'namesShow',
  },
  {
    words: ['dev', 'up'],
    section: 'tools',
    summary: 'a local cluster of several hosts on this machine',
    about: 'Network namespaces and container engines of their own; needs root.',
    flags: [
      { name: 'nodes', short: 'n', kind: 'integer', value: 'N', summary: 'hosts; default 3' },
    ],
    examples: ['trellis dev up -n 3'],
    handler: () => import('./handlers/dev.ts'),
  },
  {
    words: ['dev', 'down'],
    section: 'tools',
    summary: 'take the local cluster away; nothing is left',
    examples: ['trellis dev down'],
    handler: () => import('./handlers/dev.ts'),
  },
  {
    words: ['dev', 'status'],
    section: 'tools',
    summary: 'hosts of the local cluster and how to reach them',
    examples: ['trellis dev status'],
    handler: () => import('./handlers/dev.ts'),
  },
  {
    words: ['completion'],
    section: 'tools',
    summary: 'completion for a shell, to be loaded by it',
    positionals: [{ name: 'SHELL', param: 'shell', complete: ['bash', 'zsh', 'fish'] }],
    examples: [
      'source <(trellis completion bash)',
      'trellis completion fish > ~/.config/fish/completions/trellis.fish',
    ],
    handler: () => import('./handlers/completion.ts'),
  },
  {
    words: ['help'],
    section: 'tools',
    summary: 'help for a command',
    positionals: [{ name: 'COMMAND', param: 'words', isMany: true, isOptional: true }],
    examples: ['trellis help', 'trellis help host drain'],
    handler: () => import('./handlers/help.ts'),
  },
];
