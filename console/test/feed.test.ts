import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Problem } from '../src/api/problem';
import type { Change, EntityList, Position } from '../src/api/types';
import { Batch, MAX_HELD } from '../src/live/batch';
import { Feed, type FeedPorts } from '../src/live/feed';
import type { SubscriptionHandlers } from '../src/live/hub';
import { mustReload, reloadDelay } from '../src/live/recovery';

const change = (id: string, revision: number, offset: number, part: Partial<Change> = {}): Change => ({
  kind: 'procedure', id, revision, offset, op: 'update', at: '2026-11-20T09:00:00Z', by: 'x', changed: ['title'], doc: { title: `${id}${revision}` }, ...part,
});
const subscribed = (wasRecovering: boolean, recovered: boolean) => ({ wasRecovering, recovered }) as never;

/** A hub in the test's hands: lists are answered by a function, frames and publications by calls. */
function world() {
  const frames: (() => void)[] = [];
  const subscriptions: { since: Position; handlers: SubscriptionHandlers; stopped: boolean }[] = [];
  const lists: string[] = [];
  let answer: () => Promise<EntityList> = async () => ({
    items: [{ ...change('a', 1, 1), doc: { title: 'a1' } }], next: null, position: { epoch: 'e', offset: 1 }, channel: 'entities.procedure', total: 1,
  });
  const ports: FeedPorts = {
    list: async (_kind, _filter, cursor) => {
      lists.push(cursor ?? 'first');
      return answer();
    },
    entity: async (_kind, id) => ({ ...change(id, 9, 9), doc: { title: 'fetched' } }),
    subscribe: (_channel, since, handlers) => {
      const it = { since, handlers, stopped: false };
      subscriptions.push(it);
      return () => {
        it.stopped = true;
      };
    },
    frames: { request: (run) => frames.push(run), cancel: (id) => void frames.splice(id - 1, 1) },
    now: () => 1000,
  };
  const feed = new Feed({ kind: 'procedure', fields: ['status'], filter: {} }, ports);
  return {
    feed, frames, subscriptions, lists,
    answers: (next: typeof answer) => { answer = next; },
    frame: () => frames.splice(0).forEach((run) => run()),
    get last() { return subscriptions.at(-1)!; },
    row: (id: string) => feed.state.get().board.rows.find((it) => it.id === id),
  };
}
const settled = () => new Promise((resolve) => setImmediate(resolve));

describe('rule 4', () => {
  it('subscribes from the position of the list', async () => {
    const w = world();
    w.feed.start();
    await settled();
    expect(w.last.since).toEqual({ epoch: 'e', offset: 1 });
    w.last.handlers.onSubscribed(subscribed(true, true));
    expect(w.feed.state.get()).toMatchObject({ phase: 'ready', channel: 'live' });
  });

  it('loads the list again when the position was not recovered, and only then', async () => {
    const w = world();
    w.feed.start();
    await settled();
    w.last.handlers.onSubscribed(subscribed(true, false));
    expect(w.last.stopped).toBe(true);
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(w.lists).toEqual(['first', 'first']);
    expect(w.subscriptions.length).toBe(2);
    expect(w.feed.state.get().losses).toBe(1);
  });

  it.each([
    [true, false, true],
    [true, true, false],
    [false, false, false],
  ])('wasRecovering %s, recovered %s: reload %s', (wasRecovering, recovered, reload) => {
    expect(mustReload({ wasRecovering, recovered })).toBe(reload);
  });

  it('waits longer after each loss in a row', () => {
    expect([0, 1, 2, 3, 20].map((n) => reloadDelay(n, () => 1))).toEqual([0, 500, 1000, 2000, 30_000]);
    expect(reloadDelay(3, () => 0)).toBe(0);
  });
});

describe('a frame', () => {
  it('applies what has come since the last one, at once', async () => {
    const w = world();
    w.feed.start();
    await settled();
    for (let n = 2; n < 50; n += 1) w.last.handlers.onChange(change('a', n, n));
    expect(w.row('a')?.revision).toBe(1);
    expect(w.frames.length).toBe(1);
    w.frame();
    expect(w.row('a')?.revision).toBe(49);
    expect(w.feed.state.get().applied).toBe(48);
  });
});

describe('pausing', () => {
  it('holds, counts, and applies everything on resume', async () => {
    const w = world();
    w.feed.start();
    await settled();
    w.feed.pause();
    w.last.handlers.onChange(change('a', 2, 2));
    w.last.handlers.onChange(change('b', 1, 3));
    w.frame();
    expect(w.feed.state.get()).toMatchObject({ waiting: 2, paused: true });
    expect(w.row('a')?.revision).toBe(1);
    w.feed.resume();
    w.frame();
    expect(w.row('a')?.revision).toBe(2);
    expect(w.row('b')).toBeDefined();
  });

  it('drops above its bound, says so, and loads again on resume', async () => {
    const w = world();
    w.feed.start();
    await settled();
    w.feed.pause();
    for (let n = 0; n <= MAX_HELD; n += 1) w.last.handlers.onChange(change('a', n + 2, n + 2));
    expect(w.feed.state.get().overflowed).toBe(true);
    w.feed.resume();
    await settled();
    expect(w.lists.length).toBe(2);
    w.last.handlers.onChange(change('a', 5000, 5000));
    w.frame();
    expect(w.row('a')?.revision).toBe(5000);
  });

  it('does not replace the frozen rows when history is lost meanwhile', async () => {
    const w = world();
    w.feed.start();
    await settled();
    w.feed.pause();
    w.last.handlers.onSubscribed(subscribed(true, false));
    await settled();
    expect(w.lists.length).toBe(1);
    w.feed.resume();
    await settled();
    expect(w.lists.length).toBe(2);
  });
});

describe('failures', () => {
  it('are shown with their problem, and a retry works', async () => {
    const w = world();
    const good = { items: [], next: null, position: { epoch: 'e', offset: 0 }, channel: 'c' };
    w.answers(() => Promise.reject(new Problem('http', 503, 'down', '', '')));
    w.feed.start();
    await settled();
    expect(w.feed.state.get()).toMatchObject({ phase: 'failed', problem: { code: 'down' } });
    w.answers(async () => good);
    await w.feed.reload();
    expect(w.feed.state.get()).toMatchObject({ phase: 'ready', problem: null });
  });

  it('that pass by themselves are tried again, at once when the connection is back; the others wait', async () => {
    const w = world();
    w.answers(() => Promise.reject(new Problem('network', 0, '', '', '')));
    w.feed.start();
    await settled();
    w.answers(async () => ({ items: [], next: null, position: { epoch: 'e', offset: 0 }, channel: 'c' }));
    w.feed.nudge();
    expect(w.feed.state.get().phase).toBe('failed');
    await settled();
    expect(w.feed.state.get().phase).toBe('ready');
    w.feed.nudge();
    await settled();
    expect(w.lists.length).toBe(2);
  });

  it('an answer that comes after the feed has stopped changes nothing', async () => {
    const w = world();
    w.feed.start();
    w.feed.stop();
    await settled();
    expect(w.subscriptions).toEqual([]);
    expect(w.feed.state.get().board.rows).toEqual([]);
  });

  it('a refusal is kept with its reason', async () => {
    const w = world();
    w.feed.start();
    await settled();
    w.last.handlers.onRefused(103, 'permission denied');
    expect(w.feed.state.get()).toMatchObject({ channel: 'refused', refusal: 'permission denied (103)' });
  });
});

describe('documents left out', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] }));
  afterEach(() => void vi.useRealTimers());

  it('are fetched when the row is seen, a few at a time, and retried', async () => {
    let running = 0;
    let most = 0;
    let failures = 1;
    const w = world();
    const ports = (w.feed as unknown as { ports: FeedPorts }).ports;
    ports.entity = async (_kind, id) => {
      running += 1;
      most = Math.max(most, running);
      await settled();
      running -= 1;
      if (failures-- > 0) throw new Problem('network', 0, '', '', '');
      return { ...change(id, 2, 20), doc: { title: 'fetched' } };
    };
    w.feed.start();
    await settled();
    for (let n = 0; n < 6; n += 1) w.last.handlers.onChange(change(`r${n}`, 1, n + 2, { doc: undefined, ref: true }));
    w.frame();
    expect(w.row('r0')?.ref).toBe(true);
    for (let n = 0; n < 6; n += 1) w.feed.want(`r${n}`);
    for (let n = 0; n < 12; n += 1) {
      await settled();
      vi.advanceTimersByTime(2000);
    }
    expect(most).toBeLessThanOrEqual(2);
    expect([0, 1, 2, 3, 4, 5].map((n) => w.row(`r${n}`)?.title?.uk)).toEqual(Array(6).fill('fetched'));
  });
});

describe('the batch', () => {
  it('flushes by itself above its bound when no frame comes', () => {
    const got: number[] = [];
    const batch = new Batch((changes) => got.push(changes.length), { request: () => 1, cancel: () => {} });
    for (let n = 0; n <= MAX_HELD; n += 1) batch.push(change('a', n, n));
    expect(got).toEqual([MAX_HELD + 1]);
  });
});
