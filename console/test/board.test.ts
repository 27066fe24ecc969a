import { describe, expect, it } from 'vitest';
import type { Change, Entity, EntityList } from '../src/api/types';
import { LINGER_MS, MAX_GONE, MAX_ROWS, type Scope, emptyBoard, pruned, withChanges, withDocument, withList, withPage, withoutEntity } from '../src/live/board';

const scope: Scope = { kind: 'procedure', fields: ['status'], filter: {} };
const filtered: Scope = { ...scope, filter: { status: 'active' } };

const base = { kind: 'procedure', at: '2026-11-20T09:00:00Z', by: 'mirror:procedure' };
const item = (id: string, revision: number, offset: number, part: Partial<Entity> = {}): Entity => ({
  ...base, id, revision, offset, op: 'update', doc: { title: `${id} r${revision}`, status: 'active' }, ...part,
});
const change = (id: string, revision: number, offset: number, part: Partial<Change> = {}): Change => ({
  ...item(id, revision, offset), changed: ['title'], ...part,
});
const list = (...items: Entity[]): EntityList => ({ items, next: 'c1', position: { epoch: 'e', offset: 10 }, channel: 'entities.procedure', total: items.length });
const ids = (board: { rows: readonly { id: string }[] }) => board.rows.map((row) => row.id);

describe('the revision rule', () => {
  const board = withList(list(item('a', 5, 10), item('b', 2, 9)), scope);

  it('applies what is newer and ignores what is equal or older', () => {
    for (const revision of [1, 4, 5]) {
      const it = withChanges(board, [change('a', revision, 11)], scope, 1);
      expect(it.applied).toBe(0);
      expect(it.board).toBe(board);
    }
    expect(withChanges(board, [change('a', 6, 11)], scope, 1).board.rows[0]).toMatchObject({ id: 'a', revision: 6, title: { uk: 'a r6' } });
  });

  it('ends the same in whatever order and however often changes come', () => {
    const changes = [change('a', 6, 11), change('b', 3, 12), change('a', 7, 13), change('c', 1, 14, { op: 'create' })];
    const once = withChanges(board, changes, scope, 1).board;
    const mixed = [...changes].reverse().concat(changes);
    const again = mixed.reduce((it, next) => withChanges(it, [next], scope, 1).board, board);
    expect(ids(again)).toEqual(['c', 'a', 'b']);
    expect(again.rows.map((row) => row.revision)).toEqual(once.rows.map((row) => row.revision));
  });

  it('holds for pages: an older page never replaces what was heard live', () => {
    const live = withChanges(board, [change('old', 8, 20)], scope, 1).board;
    const paged = withPage(live, list(item('old', 7, 3), item('new', 1, 2)), scope);
    expect(paged.rows.find((row) => row.id === 'old')?.revision).toBe(8);
    expect(ids(paged)).toEqual(['old', 'a', 'b', 'new']);
  });

  it('holds for the gone: a page cannot bring back what has left', () => {
    const left = withChanges(withList(list(item('a', 5, 10)), filtered), [change('a', 6, 11, { doc: { status: 'done' } })], filtered, 1).board;
    expect(left.rows[0]?.leftAt).toBe(1);
    const gone = pruned(left, 1 + LINGER_MS);
    expect(gone.rows).toEqual([]);
    expect(withPage(gone, list(item('a', 6, 10)), filtered).rows).toEqual([]);
    expect(ids(withChanges(gone, [change('a', 7, 12)], filtered, 2).board)).toEqual(['a']);
  });

  it('ignores other kinds', () => {
    expect(withChanges(board, [change('a', 9, 99, { kind: 'call' })], scope, 1).applied).toBe(0);
  });
});

describe('order and bounds', () => {
  it('orders by offset, newest first, one row per entity', () => {
    const board = withChanges(withList(list(item('a', 1, 3), item('b', 1, 2), item('c', 1, 1)), scope), [change('c', 2, 4), change('c', 3, 6), change('b', 2, 5)], scope, 1).board;
    expect(ids(board)).toEqual(['c', 'b', 'a']);
  });

  it('keeps at most MAX_ROWS and says that older ones were dropped', () => {
    const many = Array.from({ length: MAX_ROWS + 50 }, (_, n) => change(`e${n}`, 1, n + 1, { op: 'create' }));
    const { board } = withChanges(emptyBoard, many, scope, 1);
    expect(board.rows.length).toBe(MAX_ROWS);
    expect(board.rows[0]?.id).toBe(`e${MAX_ROWS + 49}`);
    expect(board.truncated).toBe(true);
    expect(board.drift).toBe(MAX_ROWS + 50);
  });

  it('remembers a bounded number of departures', () => {
    let board = emptyBoard;
    for (let n = 0; n < MAX_GONE + 20; n += 1) {
      board = withoutEntity(withChanges(board, [change(`g${n}`, 1, n + 1)], scope, 1).board, `g${n}`);
    }
    expect(board.gone.size).toBe(MAX_GONE);
    expect(board.gone.has('g0')).toBe(false);
  });
});

describe('filters, trash and purge', () => {
  it('takes in what begins to match and marks what stops', () => {
    const board = withList(list(item('a', 1, 1)), filtered);
    const other = withChanges(board, [change('x', 1, 2, { doc: { status: 'done' } })], filtered, 5).board;
    expect(ids(other)).toEqual(['a']);
    const more = withChanges(board, [change('x', 2, 3)], filtered, 5).board;
    expect(ids(more)).toEqual(['x', 'a']);
  });

  it('marks trash, takes the mark away on restore, and shows nothing of a purged document', () => {
    let { board } = withChanges(withList(list(item('a', 1, 1)), scope), [change('a', 2, 2, { op: 'trash' })], scope, 1);
    expect(board.rows[0]?.trashed).toBe(true);
    board = withChanges(board, [change('a', 3, 3)], scope, 2).board;
    expect(board.rows[0]?.trashed).toBe(true);
    board = withChanges(board, [change('a', 4, 4, { op: 'restore' })], scope, 3).board;
    expect(board.rows[0]?.trashed).toBe(false);
    board = withChanges(board, [change('a', 5, 5, { op: 'purge', doc: undefined })], scope, 4).board;
    expect(board.rows[0]).toMatchObject({ title: null, ref: false, leftAt: 4 });
    expect(pruned(board, 4 + LINGER_MS).rows).toEqual([]);
  });
});

describe('documents left out', () => {
  const board = withList(list(item('a', 1, 1)), scope);
  const bare = { doc: undefined, ref: true };

  it('keeps the known title while the document is to be fetched', () => {
    const row = withChanges(board, [change('a', 2, 2, { ...bare, changed: ['title', 'items'] })], scope, 1).board.rows[0];
    expect(row).toMatchObject({ ref: true, title: { uk: 'a r1' }, revision: 2 });
  });

  it('needs no document when nothing shown has changed', () => {
    expect(withChanges(board, [change('a', 2, 2, { ...bare, changed: ['items'] })], scope, 1).board.rows[0]?.ref).toBe(false);
    // A revision in between was not heard: what it changed is not known.
    expect(withChanges(board, [change('a', 3, 2, { ...bare, changed: ['items'] })], scope, 1).board.rows[0]?.ref).toBe(true);
  });

  it('takes the fetched document unless it is older', () => {
    const waiting = withChanges(board, [change('a', 3, 3, bare)], scope, 1).board;
    expect(withDocument(waiting, item('a', 2, 2), scope, 2)).toBe(waiting);
    expect(withDocument(waiting, item('a', 3, 3), scope, 2).rows[0]).toMatchObject({ ref: false, title: { uk: 'a r3' }, liveAt: 1 });
    expect(withDocument(waiting, item('a', 4, 4), scope, 2).rows[0]).toMatchObject({ revision: 4, liveAt: 2 });
  });

  it('asks for the document before deciding whether an unknown entity matches', () => {
    const { board: same, fetch } = withChanges(board, [change('z', 1, 5, bare)], filtered, 1);
    expect(fetch).toEqual(['z']);
    expect(ids(same)).toEqual(['a']);
    expect(ids(withDocument(same, item('z', 1, 5), filtered, 1))).toEqual(['z', 'a']);
    expect(ids(withDocument(same, item('z', 1, 5, { doc: { status: 'done' } }), filtered, 1))).toEqual(['a']);
  });
});
