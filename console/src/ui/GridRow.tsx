// One entity on the board. Every text is a React text node inside <bdi>: markup in a title is letters, and a
// right-to-left trick in it ends with the title.
import { type MouseEvent, memo, useEffect, useRef } from 'react';
import { useLang } from '../i18n/useLang';
import type { Row } from '../live/board';
import { tellingFirst } from '../text/summary';
import { Time } from './parts';

/** A row flashes when it is put on the screen this soon after its change. */
const FRESH_MS = 2500;
const MAX_CHIPS = 4;

export const rowDomId = (id: string): string => `row-${encodeURIComponent(id)}`;

interface Props {
  row: Row;
  fields: readonly string[];
  active: boolean;
  open: boolean;
  href: string;
  onOpen: (id: string) => void;
  onSeen: (id: string) => void;
}

export const GridRow = memo(function GridRow({ row, fields, active, open, href, onOpen, onSeen }: Props) {
  const { t, lang } = useLang();
  const element = useSeen(row.ref, row.id, onSeen);
  const fresh = row.liveAt > 0 && Date.now() - row.liveAt < FRESH_MS;
  const states = ['grid-row', fresh && 'fresh', active && 'active', open && 'opened', row.trashed && 'trashed', row.leftAt > 0 && 'left'];
  const title = row.title?.[lang] ?? '';
  const click = (event: MouseEvent) => {
    // A new tab, or text being selected, is not an opening.
    if (event.ctrlKey || event.metaKey || event.shiftKey || getSelection()?.type === 'Range') return;
    event.preventDefault();
    onOpen(row.id);
  };
  return (
    <div
      ref={element} id={rowDomId(row.id)} role="row" aria-selected={open} className={states.filter(Boolean).join(' ')}
      data-id={row.id} data-revision={row.revision} data-live={row.liveAt > 0 || undefined} onClick={click}
    >
      <div role="gridcell" className="cell-title">
        <a href={href} tabIndex={-1} className={title ? 'title' : 'title muted'}>
          <bdi>{title || t(row.ref ? 'row.ref' : 'row.untitled')}</bdi>
        </a>
        <span className="under"><bdi className="mono">{row.id}</bdi><Badges row={row} /></span>
      </div>
      {fields.length === 0 && <div role="gridcell" className="cell-none" aria-hidden="true" />}
      {fields.map((field) => (
        <div key={field} role="gridcell" data-label={field} className={row.changed?.includes(field) ? 'cell changed' : 'cell'}>
          <bdi>{row.fields[field] || '–'}</bdi>
        </div>
      ))}
      <div role="gridcell" className="cell-changed"><Changed row={row} /></div>
      <div role="gridcell" className="cell-revision" data-label={t('col.revision')}>{row.revision}</div>
      <div role="gridcell" className="cell-at"><Time at={row.at} /><bdi className="under mono">{row.by}</bdi></div>
    </div>
  );
});

function Badges({ row }: { row: Row }) {
  const { t } = useLang();
  return (
    <>
      {row.trashed && <span className="badge warn">{t('row.trashed')}</span>}
      {row.missing && <span className="badge warn">{t('row.missing')}</span>}
      {row.op === 'purge' && <span className="badge bad">{t('row.purged')}</span>}
      {row.leftAt > 0 && row.op !== 'purge' && <span className="badge calm">{t('row.left')}</span>}
    </>
  );
}

function Changed({ row }: { row: Row }) {
  const { t, word } = useLang();
  const names = tellingFirst(row.changed ?? []);
  const rest = names.length - MAX_CHIPS;
  return (
    <>
      {(row.op !== 'update' || row.changed !== null) && <span className={`op op-${row.op}`}>{word('op', row.op)}</span>}
      {names.slice(0, MAX_CHIPS).map((name) => <bdi key={name} className="chip">{name}</bdi>)}
      {rest > 0 && <span className="muted">{t('row.more_fields', { n: rest })}</span>}
    </>
  );
}

/** Tells once when a row without its document comes into view: only what is looked at is fetched. */
function useSeen(pending: boolean, id: string, onSeen: (id: string) => void) {
  const element = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const node = element.current;
    if (!pending || !node) return;
    const observer = new IntersectionObserver((entries) => {
      if (!entries.some((it) => it.isIntersecting)) return;
      observer.disconnect();
      onSeen(id);
    });
    observer.observe(node);
    return () => observer.disconnect();
  }, [pending, id, onSeen]);
  return element;
}
