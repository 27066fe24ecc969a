// Keys to words. Pure: a language and a key in, plain text out (never markup).
import type { Problem } from '../api/problem';
import type { Link } from '../live/hub';
import type { Lang } from '../text/summary';
import { en } from './en';
import { type Plural, uk } from './uk';

export type Key = keyof typeof uk;
export type Params = Readonly<Record<string, string | number>>;

const words: Record<Lang, Record<Key, string | Plural>> = { uk, en };
const plurals = { uk: new Intl.PluralRules('uk'), en: new Intl.PluralRules('en') };
export const locales: Record<Lang, string> = { uk: 'uk-UA', en: 'en-GB' };
const numbers = { uk: new Intl.NumberFormat(locales.uk), en: new Intl.NumberFormat(locales.en) };

export const formatNumber = (lang: Lang, n: number): string => numbers[lang].format(n);

export function translate(lang: Lang, key: Key, params: Params = {}): string {
  const found = words[lang][key];
  const text = typeof found === 'string' ? found : form(found, plurals[lang].select(Number(params.n ?? 0)));
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => {
    const value = params[name];
    if (value === undefined) return whole;
    return typeof value === 'number' && name === 'n' ? formatNumber(lang, value) : String(value);
  });
}

const form = (plural: Plural, rule: Intl.LDMLPluralRule): string =>
  (rule === 'one' || rule === 'few' || rule === 'many' ? plural[rule] : undefined) ?? plural.other;

/** An open word of the API (a state, an op): its translation, or itself. */
export const openWord = (lang: Lang, prefix: 'mirror.state' | 'op', word: string): string => {
  const key = `${prefix}.${word}`;
  return key in words[lang] ? translate(lang, key as Key) : word;
};

export function problemWords(lang: Lang, problem: Problem): string {
  if (problem.origin !== 'http') return translate(lang, `problem.${problem.origin}`);
  const { status } = problem;
  if (status === 403 || status === 404 || status === 429) return translate(lang, `problem.${status}`);
  return translate(lang, status >= 500 ? 'problem.5xx' : 'problem.other');
}

/** The server's own words for those who will search the logs: status, code and detail, as they are. */
export const problemDetail = (problem: Problem): string =>
  [problem.status || '', problem.code, problem.detail || problem.title].filter(Boolean).join(' · ');

/** Why there is no connection, in words; '' when there is nothing to explain. */
export function linkReason(lang: Lang, { state, code, reason }: Link): string {
  if (state === 'connected') return '';
  if (state === 'offline') return translate(lang, 'link.reason.offline');
  const key = REASONS[code];
  if (key) return translate(lang, key);
  if (code === 0 || !reason) return '';
  return translate(lang, 'link.reason.other', { reason, code });
}

const REASONS: Record<number, Key> = {
  1: 'link.reason.network', 2: 'link.reason.network', 11: 'link.reason.network',
  5: 'link.reason.issuer', 6: 'link.reason.issuer',
  3001: 'link.reason.shutdown', 3008: 'link.reason.slow', 3012: 'link.reason.silence',
  3504: 'link.reason.limit', 3507: 'link.reason.forbidden', 1009: 'link.reason.size',
};
