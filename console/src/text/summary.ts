// What a row shows of a document: a title and the declared fields, as plain bounded strings. The document itself is
// not kept, so five hundred rows stay small whatever the documents weigh.
// Invariant: results are strings for text nodes; nothing here makes or trusts markup.

/** Longer titles are cut: a row is one line or two. */
const MAX_TEXT = 300;

export type Lang = 'uk' | 'en';

export interface Texts {
  uk: string;
  en: string;
}

const cut = (text: string) => (text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT - 1)}…` : text);

/** Line breaks and control characters become spaces: one line stays one line. */
const flat = (text: string) => cut(text.slice(0, MAX_TEXT * 2).replace(/[\s\p{Cc}]+/gu, ' ').trim());

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** A plain string, or a multilingual object ({uk_UA, en_US?}); null when it is neither. */
export function texts(value: unknown): Texts | null {
  if (typeof value === 'string') {
    const text = flat(value);
    return { uk: text, en: text };
  }
  if (!isObject(value)) return null;
  const pick = (prefix: string) => {
    const key = Object.keys(value).find((k) => k.toLowerCase().startsWith(prefix) && typeof value[k] === 'string');
    return key ? flat(value[key] as string) : '';
  };
  const other = () => {
    const any = Object.entries(value).find(([k, v]) => /^[a-z]{2}([_-][A-Za-z]{2})?$/.test(k) && typeof v === 'string');
    return any ? flat(any[1] as string) : '';
  };
  const uk = pick('uk');
  const en = pick('en');
  const fallback = uk || en || other();
  return fallback ? { uk: uk || fallback, en: en || fallback } : null;
}

/** The first thing in the document that reads like a name. */
export function titleOf(doc: unknown): Texts | null {
  if (!isObject(doc)) return null;
  for (const key of TITLE_FIELDS) {
    const found = texts(doc[key]);
    if (found && found.uk) return found;
  }
  return null;
}

export const TITLE_FIELDS = ['title', 'name', 'fullName', 'description'] as const;

/** A declared field, which may be a dotted path. */
export function valueAt(doc: unknown, path: string): unknown {
  if (isObject(doc) && path in doc) return doc[path];
  return path.split('.').reduce<unknown>((value, key) => (isObject(value) ? value[key] : undefined), doc);
}

/** The value as the list's filter compares it. */
export function fieldText(value: unknown): string {
  if (value === null || value === undefined) return '';
  if (typeof value === 'string') return cut(value);
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  const multilingual = texts(value);
  return multilingual ? multilingual.uk : cut(JSON.stringify(value));
}

export function fieldsOf(doc: unknown, fields: readonly string[]): Record<string, string> {
  return Object.fromEntries(fields.map((field) => [field, fieldText(valueAt(doc, field))]));
}

/** Changed names with those that say something first: stamps change with every write. */
export function tellingFirst(names: readonly string[]): string[] {
  const stamp = (name: string) => name.startsWith('_') || name === 'dateModified';
  return [...names.filter((name) => !stamp(name)), ...names.filter(stamp)];
}
