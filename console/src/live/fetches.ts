// Fetches documents that came as `ref: true`, a few at a time, each entity once at a time.
// Invariants: asking again while a fetch is under way leads to one more fetch after it (the document may have moved
// on); a failure is retried a few times with growing pauses, then left for the next time the row is seen.
import { Problem, isAbort } from '../api/problem';
import type { Entity } from '../api/types';

/** 7.5 MB each: two at once are enough for a telephone. */
const FETCHES = 2;
const ATTEMPTS = 4;

interface Outcome {
  done(item: Entity): void;
  /** There is no such entity (any more). */
  gone(id: string): void;
}

export class Fetches {
  private readonly queue = new Set<string>();
  private readonly running = new Set<string>();
  private readonly timers = new Set<ReturnType<typeof setTimeout>>();
  private abort = new AbortController();

  constructor(
    private readonly fetch: (id: string, signal: AbortSignal) => Promise<Entity>,
    private readonly outcome: Outcome,
  ) {}

  want(id: string): void {
    this.queue.add(id);
    this.next();
  }

  stop(): void {
    this.abort.abort();
    this.abort = new AbortController();
    this.queue.clear();
    this.running.clear();
    for (const timer of this.timers) clearTimeout(timer);
    this.timers.clear();
  }

  private next(): void {
    for (const id of this.queue) {
      if (this.running.size >= FETCHES) return;
      if (this.running.has(id)) continue;
      this.queue.delete(id);
      this.running.add(id);
      void this.run(id, this.abort.signal, 1);
    }
  }

  private async run(id: string, signal: AbortSignal, attempt: number): Promise<void> {
    try {
      const item = await this.fetch(id, signal);
      if (signal.aborted) return;
      this.outcome.done(item);
    } catch (error) {
      if (signal.aborted || isAbort(error)) return;
      const status = error instanceof Problem ? error.status : 0;
      if (status === 404 || status === 410) this.outcome.gone(id);
      else if (attempt < ATTEMPTS && status !== 401 && status !== 403) {
        const timer = setTimeout(() => {
          this.timers.delete(timer);
          void this.run(id, signal, attempt + 1);
        }, 500 * 2 ** attempt);
        this.timers.add(timer);
        return;
      }
    }
    this.running.delete(id);
    this.next();
  }
}
