/** Commands about the desired state and the plan. */
import type { Command, Flag } from './spec.ts';

const fileFlag: Flag = {
  name: 'file',
  short: 'f',
  kind: 'string',
  value: 'FILE',
  summary: "desired-state file, YAML or JSON; '-' is standard input",
  complete: 'file',
};
const sourceFlag: Flag = {
  name: 'source',
  kind: 'string',
  value: 'NAME',
  summary: "name under which the file's objects are kept; default: the file's base name",
};
const pruneFlag: Flag = {
  name: 'prune',
  kind: 'boolean',
  summary: 'delete objects of this source that are no longer in the file',
};
const overwriteFlag: Flag = {
  name: 'overwrite',
  kind: 'boolean',
  summary: 'also write fields that were changed elsewhere since the last apply',
};
const timeoutFlag: Flag = {
  name: 'timeout',
  kind: 'duration',
  value: 'TIME',
  param: 'timeoutMs',
  summary: 'give up waiting after this long; default 120s',
};

export const desiredCommands: readonly Command[] = [
  {
    words: ['apply'],
    section: 'desired state',
    summary: 'make a file the desired state: edit, plan and commit in one step',
    about:
      'All or nothing: a file that is refused changes nothing. Images of the file that only this engine has are put ' +
      'into the cluster first.',
    flags: [
      fileFlag,
      { name: 'dry-run', kind: 'boolean', summary: 'say what would happen and touch nothing' },
      { name: 'no-plan', kind: 'boolean', summary: 'edit only; plan later with `trellis plan`' },
      { name: 'no-push', kind: 'boolean', summary: 'refuse instead of pushing local images' },
      pruneFlag,
      overwriteFlag,
      sourceFlag,
      {
        name: 'wait',
        kind: 'boolean',
        summary: 'return when all members have it and all of it runs healthily',
      },
      timeoutFlag,
    ],
    examples: [
      'trellis apply -f site.yaml',
      'trellis apply -f site.yaml --dry-run',
      'trellis apply -f site.yaml --wait --timeout 60s',
    ],
    call: 'desired/apply',
    handler: () => import('./handlers/apply.ts'),
  },
  {
    words: ['diff'],
    section: 'desired state',
    summary: 'which fields a file would change',
    about: 'Exits 1 when there is a difference.',
    flags: [fileFlag, sourceFlag, pruneFlag],
    examples: ['trellis diff -f site.yaml'],
    call: 'desired/diff',
    handler: () => import('./handlers/diff.ts'),
  },
  {
    words: ['export'],
    section: 'desired state',
    summary: 'print the desired state as a file that `apply` takes',
    flags: [
      {
        name: 'format',
        kind: 'string',
        value: 'yaml|json',
        summary: 'default: yaml',
        complete: ['yaml', 'json'],
      },
      sourceFlag,
    ],
    examples: ['trellis export > all.yaml', 'trellis export --format json'],
    call: 'desired/export',
    handler: () => import('./handlers/export.ts'),
  },
  {
    words: ['plan'],
    section: 'desired state',
    summary: 'what would change, and why; touches nothing',
    flags: [fileFlag, sourceFlag, pruneFlag, overwriteFlag],
    examples: ['trellis plan', 'trellis plan -f site.yaml --json'],
    call: 'plan/show',
    handler: () => import('./handlers/plan.ts'),
  },
  {
    words: ['plan', 'apply'],
    section: 'desired state',
    summary: 'commit exactly the plan that was shown',
    about: 'Refused with STALE when anything it was made from has changed.',
    positionals: [{ name: 'ID', param: 'id' }],
    flags: [
      { name: 'wait', kind: 'boolean', summary: 'return when all of it runs healthily' },
      timeoutFlag,
    ],
    examples: ['trellis plan apply 3c0ffee12345'],
    call: 'plan/apply',
    view: 'planApplied',
  },
  {
    words: ['conflicts', 'ls'],
    section: 'desired state',
    summary: 'fields that were set differently at the same time',
    examples: ['trellis conflicts ls'],
    call: 'conflicts/ls',
    view: 'conflictsLs',
  },
  {
    words: ['conflicts', 'pick'],
    section: 'desired state',
    summary: 'end a conflict',
    about: 'By the number that `conflicts ls` shows, or by the value itself (JSON or text).',
    positionals: [
      { name: 'ID', param: 'id', complete: 'conflict' },
      { name: 'N|VALUE', param: 'choice' },
    ],
    flags: [
      { name: 'wait', kind: 'boolean', summary: 'return only when all live members have it' },
      timeoutFlag,
    ],
    examples: ['trellis conflicts pick 5d41402abc4b 1'],
    call: 'conflicts/pick',
    view: 'edited',
  },
  {
    words: ['history'],
    section: 'desired state',
    summary: 'who changed what, newest first',
    positionals: [{ name: 'PATH', param: 'path', isOptional: true }],
    flags: [
      { name: 'max', short: 'n', kind: 'integer', value: 'N', summary: 'entries; default 50' },
    ],
    examples: ['trellis history', 'trellis history services/site/image'],
    call: 'history/ls',
    view: 'history',
  },
];
