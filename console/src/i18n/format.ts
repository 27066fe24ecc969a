// Times, durations and sizes as people read them, by locale. `now` is given where it matters.
import type { Lang } from '../text/summary';
import { type Key, formatNumber, locales, translate } from './translate';

const cached = (make: (locale: string) => Intl.DateTimeFormat): Record<Lang, Intl.DateTimeFormat> => ({
  uk: make(locales.uk),
  en: make(locales.en),
});
const clock = cached((it) => new Intl.DateTimeFormat(it, { hour: '2-digit', minute: '2-digit', second: '2-digit' }));
const day = cached((it) => new Intl.DateTimeFormat(it, { day: '2-digit', month: '2-digit', year: 'numeric' }));
const full = cached((it) => new Intl.DateTimeFormat(it, { dateStyle: 'long', timeStyle: 'long' }));

const dateOf = (when: string | number): Date | null => {
  const date = new Date(when);
  return Number.isNaN(date.getTime()) ? null : date;
};

/** Today's moments by the clock, older ones with their date; what is not a time is shown as it is. */
export function moment(lang: Lang, when: string | number, now = Date.now()): string {
  const date = dateOf(when);
  if (!date) return String(when);
  const time = clock[lang].format(date);
  return new Date(now).toDateString() === date.toDateString() ? time : `${day[lang].format(date)} ${time}`;
}

export const fullMoment = (lang: Lang, when: string | number): string => {
  const date = dateOf(when);
  return date ? full[lang].format(date) : String(when);
};

export function duration(lang: Lang, ms: number): string {
  const [unit, n]: [Key, number] =
    ms < 1000 ? ['unit.ms', ms] : ms < 120_000 ? ['unit.s', ms / 1000] : ms < 7_200_000 ? ['unit.min', ms / 60_000] : ['unit.h', ms / 3_600_000];
  return translate(lang, unit, { n: n < 10 && unit !== 'unit.ms' ? formatNumber(lang, Math.round(n * 10) / 10) : Math.round(n) });
}

export function size(lang: Lang, bytes: number): string {
  const [unit, n]: [Key, number] =
    bytes < 1024 ? ['unit.B', bytes] : bytes < 1024 ** 2 ? ['unit.KB', bytes / 1024] : ['unit.MB', bytes / 1024 ** 2];
  return translate(lang, unit, { n: n < 10 && unit !== 'unit.B' ? formatNumber(lang, Math.round(n * 10) / 10) : Math.round(n) });
}
