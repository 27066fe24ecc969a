import { createElement } from 'react';
import { renderToStaticMarkup } from 'react-dom/server';
import { describe, expect, it } from 'vitest';
import { cleanToken, subjectOf, takeFromFragment } from '../src/api/token';
import type { Row } from '../src/live/board';
import { mergeHistory } from '../src/live/entity';
import { hrefOf, parseRoute } from '../src/route/route';
import { firstBlocks, lineText, textBlocks } from '../src/text/blocks';
import { MAX_LITERAL, memberSpan, prettyLines, splitEntity } from '../src/text/rawjson';
import { fieldText, fieldsOf, tellingFirst, texts, titleOf } from '../src/text/summary';
import { GridRow } from '../src/ui/GridRow';

const EVIL = '<script>alert(1)</script><img src=x onerror=alert(2)>" onmouseover="x';

describe('text is never markup', () => {
  const row: Row = {
    id: EVIL, revision: 1, offset: 1, op: EVIL, at: EVIL, by: EVIL, title: { uk: EVIL, en: EVIL }, fields: { status: EVIL }, ref: false,
    trashed: true, missing: true, changed: [EVIL, 'status'], liveAt: 1, leftAt: 1,
  };
  it('every place of a row escapes what it shows', () => {
    const html = renderToStaticMarkup(
      createElement(GridRow, { row, fields: ['status'], active: false, open: false, href: hrefOf({ kind: 'procedure', id: EVIL, filter: {} }), onOpen: () => {}, onSeen: () => {} }),
    );
    expect(html).not.toMatch(/<script|<img/);
    // Inside a tag, outside of attribute values, no handler may appear.
    expect(html.replace(/"[^"]*"/g, '""')).not.toMatch(/<[a-z][^<>]*\son\w+=/);
    expect(html.match(/&lt;script&gt;/g)!.length).toBeGreaterThanOrEqual(5);
  });
});

describe('summaries', () => {
  it('read plain and multilingual titles, and fall back', () => {
    expect(titleOf({ title: { uk_UA: 'Лот', en_US: 'Lot' } })).toEqual({ uk: 'Лот', en: 'Lot' });
    expect(titleOf({ title: { uk_UA: 'Лот' } })).toEqual({ uk: 'Лот', en: 'Лот' });
    expect(titleOf({ title: 7, name: 'n' })).toEqual({ uk: 'n', en: 'n' });
    expect(titleOf({ title: { scheme: 'x', code: 'y' } })).toBeNull();
    for (const odd of [null, undefined, 5, 'x', [], {}]) expect(titleOf(odd)).toBeNull();
  });
  it('are bounded and on one line', () => {
    expect(texts(`a\n\tb\u0007${'x'.repeat(10_000)}`)!.uk.length).toBeLessThanOrEqual(300);
    expect(texts('a\n\tb')!.uk).toBe('a b');
  });
  it('read declared fields, dotted ones too', () => {
    expect(fieldsOf({ status: 'a', value: { amount: 1.5 }, 'a.b': true }, ['status', 'value.amount', 'a.b', 'none'])).toEqual({ status: 'a', 'value.amount': '1.5', 'a.b': 'true', none: '' });
    expect(fieldText({ uk_UA: 'так' })).toBe('так');
    expect(fieldText(null)).toBe('');
  });
});

describe('raw JSON', () => {
  const text = '{"kind":"k","doc":{"n":904.240,"big":12345678901234567890,"s":"a\\"},{\\\\","e":{},"l":[],"a":[1,{"x":null}]},"ref":false}';
  it('keeps every digit', () => {
    const { meta, doc } = splitEntity<{ kind: string; doc: null }>(text);
    expect(meta).toEqual({ kind: 'k', doc: null, ref: false });
    expect(doc).toContain('904.240');
    const pretty = [...prettyLines(doc!)].map(lineText).join('\n');
    expect(pretty).toBe(
      '{\n  "n": 904.240,\n  "big": 12345678901234567890,\n  "s": "a\\"},{\\\\",\n  "e": {},\n  "l": [],\n  "a": [\n    1,\n    {\n      "x": null\n    }\n  ]\n}',
    );
    expect(JSON.parse(pretty)).toEqual(JSON.parse(doc!));
  });
  it('knows which top-level member a line belongs to', () => {
    expect([...prettyLines('{"a":{"b":[1]},"c":2}')].map((it) => it.top)).toEqual(['', 'a', 'a', 'a', 'a', 'a', 'c', 'c']);
  });
  it('finds members, not look-alikes inside strings or deeper', () => {
    const tricky = '{"a":{"doc":1},"b":"\\"doc\\":2","doc": 3 }';
    expect(tricky.slice(...memberSpan(tricky, 'doc')!)).toBe('3');
    expect(memberSpan('[1]', 'doc')).toBeNull();
    expect(splitEntity('{"doc":null}').doc).toBeNull();
  });
  it('ends on anything, JSON or not', () => {
    for (const odd of ['', '{', '"', '{"a', '{"a":', '[1,', '}', ',,,', '{"a":"\\', '[[[[', 'nul', '{"a" 1}', ':']) {
      expect([...prettyLines(odd)].length).toBeLessThan(20);
      memberSpan(odd, 'doc');
    }
  });
  it('survives depth and one endless line', () => {
    expect([...prettyLines('['.repeat(20_000) + ']'.repeat(20_000))].length).toBe(39_999);
    const [, line] = prettyLines(`{"a":"${'x'.repeat(5_000_000)}"}`);
    expect(line!.rest.length).toBeLessThan(MAX_LITERAL + 100);
  });
  it('shows the beginning of a large document at once, and the whole in blocks', () => {
    const large = JSON.stringify({ items: Array.from({ length: 50_000 }, (_, id) => ({ id, text: 'x'.repeat(120) })) });
    const begun = performance.now();
    expect(firstBlocks(large).complete).toBe(false);
    expect(performance.now() - begun).toBeLessThan(200);
    const whole = [...textBlocks(large)].map((it) => it.text).join('\n');
    expect(JSON.parse(whole)).toEqual(JSON.parse(large));
  });
});

describe('the address', () => {
  it('goes there and back, whatever the id', () => {
    for (const id of ['a', 'a/b?c#d&token=1', 'ї "<', '%']) {
      const route = { kind: 'procedure', id, filter: { status: 'a&b=c', x: 'ї' } };
      expect(parseRoute(hrefOf(route))).toEqual(route);
    }
  });
  it('never throws', () => {
    for (const odd of ['', '#', '#/', '#/%E0%A4%A', '#/../x', '#/procedure/%', '#//?&=']) expect(parseRoute(odd)).toBeDefined();
    expect(parseRoute('#/<script>/x').kind).toBeNull();
  });
});

describe('the token', () => {
  it('is taken out of the fragment, wherever it stands', () => {
    expect(takeFromFragment('#token=a.b.c')).toEqual({ token: 'a.b.c', rest: '' });
    expect(takeFromFragment('#/procedure/x&token=a.b.c')).toEqual({ token: 'a.b.c', rest: '#/procedure/x' });
    expect(takeFromFragment('#/procedure?status=x')).toEqual({ token: null, rest: '#/procedure?status=x' });
  });
  it('must fit into a header', () => {
    expect(cleanToken('  Bearer a.b.c\n')).toBe('a.b.c');
    for (const bad of ['', ' ', 'a b', 'a\r\nX: y', 'ї', 'x'.repeat(9000)]) expect(cleanToken(bad)).toBeNull();
  });
  it('names its subject for display, or nobody', () => {
    expect(subjectOf(`x.${btoa(JSON.stringify({ sub: 'operator' }))}.y`)).toBe('operator');
    for (const odd of ['', 'a.b', 'a.%.c']) expect(subjectOf(odd)).toBe('');
  });
});

describe('history', () => {
  it('has one line per revision, newest first', () => {
    const it = (revision: number) => ({ revision, offset: revision, op: 'update', at: '', by: '', changed: [], before: null, kept: true });
    expect(mergeHistory([it(3), it(2)], [it(4), it(3), it(1)]).map((x) => x.revision)).toEqual([4, 3, 2, 1]);
  });
});

it('names that say something come before stamps, each kind in its own order', () => {
  expect(tellingFirst(['_lastModified', '_meta', 'dateModified', 'status', 'value'])).toEqual(['status', 'value', '_lastModified', '_meta', 'dateModified']);
});
