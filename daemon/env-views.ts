/** The typed view of each environment's document, rebuilt only where the document was touched. */
import type { Container, TrellisDocument } from '../crdt/document.ts';
import type { EnvView } from '../crdt/model.ts';
import { EnvViewCache } from '../crdt/view.ts';
import type { DocName } from './node-api.ts';

export class EnvViews {
  readonly #documentOf: (doc: DocName) => TrellisDocument;
  readonly #caches = new Map<string, EnvViewCache>();
  /** Touched since the view was last asked for; 'all' after a rebuild. */
  readonly #touched = new Map<string, Set<Container> | 'all'>();
  readonly #views = new Map<string, EnvView>();

  constructor(documentOf: (doc: DocName) => TrellisDocument) {
    this.#documentOf = documentOf;
  }

  /** `touched` null: anything. Other documents than environments are none of ours. */
  invalidate(doc: DocName, touched: ReadonlySet<Container> | null): void {
    if (!doc.startsWith('env/')) return;
    const env = doc.slice('env/'.length);
    const pending = this.#touched.get(env);
    if (touched === null || pending === 'all') this.#touched.set(env, 'all');
    else this.#touched.set(env, new Set([...(pending ?? []), ...touched]));
  }

  view(env: string): EnvView {
    let cache = this.#caches.get(env);
    if (cache === undefined) {
      this.#caches.set(env, (cache = new EnvViewCache(env)));
      this.#touched.set(env, 'all');
    }
    const touched = this.#touched.get(env);
    const known = this.#views.get(env);
    if (touched === undefined && known !== undefined) return known;
    const view = cache.update(this.#documentOf(`env/${env}`), touched ?? 'all');
    this.#touched.delete(env);
    this.#views.set(env, view);
    return view;
  }
}
