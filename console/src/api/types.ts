// The hub's wire shapes, named as in the API. Everything that may grow on the hub's side (states, ops) is an open
// string here: a value this page does not know is shown as it is, never an error.

export interface Position {
  epoch: string;
  offset: number;
}

export interface Kind {
  kind: string;
  source: string;
  mirror?: string | null;
  fields: string[];
  channel: string;
  readable: boolean;
}

export interface Mirror {
  name: string;
  kind: string;
  state: string;
  reason: string | null;
  since: string | null;
  lag_ms: number | null;
  cursor: string | null;
  newest_version: string | null;
  objects: number;
  applied: number;
  unchanged: number;
  stale: number;
  quarantined: number;
  reconnects: number;
  last_error: string | null;
  last_frame_at: string | null;
  owner: string | null;
  here: boolean;
  max_message_bytes: number;
}

export interface Entity {
  kind: string;
  id: string;
  revision: number;
  offset: number;
  op: string;
  at: string;
  by: string;
  version?: string | null;
  trashed_at?: string | null;
  missing_since?: string | null;
  channel?: string;
  doc?: unknown;
  ref?: boolean;
}

export interface EntityList {
  items: Entity[];
  next: string | null;
  position: Position;
  channel: string;
  total?: number;
}

/** One publication of `entities.{kind}`. */
export interface Change {
  kind: string;
  id: string;
  revision: number;
  offset: number;
  op: string;
  at: string;
  by: string;
  changed?: string[];
  doc?: unknown;
  ref?: boolean;
}

export interface HistoryItem {
  revision: number;
  offset: number;
  op: string;
  at: string;
  by: string;
  changed: string[];
  before: Record<string, unknown> | null;
  kept: boolean;
}

export interface HistoryPage {
  items: HistoryItem[];
  next: number | string | null;
}

/** Equality filters on declared fields. */
export type Filter = Readonly<Record<string, string>>;
