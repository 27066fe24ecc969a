// A pretty-printed document in blocks of lines: a little at once, all of it in slices that leave the page responsive.
import { type Line, prettyLines } from './rawjson';

export const BLOCK_LINES = 200;
/** Shown without asking. */
export const FIRST_LINES = 600;
export const FIRST_CHARS = 64 * 1024;

export interface Blocks {
  blocks: Line[][];
  complete: boolean;
}

const INDENT = '  ';
/** Deeper levels are not indented further: the text would leave the screen. */
const MAX_INDENT = 24;

export const lineText = ({ depth, key, rest }: Line): string =>
  INDENT.repeat(Math.min(depth, MAX_INDENT)) + (key ? `${key.length > 300 ? `${key.slice(0, 300)}…"` : key}: ` : '') + rest;

export function firstBlocks(doc: string): Blocks {
  const blocks: Line[][] = [];
  let lines: Line[] = [];
  let count = 0;
  let chars = 0;
  for (const line of prettyLines(doc)) {
    if (count >= FIRST_LINES || chars >= FIRST_CHARS) return { blocks: lines.length ? [...blocks, lines] : blocks, complete: false };
    lines.push(line);
    count += 1;
    chars += line.rest.length + line.key.length;
    if (lines.length === BLOCK_LINES) {
      blocks.push(lines);
      lines = [];
    }
  }
  return { blocks: lines.length ? [...blocks, lines] : blocks, complete: true };
}

/** Plain text blocks, for documents too large to be coloured. */
export function* textBlocks(doc: string): Generator<{ text: string; at: number }, void> {
  let lines: string[] = [];
  let at = 0;
  for (const line of prettyLines(doc)) {
    lines.push(lineText(line));
    at = line.at;
    if (lines.length === BLOCK_LINES) {
      yield { text: lines.join('\n'), at };
      lines = [];
    }
  }
  if (lines.length) yield { text: lines.join('\n'), at };
}
