// One entity under the glass: who, when, the document as the hub keeps it, and its history.
import { useEffect, useMemo, useRef, useState } from 'react';
import type { Api } from '../api/client';
import { useLang } from '../i18n/useLang';
import { type EntityState, EntityView } from '../live/entity';
import type { Feed } from '../live/feed';
import { useStore } from '../live/store';
import { HistoryList } from './HistoryList';
import { JsonView } from './JsonView';
import { Failure, Time } from './parts';

interface Props {
  api: Api;
  feed: Feed;
  id: string;
  onClose: () => void;
}

export function EntityPanel({ api, feed, id, onClose }: Props) {
  const { t, lang } = useLang();
  const view = useMemo(() => new EntityView(api, feed.scope.kind, id, () => feed.state.get().paused), [api, feed, id]);
  const state = useStore(view.state);
  const [tab, setTab] = useState<'document' | 'history'>('document');
  const heading = useRef<HTMLHeadingElement>(null);

  useEffect(() => {
    view.start();
    // After a cut the channel tells what was missed like any change. When it could not, the board has loaded its list
    // again, and so does the panel.
    const heard = feed.onChange((change) => view.heard(change));
    let { loadedAt } = feed.state.get();
    const reloaded = feed.state.subscribe(() => {
      const now = feed.state.get().loadedAt;
      if (loadedAt !== 0 && now !== loadedAt) view.refresh();
      loadedAt = now;
    });
    return () => {
      heard();
      reloaded();
      view.stop();
    };
  }, [view, feed]);
  useEffect(() => heading.current?.focus({ preventScroll: true }), []);

  const { phase, problem, meta } = state;
  return (
    <aside className="panel" aria-labelledby="panel-title">
      <header>
        <h2 id="panel-title" ref={heading} tabIndex={-1}>
          <bdi>{state.title?.[lang] || id}</bdi>
        </h2>
        <button type="button" className="quiet close" onClick={onClose} title="Esc">{t('entity.close')}</button>
      </header>
      <IdLine id={id} />
      {meta && <Facts state={state} />}
      {meta && state.newest > meta.revision && (
        <p className="notice calm" role="status">
          {t('entity.newer', { n: state.newest })} <button type="button" onClick={view.refresh}>{t('entity.show_newer')}</button>
        </p>
      )}
      {phase === 'loading' && !meta && <p className="muted" role="status">{t('entity.loading')}</p>}
      {phase === 'failed' && problem && (
        <Failure words={t(problem.status === 404 ? 'entity.not_found' : 'entity.failed')} problem={problem} onRetry={view.retry} />
      )}
      {meta && (
        <>
          <Tabs tab={tab} onTab={setTab} />
          <div role="tabpanel" id={`tab-${tab}`} aria-labelledby={`tab-button-${tab}`}>
            {tab === 'history' && <HistoryList view={view} state={state} />}
            {tab === 'document' && state.doc !== null && (
              <JsonView doc={state.doc} changed={state.changed} name={`${meta.kind}-${meta.id}-r${meta.revision}`} />
            )}
            {tab === 'document' && state.doc === null && <p className="muted">{t('entity.no_document')}</p>}
          </div>
        </>
      )}
    </aside>
  );
}

function IdLine({ id }: { id: string }) {
  const { t } = useLang();
  const [copied, setCopied] = useState(false);
  const copy = () => navigator.clipboard?.writeText(id).then(() => setCopied(true), () => setCopied(false));
  return (
    <p className="id-line">
      <bdi className="mono">{id}</bdi>
      {'clipboard' in navigator && (
        <button type="button" className="quiet small" onClick={copy} onBlur={() => setCopied(false)}>{t(copied ? 'entity.copied' : 'entity.copy_id')}</button>
      )}
    </p>
  );
}

function Facts({ state }: { state: EntityState }) {
  const { t, word } = useLang();
  const meta = state.meta!;
  return (
    <>
      <p className="panel-badges">
        <span className="badge calm">{meta.kind}</span>
        <span className="badge calm">{t('entity.revision', { n: meta.revision })}</span>
        <span className={`op op-${meta.op}`}>{word('op', meta.op)}</span>
        {meta.trashed_at && <span className="badge warn">{t('row.trashed')}</span>}
        {meta.missing_since && <span className="badge warn">{t('row.missing')}</span>}
      </p>
      <dl className="pairs">
        <dt>{t('entity.at')}</dt><dd><Time at={meta.at} /></dd>
        <dt>{t('entity.by')}</dt><dd><bdi className="mono">{meta.by}</bdi></dd>
        {meta.version && <><dt>{t('entity.version')}</dt><dd className="mono">{meta.version}</dd></>}
        {meta.channel && <><dt>{t('entity.channel')}</dt><dd className="mono">{meta.channel}</dd></>}
      </dl>
    </>
  );
}

const TABS = ['document', 'history'] as const;

function Tabs({ tab, onTab }: { tab: (typeof TABS)[number]; onTab: (tab: (typeof TABS)[number]) => void }) {
  const { t } = useLang();
  const turn = (to: (typeof TABS)[number]) => {
    onTab(to);
    document.getElementById(`tab-button-${to}`)?.focus();
  };
  const other = tab === 'document' ? 'history' : 'document';
  return (
    <div className="tabs" role="tablist">
      {TABS.map((name) => (
        <button
          key={name} id={`tab-button-${name}`} type="button" role="tab" aria-selected={tab === name} aria-controls={`tab-${name}`}
          tabIndex={tab === name ? 0 : -1} onClick={() => onTab(name)}
          onKeyDown={(event) => (event.key === 'ArrowRight' || event.key === 'ArrowLeft') && turn(other)}
        >
          {t(`entity.${name}`)}
        </button>
      ))}
    </div>
  );
}
