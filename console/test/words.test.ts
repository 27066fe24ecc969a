import { describe, expect, it } from 'vitest';
import { Problem, problemFrom } from '../src/api/problem';
import { duration, moment, size } from '../src/i18n/format';
import { en } from '../src/i18n/en';
import { linkReason, openWord, problemDetail, problemWords, translate } from '../src/i18n/translate';
import { uk } from '../src/i18n/uk';
import { chooseLang } from '../src/i18n/useLang';

const params = (text: string) => [...text.matchAll(/\{(\w+)\}/g)].map((it) => it[1]).sort();
const forms = (it: unknown) => (typeof it === 'string' ? { other: it } : (it as Record<string, string>));

describe('both languages', () => {
  it('have the same keys', () => expect(Object.keys(en).sort()).toEqual(Object.keys(uk).sort()));

  it('have the same parameters, in every plural form, and no empty text', () => {
    for (const [key, text] of Object.entries(uk)) {
      const expected = params(forms(text).other!);
      for (const form of [...Object.values(forms(text)), ...Object.values(forms(en[key as keyof typeof en]))]) {
        expect([key, params(form)]).toEqual([key, expected]);
        expect(form.trim()).not.toBe('');
      }
    }
  });

  it('have all the plural forms of their language', () => {
    for (const [key, text] of Object.entries(uk)) {
      if (typeof text === 'string') continue;
      expect([key, Object.keys(text).sort()]).toEqual([key, ['few', 'many', 'one', 'other']]);
      expect([key, Object.keys(en[key as keyof typeof en]).sort()]).toEqual([key, ['one', 'other']]);
    }
  });

  it('choose plurals by number', () => {
    expect([1, 2, 5, 21, 112].map((n) => translate('uk', 'board.count', { n }))).toEqual(['1 рядок', '2 рядки', '5 рядків', '21 рядок', '112 рядків']);
    expect([1, 2].map((n) => translate('en', 'board.count', { n }))).toEqual(['1 row', '2 rows']);
  });

  it('are chosen by what was kept, then by the browser, Ukrainian by default', () => {
    expect(chooseLang('en', ['uk'])).toBe('en');
    expect(chooseLang(null, ['de', 'en-US', 'uk'])).toBe('en');
    expect(chooseLang(null, ['uk-UA', 'en'])).toBe('uk');
    expect(chooseLang('klingon', ['de'])).toBe('uk');
  });
});

describe('open words', () => {
  it('are translated where known and shown as they are where not', () => {
    expect(openWord('en', 'mirror.state', 'over_limit')).toBe('over the size limit');
    expect(openWord('uk', 'mirror.state', 'dreaming')).toBe('dreaming');
    expect(openWord('uk', 'op', 'toString')).toBe('toString');
  });

  it('parameters are put in as text, once', () => {
    expect(translate('en', 'board.refused', { reason: '{time} <b>' })).toContain('{time} <b>');
  });
});

describe('problems', () => {
  it('are read from problem documents, and from anything else by the status', () => {
    const it = problemFrom(503, 'application/problem+json', '{"title":"T","code":"down","detail":"D","status":503}');
    expect(problemDetail(it)).toBe('503 · down · D');
    expect(problemWords('en', it)).toBe('The hub cannot answer right now.');
    for (const [type, body] of [['text/html', '<h1>502</h1>'], ['application/json', '{broken'], ['application/json', '"text"'], [null, '']] as const) {
      expect(problemDetail(problemFrom(502, type, body))).toBe('502');
    }
    expect(problemFrom(401, null, '').signedOut).toBe(true);
    expect(problemWords('uk', new Problem('timeout', 0, '', '', ''))).toBe('Хаб не відповів вчасно.');
  });
});

describe('the connection', () => {
  const link = { state: 'reconnecting' as const, code: 0, reason: '', lostAt: 1 };
  it('is explained in words where the code is known and by the code where not', () => {
    expect(linkReason('en', { ...link, code: 3001, reason: 'shutdown' })).toBe('the hub is restarting');
    expect(linkReason('en', { ...link, code: 4123, reason: 'odd' })).toBe('odd (code 4123)');
    expect(linkReason('en', { ...link, state: 'connected', code: 3001 })).toBe('');
    expect(linkReason('en', { ...link, state: 'offline' })).toBe('the browser says there is no network');
  });
});

describe('numbers and times', () => {
  it('are said as people say them', () => {
    expect([12, 1500, 45_000, 600_000, 8_000_000].map((ms) => duration('en', ms))).toEqual(['12 ms', '1.5 s', '45 s', '10 min', '2.2 h']);
    expect([100, 2048, 7.5 * 1024 ** 2].map((n) => size('uk', n))).toEqual(['100 Б', '2 КБ', '7,5 МБ']);
  });
  it('a time that is not a time is shown as it is', () => {
    expect(moment('uk', 'yesterday')).toBe('yesterday');
    const at = new Date(2026, 10, 20, 9, 5, 7);
    expect(moment('uk', at.getTime(), at.getTime())).toBe('09:05:07');
    expect(moment('uk', at.getTime(), at.getTime() + 86_400_000 * 3)).toBe('20.11.2026 09:05:07');
  });
});
