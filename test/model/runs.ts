/** What is checked: the real rules in several worlds, and each rule broken once. Read by `check.ts` and `model.test.ts`. */

export interface ModelRun {
  readonly model: 'acquire' | 'renew' | 'chain';
  /** Unique within its model. */
  readonly variant: string;
  /** Preprocessor definitions: the size of the world, and which rule is broken. */
  readonly defines: readonly string[];
  /**
   * `safe`: no violation in any state. `caught`: a broken rule, so there must be a counterexample. `reached`: what it
   * asserts to be impossible is what shows that the model is not empty of behaviour.
   */
  readonly expects: 'safe' | 'caught' | 'reached';
  /** In every `npm test`; the others in `npm run model` only. */
  readonly isQuick: boolean;
}

const noEpochs = ['NO_EPOCH_RULE', 'NO_EPOCH_CHECK'];
const oneRestartEach = ['K=3', 'ACCEPTOR_RESTARTS=1', 'PROPOSER_RESTARTS=1'];
/** Voters {0} -> {0,1} -> {1}, or the way back: the smallest chain with two links that share no majority. */
const smallChain = ['NA=2', 'FIRST=1', 'STEPS=2', 'K=2'];

export const modelRuns: readonly ModelRun[] = [
  safe('acquire', 'rules, 2 attempts', ['K=2'], 'quick'),
  safe('acquire', 'rules, 3 attempts', ['K=3']),
  safe('acquire', 'rules, 3 attempts, 3 ticks', [...oneRestartEach, 'DP=3']),
  safe('acquire', 'rules, 4 attempts, 1 voter restart', [
    'K=4',
    'ACCEPTOR_RESTARTS=1',
    'PROPOSER_RESTARTS=0',
  ]),
  reached('acquire', ['K=2', 'REACH=2']),
  caught('acquire', 'no quarantine', ['K=3', 'NO_QUARANTINE'], 'quick'),
  caught('acquire', 'quarantine one tick short', ['K=3', 'SHORT_QUARANTINE'], 'quick'),
  caught('acquire', 'scalar quorum', ['K=3', 'SCALAR_QUORUM'], 'quick'),
  caught('acquire', 'late timer', ['K=3', 'LATE_TIMER'], 'quick'),
  caught('acquire', 'volatile epochs', ['K=3', 'VOLATILE_EPOCH'], 'quick'),
  caught('acquire', 'overwriting acceptor', ['K=3', 'OVERWRITE']),
  // One rule covers for another: broken alone it does no harm in this world, broken together they do.
  safe('acquire', 'masked: timer late at promises', ['K=2', 'LATE_AT_QUORUM']),
  caught(
    'acquire',
    '2012: timer late, overwriting',
    [
      'K=3',
      'ACCEPTOR_RESTARTS=1',
      'PROPOSER_RESTARTS=0',
      'LATE_AT_QUORUM',
      'OVERWRITE',
      ...noEpochs,
    ],
    'quick',
  ),

  safe('renew', 'rules, 2 attempts', ['K=2'], 'quick'),
  safe('renew', 'rules, 3 attempts, 1 voter restart', ['K=3', 'ACCEPTOR_RESTARTS=1']),
  safe('renew', 'rules, 3 attempts', ['K=3']),
  safe('renew', 'rules, no epochs', [...oneRestartEach, ...noEpochs]),
  safe('renew', 'pair, 3 attempts', ['PAIR', 'K=3'], 'quick'),
  safe('renew', 'pair, 4 attempts', ['PAIR', 'K=4']),
  reached('renew', ['K=3', 'REACH=2']),
  caught('renew', '2012 overwriting acceptor', ['K=3', 'OVERWRITE', 'PROMISE_WHEN_BUSY'], 'quick'),
  caught('renew', 'overwriting acceptor', [...oneRestartEach, 'OVERWRITE']),
  caught(
    'renew',
    'owner-only release',
    ['K=3', 'ACCEPTOR_RESTARTS=0', 'OWNER_ONLY_RELEASE'],
    'quick',
  ),
  caught(
    'renew',
    'release by host',
    ['K=3', 'DP=1', 'ACCEPTOR_RESTARTS=1', 'RELEASE_BY_HOST'],
    'quick',
  ),
  safe('renew', 'masked: owner by host, epochs', [...oneRestartEach, 'OWNER_BY_HOST']),
  caught('renew', 'owner by host, no epochs', [...oneRestartEach, 'OWNER_BY_HOST', ...noEpochs]),
  caught('renew', 'late timer', ['K=3', 'ACCEPTOR_RESTARTS=1', 'LATE_TIMER']),
  caught('renew', 'renewal after expiry', ['PAIR', 'K=3', 'RENEW_AFTER_EXPIRY'], 'quick'),

  safe('chain', 'rules, {0} two steps', smallChain, 'quick'),
  safe('chain', 'rules, {0} two steps, renewals', [
    'NA=2',
    'FIRST=1',
    'STEPS=2',
    'K=3',
    'ACCEPTOR_RESTARTS=0',
    'RENEW',
  ]),
  safe('chain', 'rules, {0,1} one step', ['NA=3', 'FIRST=3', 'STEPS=1', 'K=2']),
  // Which one leaves is a matter of name.
  safe('chain', 'rules, {0,1,2}, {0,1}', [
    'NA=3',
    'FIRST=7',
    'STEPS=1',
    'K=2',
    'PATH1=3',
    'PATH2=0',
  ]),
  safe('chain', 'rules, {0,1,2}, {0,1,2,3}', [
    'NA=4',
    'FIRST=7',
    'STEPS=1',
    'K=2',
    'PATH1=15',
    'PATH2=0',
    'ACCEPTOR_RESTARTS=0',
  ]),
  safe('chain', 'rules, {0,1}, {0,1,2}, {1,2}', [
    'NA=3',
    'FIRST=3',
    'STEPS=2',
    'K=2',
    'ACCEPTOR_RESTARTS=0',
    'PATH1=7',
    'PATH2=6',
  ]),
  reached('chain', [...smallChain, 'REACH=2']),
  caught('chain', 'no spacing', [...smallChain, 'NO_SPACING'], 'quick'),
  caught('chain', 'two voters at once', [...smallChain, 'TWO_AT_ONCE'], 'quick'),
  caught('chain', 'no floor', [...smallChain, 'NO_FLOOR'], 'quick'),
  caught('chain', 'old configuration served', [...smallChain, 'NO_CONFIG_CHECK'], 'quick'),
];

function safe(
  model: ModelRun['model'],
  variant: string,
  defines: readonly string[],
  share: 'quick' | 'long' = 'long',
): ModelRun {
  return { model, variant, defines, expects: 'safe', isQuick: share === 'quick' };
}

function caught(
  model: ModelRun['model'],
  variant: string,
  defines: readonly string[],
  share: 'quick' | 'long' = 'long',
): ModelRun {
  return {
    model,
    variant: `mutant: ${variant}`,
    defines,
    expects: 'caught',
    isQuick: share === 'quick',
  };
}

function reached(model: ModelRun['model'], defines: readonly string[]): ModelRun {
  return {
    model,
    variant: 'change of owner happens',
    defines,
    expects: 'reached',
    isQuick: true,
  };
}
