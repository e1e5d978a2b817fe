/**
 * Refuses passphrases that fall to a dictionary. Not a measure of strength but of carelessness: what passes may still be
 * guessable, which is why generating one is the default.
 */
import { ClusterError } from '../errors.ts';

const lengthMin = 12;
const lengthMax = 1_024;
const distinctMin = 6;
/** Estimated bits, after dictionary words, runs and repeats have been counted as one character each. */
const bitsMin = 45;

/** Longest first, so that "password" goes before "pass". Leet spellings are undone before the look. */
const careless =
  /correcthorsebatterystaple|administrator|changeme|password|iloveyou|superman|princess|football|baseball|sunshine|starwars|whatever|trustno|welcome|letmein|trellis|dragon|monkey|master|shadow|michael|secret|docker|qwertz|qwerty|azerty|asdfgh|zxcvbn|yxcvbn|admin|login|hallo|hello|guest|root|test|user|pass|love/g;

/** Fails with PASSPHRASE_WEAK, saying why. `names`: what must not be most of it (operator, cluster). */
export function assertStrongPassphrase(passphrase: string, names: readonly string[]): void {
  const reason = weakness(passphrase, names);
  if (reason !== null) throw new ClusterError('PASSPHRASE_WEAK', { reason });
}

function weakness(passphrase: string, names: readonly string[]): string | null {
  const text = passphrase.normalize('NFKC').trim();
  const length = Array.from(text).length;
  if (length < lengthMin) return `it has ${length} characters, at least ${lengthMin} are needed`;
  if (length > lengthMax) return `it has more than ${lengthMax} characters`;
  if (new Set(text.toLowerCase()).size < distinctMin) return 'it repeats a few characters';
  if (guessBits(text, names) < bitsMin) return 'it is made of common words, names, runs or repeats';
  return null;
}

function guessBits(text: string, names: readonly string[]): number {
  let rest = plainOf(text);
  for (const name of names)
    if (name.length >= 3) rest = rest.replaceAll(name.toLowerCase(), '\u0001');
  rest = rest
    .replaceAll(careless, '\u0002')
    .replaceAll(/(.+?)\1+/gu, '$1\u0003')
    .replaceAll(/(19|20)\d\d/g, '\u0004');
  rest = withoutRuns(rest);
  const classes = [/[a-z]/, /[0-9]/, /[A-Z]/, /[^a-zA-Z0-9]/].filter((kind) =>
    kind.test(text),
  ).length;
  // 2.8 bits a letter is between English text (about 1.5) and random letters (4.7); other classes add a little.
  return Array.from(rest).length * (2.8 + 0.4 * classes);
}

function plainOf(text: string): string {
  const leet: Record<string, string> = {
    '0': 'o',
    '1': 'i',
    '3': 'e',
    '4': 'a',
    '5': 's',
    '7': 't',
    '@': 'a',
    $: 's',
    '!': 'i',
  };
  const lower = text.toLowerCase();
  const undone = lower.replaceAll(/[013457@$!]/g, (letter) => leet[letter] ?? letter);
  return new RegExp(careless.source).test(undone) ? undone : lower;
}

/** "abcdef" and "98765" count as two characters. */
function withoutRuns(text: string): string {
  const letters = Array.from(text);
  const kept = letters.filter((letter, i) => {
    const code = letter.codePointAt(0) ?? 0;
    const before = letters[i - 1]?.codePointAt(0);
    const beforeThat = letters[i - 2]?.codePointAt(0);
    if (before === undefined || beforeThat === undefined) return true;
    const step = code - before;
    return Math.abs(step) !== 1 || before - beforeThat !== step;
  });
  return kept.join('');
}
