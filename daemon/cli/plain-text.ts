/**
 * What hosts report may hold anything, also sequences that move a terminal's cursor or set its title. People see such
 * characters as '?'; programs get them escaped in JSON. Output of containers (logs, exec) is passed on as it is.
 */
// eslint-disable-next-line no-control-regex -- finding control characters is the point.
const controls = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g;

export function plainText(text: string): string {
  return text.replaceAll(controls, '?');
}

/** The same for every text inside a JSON value. */
export function plainData(data: unknown): unknown {
  if (typeof data === 'string') return plainText(data);
  if (Array.isArray(data)) return data.map((item) => plainData(item));
  if (typeof data !== 'object' || data === null) return data;
  return Object.fromEntries(
    Object.entries(data).map(([key, value]) => [plainText(key), plainData(value)]),
  );
}
