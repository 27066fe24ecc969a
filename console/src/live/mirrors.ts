// Polls the mirrors' states. Invariants: one request at a time; a hidden tab does not ask, a shown one asks at once;
// what is shown says when it was read, so a failing poll makes it stale instead of silently old.
import type { Api } from '../api/client';
import { Problem, asProblem, isAbort } from '../api/problem';
import type { Mirror } from '../api/types';
import { Store } from './store';

const EVERY_MS = 2000;
const TIMEOUT_MS = 5000;

export interface Mirrors {
  items: Mirror[] | null;
  /** Why the last poll failed; null while polls succeed. */
  problem: Problem | null;
  readAt: number;
  resuming: string | null;
  /** What the hub answered to a resume that it refused. */
  refused: { name: string; problem: Problem } | null;
}

export class MirrorPoll {
  readonly state = new Store<Mirrors>({ items: null, problem: null, readAt: 0, resuming: null, refused: null });
  private timer: ReturnType<typeof setTimeout> | undefined;
  private abort = new AbortController();

  constructor(private readonly api: Api) {}

  start(): () => void {
    const shown = () => {
      if (document.visibilityState === 'visible') this.poll();
    };
    document.addEventListener('visibilitychange', shown);
    window.addEventListener('online', shown);
    this.poll();
    return () => {
      document.removeEventListener('visibilitychange', shown);
      window.removeEventListener('online', shown);
      clearTimeout(this.timer);
      this.abort.abort();
    };
  }

  poll = (): void => {
    clearTimeout(this.timer);
    this.abort.abort();
    this.abort = new AbortController();
    void this.read(this.abort.signal);
  };

  async resume(name: string): Promise<void> {
    this.state.patch({ resuming: name, refused: null });
    try {
      await this.api.resumeMirror(name);
    } catch (error) {
      this.state.patch({ refused: { name, problem: asProblem(error) } });
    }
    this.state.patch({ resuming: null });
    this.poll();
  }

  private async read(signal: AbortSignal): Promise<void> {
    try {
      const items = await this.api.mirrors(signal, TIMEOUT_MS);
      if (!signal.aborted) this.state.patch({ items, problem: null, readAt: Date.now() });
    } catch (error) {
      if (signal.aborted || isAbort(error)) return;
      this.state.patch({ problem: asProblem(error) });
    }
    if (signal.aborted || document.visibilityState === 'hidden') return;
    // Without the permission the answer will not change every two seconds.
    const wait = this.state.get().problem?.status === 403 ? 30_000 : EVERY_MS;
    this.timer = setTimeout(this.poll, wait);
  }
}
