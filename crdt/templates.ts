/**
 * `{{…}}` in environment values and command arguments. Only what starts with a letter is a template, so that
 * `{{.Names}}` of other tools passes through untouched.
 */
export type TemplateRef =
  | { readonly kind: 'service-host'; readonly service: string }
  | { readonly kind: 'service-address'; readonly service: string }
  | { readonly kind: 'service-port'; readonly service: string; readonly port: string }
  | { readonly kind: 'host-name' }
  | { readonly kind: 'host-meta'; readonly key: string }
  /** Known to the format, not honoured by this release. */
  | { readonly kind: 'unsupported'; readonly feature: string };

/** Literal text and references in order. */
export type TemplatePart = string | TemplateRef;

export interface ParsedTemplate {
  readonly parts: readonly TemplatePart[];
  /** What is wrong, in words for the author; then the part stays literal. */
  readonly errors: readonly string[];
}

const expression = /\{\{\s*([A-Za-z][^{}]*?)\s*\}\}/g;
const unclosed = /\{\{\s*(services|host|config|secret)\b(?![^{}]*\}\})/;

/** Plain text costs one search. */
export function parseTemplate(text: string): ParsedTemplate {
  if (!text.includes('{{')) return { parts: [text], errors: [] };
  const parts: TemplatePart[] = [];
  const errors: string[] = [];
  let end = 0;
  for (const match of text.matchAll(expression)) {
    if (match.index > end) parts.push(text.slice(end, match.index));
    end = match.index + match[0].length;
    const parsed = parseReference(match[1] ?? '');
    if (typeof parsed === 'string') {
      errors.push(parsed);
      parts.push(match[0]);
    } else {
      parts.push(parsed);
    }
  }
  if (end < text.length) parts.push(text.slice(end));
  const open = unclosed.exec(text);
  if (open !== null) errors.push(`{{${open[1]}… is not closed with }}`);
  return { parts, errors };
}

/** The text with every reference replaced by what `resolve` says. */
export function renderTemplate(text: string, resolve: (ref: TemplateRef) => string): string {
  if (!text.includes('{{')) return text;
  return parseTemplate(text)
    .parts.map((part) => (typeof part === 'string' ? part : resolve(part)))
    .join('');
}

/** References of all texts, duplicates included. */
export function referencesOf(texts: Iterable<string>): TemplateRef[] {
  const refs: TemplateRef[] = [];
  for (const text of texts) {
    if (!text.includes('{{')) continue;
    for (const part of parseTemplate(text).parts) if (typeof part !== 'string') refs.push(part);
  }
  return refs;
}

function parseReference(inner: string): TemplateRef | string {
  const [group, name, field, port, ...rest] = inner.split('.');
  const later = /^(config|secret)\b/.exec(inner)?.[1];
  if (later !== undefined) return { kind: 'unsupported', feature: `{{${later}…}}` };
  if (group === 'host') return hostReference(inner);
  if (group !== 'services') {
    return `{{${inner}}} is unknown; there are services.NAME.host, services.NAME.ports.PORT, services.NAME.address, host.name and host.meta.KEY`;
  }
  if (name === undefined || name === '' || rest.length > 0) return `{{${inner}}} names no service`;
  if (field === 'host' && port === undefined) return { kind: 'service-host', service: name };
  if (field === 'address' && port === undefined) return { kind: 'service-address', service: name };
  if (field === 'ports' && port !== undefined && port !== '') {
    return { kind: 'service-port', service: name, port };
  }
  return `{{${inner}}} is unknown; of a service there are host, ports.PORT and address`;
}

function hostReference(inner: string): TemplateRef | string {
  if (inner === 'host.name') return { kind: 'host-name' };
  const key = /^host\.meta\.(.+)$/.exec(inner)?.[1];
  if (key !== undefined) return { kind: 'host-meta', key };
  return `{{${inner}}} is unknown; of the host there are name and meta.KEY`;
}
