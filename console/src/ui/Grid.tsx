// The rows as one keyboard stop: arrows move, Enter opens. The focus stays on the grid and names the active row
// (aria-activedescendant), so a row that changes and moves under the operator's hands never takes the focus away.
import { type CSSProperties, type KeyboardEvent, memo, useCallback, useEffect, useMemo, useRef, useState } from 'react';
import { useLang } from '../i18n/useLang';
import type { Row } from '../live/board';
import { GridRow, rowDomId } from './GridRow';

/** More columns than this do not fit beside the title; the rest is in the document. */
const MAX_FIELD_COLUMNS = 3;
const PAGE = 10;

interface Props {
  rows: readonly Row[];
  fields: readonly string[];
  openId: string | null;
  label: string;
  href: (id: string) => string;
  onOpen: (id: string) => void;
  onSeen: (id: string) => void;
}

export const Grid = memo(GridView, (a, b) => a.rows === b.rows && a.openId === b.openId && a.fields === b.fields && a.onOpen === b.onOpen);

function GridView({ rows, fields, openId, label, href, onOpen, onSeen }: Props) {
  const { t } = useLang();
  // The same array for every frame: rows are skipped when nothing of theirs has changed.
  const shown = useMemo(() => fields.slice(0, MAX_FIELD_COLUMNS), [fields]);
  const { active, setActive, onKeyDown } = useCursor(rows, onOpen);
  const openRow = useCallback(
    (id: string) => {
      setActive(id);
      onOpen(id);
    },
    [onOpen, setActive],
  );
  const columns: CSSProperties = { ['--fields' as string]: Math.max(1, shown.length) };
  return (
    <div
      id="grid" className={active ? 'grid moving' : 'grid'} role="grid" tabIndex={0} style={columns} aria-label={label}
      aria-describedby="grid-keys" aria-activedescendant={active ? rowDomId(active) : undefined} onKeyDown={onKeyDown}
    >
      <div role="row" className="grid-head">
        <span role="columnheader">{t('col.title')}</span>
        {shown.length === 0 && <span role="columnheader" aria-hidden="true" />}
        {shown.map((field) => <span key={field} role="columnheader">{field}</span>)}
        <span role="columnheader">{t('col.changed')}</span>
        <span role="columnheader">{t('col.revision')}</span>
        <span role="columnheader">{t('col.at')}</span>
      </div>
      {rows.map((row) => (
        // A changed row is a new element: only it moves in the document, so only it flashes.
        <GridRow
          key={`${row.id}\n${row.revision}`} row={row} fields={shown} active={row.id === active}
          open={row.id === openId} href={href(row.id)} onOpen={openRow} onSeen={onSeen}
        />
      ))}
      <p id="grid-keys" className="unseen">{t('board.keys')}</p>
    </div>
  );
}

/** The active row, by id: it stays the same entity wherever that moves. */
function useCursor(rows: readonly Row[], onOpen: (id: string) => void) {
  const [active, setActive] = useState<string | null>(null);
  const at = rows.findIndex((row) => row.id === active);
  const last = useRef(0);
  useEffect(() => {
    if (at >= 0) last.current = at;
  }, [at]);
  // The active row has gone: its place is taken by whoever stands there now.
  const cursor = at >= 0 ? at : Math.min(last.current, rows.length - 1);
  const move = (to: number) => {
    const row = rows[Math.max(0, Math.min(rows.length - 1, to))];
    if (!row) return;
    setActive(row.id);
    requestAnimationFrame(() => document.getElementById(rowDomId(row.id))?.scrollIntoView({ block: 'nearest' }));
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: PAGE, PageUp: -PAGE, Home: -Infinity, End: Infinity }[event.key];
    if (step !== undefined) {
      event.preventDefault();
      move(active === null && Math.abs(step) === 1 ? cursor : cursor + step);
    } else if (event.key === 'Enter' && active !== null && at >= 0) {
      event.preventDefault();
      onOpen(active);
    }
  };
  return { active: at >= 0 ? active : null, setActive, onKeyDown };
}
