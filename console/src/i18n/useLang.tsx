// The chosen language for the whole tree. Kept in localStorage; by default the browser's, Ukrainian unless it asks for
// another first.
import { type ReactNode, createContext, useContext, useEffect, useMemo, useState } from 'react';
import type { Lang } from '../text/summary';
import { duration, fullMoment, moment, size } from './format';
import { type Key, type Params, formatNumber, openWord, translate } from './translate';

const KEY = 'dzvin.lang';

export function chooseLang(stored: string | null, wanted: readonly string[]): Lang {
  if (stored === 'uk' || stored === 'en') return stored;
  const first = wanted.find((it) => /^(uk|en)\b/i.test(it));
  return first?.toLowerCase().startsWith('en') ? 'en' : 'uk';
}

const read = (): string | null => {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
};

function make(lang: Lang, choose: (lang: Lang) => void) {
  return {
    lang,
    choose,
    t: (key: Key, params?: Params) => translate(lang, key, params),
    word: (prefix: 'mirror.state' | 'op', value: string) => openWord(lang, prefix, value),
    number: (n: number) => formatNumber(lang, n),
    moment: (when: string | number) => moment(lang, when),
    fullMoment: (when: string | number) => fullMoment(lang, when),
    duration: (ms: number) => duration(lang, ms),
    size: (bytes: number) => size(lang, bytes),
  };
}

const Words = createContext(make('uk', () => {}));

export const useLang = () => useContext(Words);

export function LangProvider({ children }: { children: ReactNode }) {
  const [lang, setLang] = useState<Lang>(() => chooseLang(read(), navigator.languages));
  useEffect(() => {
    document.documentElement.lang = lang;
    document.title = `${translate(lang, 'app.name')}: ${translate(lang, 'app.subtitle')}`;
  }, [lang]);
  const words = useMemo(
    () =>
      make(lang, (next) => {
        try {
          localStorage.setItem(KEY, next);
        } catch {
          // A browser that keeps nothing: the choice lives as long as the page.
        }
        setLang(next);
      }),
    [lang],
  );
  return <Words value={words}>{children}</Words>;
}
