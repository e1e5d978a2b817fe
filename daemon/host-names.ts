/** What guards say is about identifiers of hosts, the only names that they know; people know other ones. */
const hostId = /\b[0-9a-f]{32}\b/g;

/** `text` with every identifier of a host that is known replaced by its name. `names`: by identifier. */
export function withHostNames(text: string, names: ReadonlyMap<string, string>): string {
  return text.replaceAll(hostId, (id) => names.get(id) ?? id);
}
