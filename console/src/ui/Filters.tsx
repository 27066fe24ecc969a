// Equality filters on the declared fields. Values seen on the board are offered; any other may be typed.
import { type FormEvent, useState } from 'react';
import type { Filter } from '../api/types';
import { useLang } from '../i18n/useLang';
import type { Row } from '../live/board';
import { useNarrow } from './useNarrow';

/** Offers per field: a hint, not a dictionary. */
const MAX_OFFERS = 30;

interface Props {
  fields: string[];
  filter: Filter;
  rows: readonly Row[];
  onFilter: (filter: Filter) => void;
}

export function Filters({ fields, filter, rows, onFilter }: Props) {
  const { t } = useLang();
  const narrow = useNarrow();
  // Gathered when a field is entered, not with every change of the board.
  const [offered, setOffered] = useState<Record<string, string[]>>({});
  if (fields.length === 0) return null;
  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const data = new FormData(event.currentTarget);
    const next: Record<string, string> = {};
    for (const field of fields) {
      const value = String(data.get(field) ?? '').trim();
      if (value) next[field] = value;
    }
    onFilter(next);
  };
  const form = (
    <form className="filters" role="search" aria-label={t('filter.title')} onSubmit={submit}>
      {fields.map((field) => (
        <label key={field} className="field">
          <span>{field}</span>
          <input name={field} defaultValue={filter[field] ?? ''} list={`offers-${field}`} placeholder={t('filter.any')} autoComplete="off" spellCheck={false} onFocus={() => setOffered({ ...offered, [field]: offers(rows, field) })} />
          <datalist id={`offers-${field}`}>{offered[field]?.map((value) => <option key={value} value={value} />)}</datalist>
        </label>
      ))}
      <button type="submit">{t('filter.apply')}</button>
      {Object.keys(filter).length > 0 && (
        <button type="button" className="quiet" onClick={() => onFilter({})}>{t('filter.clear')}</button>
      )}
    </form>
  );
  if (!narrow) return form;
  return (
    <details className="filters-fold" open={Object.keys(filter).length > 0}>
      <summary>{t('filter.title')}</summary>
      {form}
    </details>
  );
}

function offers(rows: readonly Row[], field: string): string[] {
  const seen = new Set<string>();
  for (const row of rows) {
    const value = row.fields[field];
    if (value) seen.add(value);
    if (seen.size >= MAX_OFFERS) break;
  }
  return [...seen].sort();
}
