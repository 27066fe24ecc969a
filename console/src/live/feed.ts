// The live feed of one kind and filter: list over REST, then the channel from the list's position (rule 4), then
// changes frame by frame. Owns no DOM and no React; everything outside comes through FeedPorts.
// Invariants: an answer that belongs to an earlier load is ignored; unrecovered -> the list is loaded again;
// pausing loses nothing (or says so by loading again); at most FETCHES documents are fetched at once.
import { type Problem, asProblem, isAbort } from '../api/problem';
import type { Change, Entity, EntityList, Filter, Position } from '../api/types';
import { Batch, type Frames } from './batch';
import { type Board, LINGER_MS, MAX_ROWS, type Scope, emptyBoard, pruned, withChanges, withDocument, withList, withPage, withoutEntity } from './board';
import { Fetches } from './fetches';
import type { SubscriptionHandlers } from './hub';
import { mustReload, reloadDelay } from './recovery';
import { Store } from './store';

/** A failed list is asked for again no sooner than this. */
const RETRY_MS = 1000;

/** Failures that pass by themselves; the others wait for the operator. */
const passing = ({ origin, status }: Problem): boolean => origin !== 'http' || status >= 500 || status === 429;

export interface FeedPorts {
  list(kind: string, filter: Filter, cursor: string | null, signal: AbortSignal): Promise<EntityList>;
  entity(kind: string, id: string, signal: AbortSignal): Promise<Entity>;
  subscribe(channel: string, since: Position, handlers: SubscriptionHandlers): () => void;
  frames?: Frames;
  now?(): number;
}

export interface FeedState {
  phase: 'loading' | 'ready' | 'failed';
  problem: Problem | null;
  board: Board;
  /** The channel: waiting to be (re)subscribed, live, or refused for good. */
  channel: 'waiting' | 'live' | 'refused';
  refusal: string;
  more: 'idle' | 'loading' | 'failed';
  paused: boolean;
  /** Changes held back while paused; `overflowed` when they were too many to hold. */
  waiting: number;
  overflowed: boolean;
  /** Changes applied since the page was opened, and the last one's time. */
  applied: number;
  lastChangeAt: number;
  loadedAt: number;
  /** How often the position could not be recovered and the list was loaded again. */
  losses: number;
}

const initial: FeedState = {
  phase: 'loading', problem: null, board: emptyBoard, channel: 'waiting', refusal: '', more: 'idle', paused: false,
  waiting: 0, overflowed: false, applied: 0, lastChangeAt: 0, loadedAt: 0, losses: 0,
};

export class Feed {
  readonly state = new Store<FeedState>(initial);
  private readonly batch: Batch;
  private readonly fetches: Fetches;
  private readonly heard = new Set<(change: Change) => void>();
  private readonly now: () => number;
  private unsubscribe: (() => void) | null = null;
  private load = new AbortController();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private pruning: ReturnType<typeof setTimeout> | undefined;
  private lossesInRow = 0;
  private failures = 0;

  constructor(
    readonly scope: Scope,
    private readonly ports: FeedPorts,
  ) {
    this.now = ports.now ?? Date.now;
    this.batch = new Batch((changes) => this.apply(changes), ports.frames);
    this.fetches = new Fetches((id, signal) => ports.entity(scope.kind, id, signal), {
      done: (item) => this.show(withDocument(this.board, item, scope, this.now())),
      gone: (id) => this.show(withoutEntity(this.board, id)),
    });
  }

  start = (): void => void this.reload();

  /** The connection is back: a list that failed is asked for at once. */
  nudge(): void {
    if (this.state.get().phase === 'failed') void this.fetchList(true);
  }

  stop(): void {
    this.load.abort();
    clearTimeout(this.timer);
    clearTimeout(this.pruning);
    this.fetches.stop();
    this.batch.clear();
    this.unsubscribe?.();
    this.unsubscribe = null;
  }

  /** Loads the first page and follows the channel from its position. Rows that are shown stay until it is here. */
  reload = (): Promise<void> => this.fetchList(false);

  /** `again`: by itself after a failure, which stays on the screen until it is over. */
  private async fetchList(again: boolean): Promise<void> {
    this.stop();
    this.load = new AbortController();
    const { signal } = this.load;
    this.state.patch({ channel: 'waiting', more: 'idle' });
    if (!again) this.state.patch({ phase: this.board.rows.length ? 'ready' : 'loading', problem: null });
    try {
      const list = await this.ports.list(this.scope.kind, this.scope.filter, null, signal);
      if (signal.aborted) return;
      this.state.patch({
        phase: 'ready', problem: null, board: withList(list, this.scope), loadedAt: this.now(), waiting: 0, overflowed: false, refusal: '',
      });
      if (this.state.get().paused) this.batch.hold();
      this.failures = 0;
      this.unsubscribe = this.ports.subscribe(list.channel, list.position, this.handlers);
    } catch (error) {
      if (signal.aborted || isAbort(error)) return;
      const problem = asProblem(error);
      this.state.patch({ phase: 'failed', problem });
      if (!passing(problem)) return;
      this.failures += 1;
      this.timer = setTimeout(() => void this.fetchList(true), RETRY_MS + reloadDelay(this.failures));
    }
  }

  more = async (): Promise<void> => {
    const { board, more } = this.state.get();
    if (!canLoadMore(board) || more === 'loading') return;
    const { signal } = this.load;
    this.state.patch({ more: 'loading' });
    try {
      const page = await this.ports.list(this.scope.kind, this.scope.filter, board.next, signal);
      if (signal.aborted) return;
      this.state.patch({ more: 'idle', board: withPage(this.board, page, this.scope) });
    } catch (error) {
      if (!signal.aborted && !isAbort(error)) this.state.patch({ more: 'failed' });
    }
  };

  pause = (): void => {
    this.batch.hold();
    this.state.patch({ paused: true, waiting: this.batch.size });
  };

  resume = (): void => {
    const { overflowed } = this.state.get();
    this.state.patch({ paused: false, waiting: 0, overflowed: false });
    if (overflowed) this.batch.clear();
    this.batch.release();
    if (overflowed) void this.reload();
  };

  /** Asks for the document of a row that came without it (called when the row is seen). */
  want = (id: string): void => this.fetches.want(id);

  /** Every publication as it comes, paused or not. */
  onChange(listener: (change: Change) => void): () => void {
    this.heard.add(listener);
    return () => this.heard.delete(listener);
  }

  private readonly handlers: SubscriptionHandlers = {
    onChange: (change) => {
      this.batch.push(change);
      for (const listener of this.heard) listener(change);
      if (this.state.get().paused) this.state.patch({ waiting: this.state.get().waiting + 1, overflowed: this.batch.overflowed });
    },
    onSubscribed: (reply) => {
      if (mustReload(reply)) return this.lost();
      this.lossesInRow = 0;
      this.state.patch({ channel: 'live', refusal: '' });
    },
    onWaiting: () => this.state.patch({ channel: 'waiting' }),
    onRefused: (code, reason) => this.state.patch({ channel: 'refused', refusal: `${reason} (${code})` }),
  };

  private lost(): void {
    this.unsubscribe?.();
    this.unsubscribe = null;
    const { losses, paused } = this.state.get();
    this.state.patch({ channel: 'waiting', losses: losses + 1, overflowed: paused });
    // Paused means that nothing moves: the list is loaded again when the operator resumes.
    if (paused) return;
    this.timer = setTimeout(this.reload, reloadDelay(this.lossesInRow));
    this.lossesInRow += 1;
  }

  private get board(): Board {
    return this.state.get().board;
  }

  private show(board: Board): void {
    this.state.patch({ board });
    this.planPruning();
  }

  private apply(changes: Change[]): void {
    const now = this.now();
    const { board, applied, fetch } = withChanges(this.board, changes, this.scope, now);
    const before = this.state.get();
    this.state.patch({ board, applied: before.applied + applied, lastChangeAt: applied ? now : before.lastChangeAt });
    for (const id of fetch) this.fetches.want(id);
    this.planPruning();
  }

  private planPruning(): void {
    clearTimeout(this.pruning);
    const first = Math.min(...this.board.rows.filter((row) => row.leftAt > 0).map((row) => row.leftAt));
    if (!Number.isFinite(first)) return;
    const prune = () => this.show(pruned(this.board, this.now()));
    this.pruning = setTimeout(prune, Math.max(50, first + LINGER_MS - this.now()));
  }
}

/** After older rows were dropped the next page would leave a hole, so there is none. */
export const canLoadMore = (board: Board): boolean => board.next !== null && !board.truncated && board.rows.length < MAX_ROWS;
