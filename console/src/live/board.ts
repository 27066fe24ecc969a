// The board: pure functions over the rows of one kind. No clock, no network; `now` is given.
// Invariants (each has a unit test):
//   1. a change is applied only if its revision is newer than what the board knows of that entity, gone ones included;
//   2. rows are ordered by offset, newest first, one row per entity;
//   3. at most MAX_ROWS rows and MAX_GONE remembered departures, whatever happens;
//   4. a row never shows a summary older than its revision without saying so (`ref`: the document is still to come).
import type { Change, Entity, EntityList, Filter } from '../api/types';
import { TITLE_FIELDS, type Texts, fieldsOf, titleOf } from '../text/summary';

export const MAX_ROWS = 500;
export const MAX_GONE = 2000;
/** A row that left the filter or was purged stays readable for this long. */
export const LINGER_MS = 8000;

export interface Scope {
  kind: string;
  fields: readonly string[];
  filter: Filter;
}

export interface Row {
  id: string;
  revision: number;
  offset: number;
  op: string;
  at: string;
  by: string;
  title: Texts | null;
  fields: Readonly<Record<string, string>>;
  /** The document is too large for the list: its title and fields are to be fetched. */
  ref: boolean;
  trashed: boolean;
  missing: boolean;
  /** What the last live change changed; null when the row came from the list. */
  changed: readonly string[] | null;
  /** When this page saw the last live change (ms), for the flash. */
  liveAt: number;
  /** When it stopped matching the filter or was purged (ms), 0 while it belongs here. */
  leftAt: number;
}

export interface Board {
  rows: readonly Row[];
  next: string | null;
  total: number | null;
  /** Entities created or purged since the total was counted: the total is approximate. */
  drift: number;
  /** Older rows were dropped to stay within MAX_ROWS. */
  truncated: boolean;
  gone: ReadonlyMap<string, number>;
}

export const emptyBoard: Board = { rows: [], next: null, total: null, drift: 0, truncated: false, gone: new Map() };

export const matches = (fields: Readonly<Record<string, string>>, filter: Filter): boolean =>
  Object.entries(filter).every(([field, value]) => fields[field] === value);

const wanted = (scope: Scope) => [...new Set([...scope.fields, ...Object.keys(scope.filter)])];

function rowOf(item: Entity, scope: Scope): Row {
  const ref = item.ref === true || (item.doc === undefined && item.op !== 'purge');
  return {
    id: item.id,
    revision: item.revision,
    offset: item.offset,
    op: item.op,
    at: item.at,
    by: item.by,
    title: ref ? null : titleOf(item.doc),
    fields: ref ? {} : fieldsOf(item.doc, wanted(scope)),
    ref,
    trashed: Boolean(item.trashed_at) || item.op === 'trash',
    missing: Boolean(item.missing_since),
    changed: null,
    liveAt: 0,
    leftAt: 0,
  };
}

/** Puts rows into place and keeps the bounds. */
function assemble(board: Board, incoming: readonly Row[], part: Partial<Board> = {}): Board {
  const fresh = new Set(incoming.map((row) => row.id));
  const rows = [...board.rows.filter((row) => !fresh.has(row.id)), ...incoming].sort((a, b) => b.offset - a.offset);
  const truncated = board.truncated || rows.length > MAX_ROWS;
  return { ...board, ...part, truncated, rows: rows.slice(0, MAX_ROWS) };
}

/** The first page: replaces the rows, except those that the live stream already knows better. */
export function withList(list: EntityList, scope: Scope): Board {
  return assemble(
    { ...emptyBoard, next: list.next, total: list.total ?? null },
    list.items.map((item) => rowOf(item, scope)),
  );
}

/** A further page. It may be older than what was heard live meanwhile, so the revision rule decides row by row. */
export function withPage(board: Board, list: EntityList, scope: Scope): Board {
  const known = new Map(board.rows.map((row) => [row.id, row.revision]));
  const news = list.items.filter((item) => item.revision > Math.max(known.get(item.id) ?? 0, board.gone.get(item.id) ?? 0));
  return assemble(board, news.map((item) => rowOf(item, scope)), { next: list.next });
}

export interface Applied {
  board: Board;
  applied: number;
  /** Ids whose document must be fetched before it is known whether they belong here. */
  fetch: string[];
}

/** Applies a batch of publications. */
export function withChanges(board: Board, changes: readonly Change[], scope: Scope, now: number): Applied {
  const rows = new Map(board.rows.map((row) => [row.id, row]));
  const touched = new Map<string, Row>();
  const fetch = new Set<string>();
  const filtered = Object.keys(scope.filter).length > 0;
  let applied = 0;
  let drift = board.drift;
  for (const change of changes) {
    if (change.kind !== scope.kind) continue;
    const before = touched.get(change.id) ?? rows.get(change.id);
    if (change.revision <= Math.max(before?.revision ?? 0, board.gone.get(change.id) ?? 0)) continue;
    applied += 1;
    if (change.op === 'create') drift += 1;
    if (change.op === 'purge') drift -= 1;
    const row = changedRow(change, before, scope, now);
    if (row.ref && filtered) fetch.add(change.id);
    // Nobody has seen it here and it does not belong here (or that is not known yet): no row.
    if (!before && (row.leftAt > 0 || (row.ref && filtered))) continue;
    touched.set(change.id, row);
  }
  if (touched.size === 0) return { board: drift === board.drift ? board : { ...board, drift }, applied, fetch: [...fetch] };
  return { board: assemble(board, [...touched.values()], { drift }), applied, fetch: [...fetch] };
}

function changedRow(change: Change, before: Row | undefined, scope: Scope, now: number): Row {
  const doc = change.doc;
  const changed = change.changed ?? [];
  const bare = doc === undefined && change.op !== 'purge';
  const carried = bare && before && !before.ref && carries(change, before, scope) ? before : null;
  const row = rowOf(carried ? { ...change, ref: false, doc: null } : (change as Entity), scope);
  if (carried) Object.assign(row, { title: carried.title, fields: carried.fields });
  // Until the large document is read, the title already known is better than none.
  else if (row.ref && before) Object.assign(row, { title: before.title, fields: before.fields });
  if (change.op !== 'trash' && change.op !== 'restore' && change.op !== 'purge') row.trashed = before?.trashed ?? false;
  const left = change.op === 'purge' || (!row.ref && !matches(row.fields, scope.filter));
  return { ...row, changed: merged(before, changed, now), liveAt: now, leftAt: left ? now : 0 };
}

/** `changed` names every top-level field that differs, so a document that is not sent may still leave the row as it is. */
function carries(change: Change, before: Row, scope: Scope): boolean {
  if (change.revision !== before.revision + 1 || !change.changed) return false;
  const shown = new Set<string>([...TITLE_FIELDS, ...wanted(scope).map((path) => path.split('.')[0]!)]);
  return !change.changed.some((field) => shown.has(field));
}

/** Changes of one frame are told together: the eye sees one flash. */
const merged = (before: Row | undefined, changed: readonly string[], now: number): readonly string[] =>
  before?.changed && before.liveAt === now ? [...new Set([...before.changed, ...changed])] : changed;

/** A document that was fetched because it was left out of the list or of a publication. */
export function withDocument(board: Board, item: Entity, scope: Scope, now: number): Board {
  const before = board.rows.find((row) => row.id === item.id);
  if (item.revision < Math.max(before?.revision ?? 0, (board.gone.get(item.id) ?? 0) + 1)) return board;
  const row = rowOf({ ...item, ref: false, doc: item.doc ?? null }, scope);
  const belongs = matches(row.fields, scope.filter);
  if (!before && !belongs) return board;
  const newer = !before || item.revision > before.revision;
  const live = newer ? { changed: before?.changed ?? [], liveAt: now } : { changed: before.changed, liveAt: before.liveAt };
  return assemble(board, [{ ...row, ...live, leftAt: belongs ? 0 : now }]);
}

/** Fetching failed because there is nothing (404) to fetch: the entity is gone. */
export function withoutEntity(board: Board, id: string): Board {
  const row = board.rows.find((it) => it.id === id);
  return row ? { ...board, rows: board.rows.filter((it) => it !== row), gone: remember(board.gone, [row]) } : board;
}

/** Lets go of rows that no longer belong here, remembering their revisions. */
export function pruned(board: Board, now: number): Board {
  const leaving = board.rows.filter((row) => row.leftAt > 0 && now - row.leftAt >= LINGER_MS);
  if (leaving.length === 0) return board;
  const gone = remember(board.gone, leaving);
  return { ...board, rows: board.rows.filter((row) => !leaving.includes(row)), gone };
}

function remember(gone: ReadonlyMap<string, number>, rows: readonly Row[]): ReadonlyMap<string, number> {
  const next = new Map(gone);
  for (const row of rows) {
    next.delete(row.id);
    next.set(row.id, row.revision);
  }
  for (const id of next.keys()) {
    if (next.size <= MAX_GONE) break;
    next.delete(id);
  }
  return next;
}
