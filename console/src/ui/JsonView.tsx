// A document as text. Small ones whole and coloured; large ones by their beginning, with the rest on request in
// slices that never hold the page for more than a few milliseconds, and a download of the exact bytes.
import { type ReactNode, memo, useEffect, useMemo, useState } from 'react';
import { useLang } from '../i18n/useLang';
import { firstBlocks, lineText, textBlocks } from '../text/blocks';
import type { Line } from '../text/rawjson';

const SLICE_MS = 8;

interface Props {
  doc: string;
  changed: readonly string[];
  name: string;
}

export function JsonView({ doc, changed, name }: Props) {
  const { t, size } = useLang();
  const first = useMemo(() => firstBlocks(doc), [doc]);
  const { blocks, working, percent, start, stop } = useWhole(doc);
  const marked = useMemo(() => new Set(changed), [changed]);
  const whole = blocks.length > 0;
  const shown = first.blocks.reduce((sum, lines) => Math.max(sum, lines.at(-1)?.at ?? 0), 0);
  return (
    <div className="json">
      <div className="json-tools">
        {!first.complete && !whole && !working && (
          <>
            <span>{t('json.partial', { shown: size(shown), size: size(doc.length) })}</span>
            <button type="button" onClick={start}>{t('json.show_all')}</button>
          </>
        )}
        {working && (
          <>
            <span role="status">{t('json.working', { percent: `${percent}%` })}</span>
            <button type="button" onClick={stop}>{t('json.stop')}</button>
          </>
        )}
        <button type="button" className="quiet" onClick={() => download(doc, name)}>{t('json.download')} ({size(doc.length)})</button>
      </div>
      <div className="json-text" role="region" tabIndex={0} aria-label={t('json.label')}>
        {whole
          ? blocks.map((text, at) => <pre key={at} className="json-block">{text}</pre>)
          : first.blocks.map((lines, at) => <Coloured key={at} lines={lines} marked={marked} />)}
        {!first.complete && !whole && <p className="muted">…</p>}
      </div>
    </div>
  );
}

/** The whole document, block by block, between frames. A new document starts over. */
function useWhole(doc: string) {
  const [result, setResult] = useState<{ doc: string; blocks: string[]; at: number }>({ doc: '', blocks: [], at: 0 });
  const [running, setRunning] = useState<string | null>(null);
  useEffect(() => {
    if (running === null) return;
    if (running !== doc) return setRunning(null);
    const source = textBlocks(doc);
    let frame = 0;
    let blocks: string[] = [];
    const slice = () => {
      const until = performance.now() + SLICE_MS;
      const more: string[] = [];
      let at = 0;
      let done = false;
      while (!done && performance.now() < until) {
        const next = source.next();
        if (next.done) done = true;
        else {
          more.push(next.value.text);
          at = next.value.at;
        }
      }
      blocks = [...blocks, ...more];
      setResult({ doc, blocks, at });
      if (done) setRunning(null);
      else frame = requestAnimationFrame(slice);
    };
    frame = requestAnimationFrame(slice);
    return () => cancelAnimationFrame(frame);
  }, [running, doc]);
  return {
    blocks: result.doc === doc ? result.blocks : [],
    percent: Math.min(99, Math.floor((result.at / doc.length) * 100)),
    working: running === doc,
    start: () => setRunning(doc),
    stop: () => setRunning(null),
  };
}

const Coloured = memo(function Coloured({ lines, marked }: { lines: Line[]; marked: ReadonlySet<string> }) {
  return (
    <pre className="json-block">
      {lines.map((line, at): ReactNode => {
        const text = lineText(line);
        const className = marked.has(line.top) ? 'line changed' : 'line';
        if (!line.key || line.key.length > 300) return <span key={at} className={className}>{text}{'\n'}</span>;
        const cut = text.length - line.rest.length - 2;
        return (
          <span key={at} className={className}>
            <span className="key">{text.slice(0, cut)}</span>: <Value text={line.rest} />{'\n'}
          </span>
        );
      })}
    </pre>
  );
});

function Value({ text }: { text: string }) {
  const kind = text.startsWith('"') ? 'string' : /^[-\d]/.test(text) ? 'number' : /^[tfn]/.test(text) ? 'word' : undefined;
  return <span className={kind}>{text}</span>;
}

/** The exact text of the document, as a file. */
function download(doc: string, name: string) {
  const url = URL.createObjectURL(new Blob([doc], { type: 'application/json' }));
  const link = document.createElement('a');
  link.href = url;
  link.download = `${name.replace(/[^\w.-]+/g, '_').slice(0, 120)}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
