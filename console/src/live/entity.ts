// One entity under the glass: its document as raw text, its history, and the news that a newer revision exists.
// Invariants: an older answer never replaces a newer one; live changes load the document again at most once per
// REFRESH_MS, and not at all by themselves when it is large or the board is paused: then the page says so instead.
import type { Api } from '../api/client';
import { Problem, asProblem, isAbort } from '../api/problem';
import type { Change, Entity, HistoryItem } from '../api/types';
import { type Texts, titleOf } from '../text/summary';
import { memberSpan, splitEntity } from '../text/rawjson';
import { Store } from './store';

const REFRESH_MS = 1000;
/** Above this a document is not loaded again behind the reader's back. */
export const LARGE = 256 * 1024;

export interface EntityState {
  phase: 'loading' | 'ready' | 'failed';
  problem: Problem | null;
  meta: Entity | null;
  doc: string | null;
  title: Texts | null;
  /** The newest revision heard of; above `meta.revision` the document shown is old. */
  newest: number;
  changed: readonly string[];
  history: HistoryItem[];
  historyNext: number | string | null;
  historyPhase: 'loading' | 'ready' | 'failed';
}

export class EntityView {
  readonly state = new Store<EntityState>({
    phase: 'loading', problem: null, meta: null, doc: null, title: null, newest: 0, changed: [],
    history: [], historyNext: null, historyPhase: 'loading',
  });
  private abort = new AbortController();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private changed = new Set<string>();

  constructor(
    private readonly api: Api,
    readonly kind: string,
    readonly id: string,
    private readonly paused: () => boolean,
  ) {}

  start(): void {
    void this.load();
    void this.loadHistory(null);
  }

  stop(): void {
    this.abort.abort();
    this.abort = new AbortController();
    clearTimeout(this.timer);
    this.timer = undefined;
  }

  heard(change: Change): void {
    const { newest, meta, doc } = this.state.get();
    if (change.kind !== this.kind || change.id !== this.id || change.revision <= Math.max(newest, meta?.revision ?? 0)) return;
    for (const field of change.changed ?? []) this.changed.add(field);
    this.state.patch({ newest: change.revision });
    if (this.paused() || (doc?.length ?? 0) > LARGE) return;
    this.timer ??= setTimeout(this.refresh, REFRESH_MS);
  }

  refresh = (): void => {
    clearTimeout(this.timer);
    this.timer = undefined;
    void this.load();
    void this.loadHistory(null);
  };

  retry = (): void => {
    this.state.patch({ phase: 'loading', problem: null });
    this.refresh();
  };

  moreHistory = (): void => void this.loadHistory(this.state.get().historyNext);

  private async load(): Promise<void> {
    const { signal } = this.abort;
    try {
      const { meta, doc } = splitEntity<Entity>(await this.api.entityText(this.kind, this.id, signal));
      if (signal.aborted || meta.revision < (this.state.get().meta?.revision ?? 0)) return;
      const changed = [...this.changed];
      this.changed.clear();
      this.state.patch({ phase: 'ready', problem: null, meta, doc, title: titleIn(doc), changed });
    } catch (error) {
      if (signal.aborted || isAbort(error)) return;
      this.state.patch({ phase: 'failed', problem: asProblem(error) });
    }
  }

  private async loadHistory(before: number | string | null): Promise<void> {
    const { signal } = this.abort;
    this.state.patch({ historyPhase: 'loading' });
    try {
      const page = await this.api.history(this.kind, this.id, before, signal);
      if (signal.aborted) return;
      const { history, historyNext } = this.state.get();
      // The top was read again and does not reach what is known: start over rather than show a hole.
      const apart = before === null && (page.items.at(-1)?.revision ?? 0) > (history[0]?.revision ?? 0) + 1;
      const first = history.length === 0 || before !== null || apart;
      this.state.patch({
        historyPhase: 'ready',
        history: mergeHistory(apart ? [] : history, page.items),
        // Reading the top again does not move the place where the earlier ones go on.
        historyNext: first ? (page.next ?? null) : historyNext,
      });
    } catch (error) {
      if (!signal.aborted && !isAbort(error)) this.state.patch({ historyPhase: 'failed' });
    }
  }
}

/** One line per revision, newest first. */
export function mergeHistory(known: readonly HistoryItem[], more: readonly HistoryItem[]): HistoryItem[] {
  const all = new Map([...known, ...more].map((item) => [item.revision, item]));
  return [...all.values()].sort((a, b) => b.revision - a.revision);
}

/** The title without parsing megabytes: only the member itself is read. */
function titleIn(doc: string | null): Texts | null {
  if (!doc) return null;
  const small: Record<string, unknown> = {};
  for (const key of ['title', 'name', 'fullName', 'description']) {
    const span = memberSpan(doc, key);
    if (span) {
      small[key] = JSON.parse(doc.slice(span[0], Math.max(span[0], span[1])));
      if (titleOf(small)) break;
    }
  }
  return titleOf(small);
}
