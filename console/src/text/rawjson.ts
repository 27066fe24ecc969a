// JSON as text, without parsing it into values: a document's numbers keep every digit (904.240 stays 904.240), and a
// large document costs one pass over a string. The input is the hub's own valid JSON; on anything else the scanner
// stops at the end of the text and never loops.

const QUOTE = 34;
const BACKSLASH = 92;

/** The index just after the string that starts at `at`. */
function endOfString(text: string, at: number): number {
  for (let i = at + 1; i < text.length; ) {
    const quote = text.indexOf('"', i);
    if (quote < 0) return text.length;
    let slashes = 0;
    while (text.charCodeAt(quote - 1 - slashes) === BACKSLASH) slashes += 1;
    if (slashes % 2 === 0) return quote + 1;
    i = quote + 1;
  }
  return text.length;
}

const isSpace = (code: number) => code === 32 || code === 10 || code === 13 || code === 9;

function skipSpace(text: string, at: number): number {
  let i = at;
  while (i < text.length && isSpace(text.charCodeAt(i))) i += 1;
  return i;
}

/** The index just after the value that starts at `at`. */
function endOfValue(text: string, at: number): number {
  let depth = 0;
  for (let i = at; i < text.length; ) {
    const code = text.charCodeAt(i);
    if (code === QUOTE) {
      i = endOfString(text, i);
      if (depth === 0) return i;
      continue;
    }
    const char = text[i]!;
    if (char === '{' || char === '[') depth += 1;
    else if (char === '}' || char === ']') {
      if (depth === 0) return i;
      depth -= 1;
      if (depth === 0) return i + 1;
    } else if (depth === 0 && (char === ',' || isSpace(code))) return i;
    i += 1;
  }
  return text.length;
}

/** Where the value of a top-level member of an object lies. */
export function memberSpan(text: string, name: string): [start: number, end: number] | null {
  let i = skipSpace(text, 0);
  if (text[i] !== '{') return null;
  i = skipSpace(text, i + 1);
  while (i < text.length && text.charCodeAt(i) === QUOTE) {
    const keyEnd = endOfString(text, i);
    const key = text.slice(i + 1, keyEnd - 1);
    const start = skipSpace(text, skipSpace(text, keyEnd) + 1);
    const end = endOfValue(text, start);
    if (key === name) return [start, end];
    i = skipSpace(text, end);
    if (text[i] !== ',') return null;
    i = skipSpace(text, i + 1);
  }
  return null;
}

/** An entity's answer taken apart: everything but the document parsed, the document as its raw text. */
export function splitEntity<T>(text: string): { meta: T; doc: string | null } {
  const span = memberSpan(text, 'doc');
  if (!span) return { meta: JSON.parse(text) as T, doc: null };
  const [start, end] = span;
  const doc = text.slice(start, end);
  return { meta: JSON.parse(`${text.slice(0, start)}null${text.slice(end)}`) as T, doc: doc === 'null' ? null : doc };
}

export interface Line {
  depth: number;
  /** The member's name with its quotes, or '' for an element. */
  key: string;
  /** What follows the key: the scalar or the bracket, with its comma. */
  rest: string;
  /** The top-level member this line belongs to, without quotes. */
  top: string;
  /** How far the text has been read. */
  at: number;
}

/** A longer literal is cut on the screen (the download has it whole): one line of megabytes would freeze any browser. */
export const MAX_LITERAL = 2000;

const literal = (text: string) =>
  text.length <= MAX_LITERAL ? text : `${text.slice(0, MAX_LITERAL)}… (+${text.length - MAX_LITERAL})`;

/** Pretty-prints lazily, a line at a time, so that the caller decides how much and how fast. */
export function* prettyLines(text: string): Generator<Line, void> {
  const open: string[] = [];
  let key = '';
  let top = '';
  let i = skipSpace(text, 0);
  while (i < text.length) {
    const char = text[i]!;
    const depth = open.length;
    if (char === '}' || char === ']') {
      open.pop();
      i = skipSpace(text, i + 1);
      const comma = text[i] === ',';
      if (comma) i = skipSpace(text, i + 1);
      yield { depth: open.length, key: '', rest: char + (comma ? ',' : ''), top, at: i };
      continue;
    }
    if (key === '' && open[depth - 1] === '{' && char === '"') {
      const end = endOfString(text, i);
      key = text.slice(i, end);
      if (depth === 1) top = key.slice(1, -1);
      i = skipSpace(text, skipSpace(text, end) + 1);
      continue;
    }
    if (char === '{' || char === '[') {
      const inside = skipSpace(text, i + 1);
      const close = char === '{' ? '}' : ']';
      if (text[inside] === close) {
        i = skipSpace(text, inside + 1);
        const comma = text[i] === ',';
        if (comma) i = skipSpace(text, i + 1);
        yield { depth, key, rest: char + close + (comma ? ',' : ''), top, at: i };
      } else {
        open.push(char);
        i = inside;
        yield { depth, key, rest: char, top, at: i };
      }
      key = '';
      continue;
    }
    const end = Math.max(endOfValue(text, i), i + 1);
    const value = literal(text.slice(i, end));
    i = skipSpace(text, end);
    const comma = text[i] === ',';
    if (comma) i = skipSpace(text, i + 1);
    yield { depth, key, rest: value + (comma ? ',' : ''), top, at: i };
    key = '';
  }
}
