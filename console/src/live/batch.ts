// Gathers publications and hands them over once per frame, or by a timer where frames do not come (a hidden tab).
// Invariants: order is kept; while held (paused) at most MAX_HELD changes are kept, above that they are dropped and
// `overflowed` says that the list must be loaded again: memory is bounded, the loss is known.
import type { Change } from '../api/types';

export const MAX_HELD = 2000;

export interface Frames {
  request(run: () => void): number;
  cancel(id: number): void;
}

/** A hidden tab gets no frames: a timer follows behind. */
export const browserFrames: Frames = {
  request(run) {
    let timer = 0;
    const frame = requestAnimationFrame(() => {
      clearTimeout(timer);
      run();
    });
    timer = window.setTimeout(() => {
      cancelAnimationFrame(frame);
      run();
    }, 250);
    pending.set(frame, timer);
    return frame;
  },
  cancel(frame) {
    cancelAnimationFrame(frame);
    clearTimeout(pending.get(frame));
    pending.delete(frame);
  },
};
const pending = new Map<number, number>();

export class Batch {
  private changes: Change[] = [];
  private frame: number | null = null;
  private held = false;
  overflowed = false;

  constructor(
    private readonly flush: (changes: Change[]) => void,
    private readonly frames: Frames = browserFrames,
  ) {}

  get size(): number {
    return this.changes.length;
  }

  push(change: Change): void {
    if (this.overflowed) return;
    this.changes.push(change);
    if (this.changes.length > MAX_HELD) {
      if (this.held) {
        this.changes = [];
        this.overflowed = true;
        return;
      }
      this.run();
      return;
    }
    if (!this.held) this.plan();
  }

  hold(): void {
    this.held = true;
    this.unplan();
  }

  release(): void {
    this.held = false;
    if (this.changes.length > 0) this.plan();
  }

  clear(): void {
    this.changes = [];
    this.overflowed = false;
    this.unplan();
  }

  private plan(): void {
    this.frame ??= this.frames.request(() => {
      this.frame = null;
      this.run();
    });
  }

  private unplan(): void {
    if (this.frame !== null) this.frames.cancel(this.frame);
    this.frame = null;
  }

  private run(): void {
    this.unplan();
    const changes = this.changes;
    this.changes = [];
    if (changes.length > 0) this.flush(changes);
  }
}
