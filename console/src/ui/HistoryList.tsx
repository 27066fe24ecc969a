// The revisions of one entity, newest first, with the earlier values of the declared fields.
import { useLang } from '../i18n/useLang';
import type { EntityState, EntityView } from '../live/entity';
import { fieldText, tellingFirst } from '../text/summary';
import { Time } from './parts';

export function HistoryList({ view, state }: { view: EntityView; state: EntityState }) {
  const { t, word } = useLang();
  const { history, historyPhase, historyNext } = state;
  return (
    <div className="history">
      {historyPhase === 'failed' && (
        <p className="notice bad" role="alert">
          {t('history.failed')} <button type="button" onClick={history.length ? view.moreHistory : view.refresh}>{t('board.retry')}</button>
        </p>
      )}
      {historyPhase === 'ready' && history.length === 0 && <p className="muted">{t('history.empty')}</p>}
      <ol>
        {history.map((item) => (
          <li key={item.revision} data-revision={item.revision}>
            <p className="history-head">
              <b>{item.revision}</b>
              <span className={`op op-${item.op}`}>{word('op', item.op)}</span>
              <Time at={item.at} />
              <bdi className="mono muted">{item.by}</bdi>
            </p>
            {item.changed?.length > 0 && <p className="chips">{tellingFirst(item.changed).map((name) => <bdi key={name} className="chip">{name}</bdi>)}</p>}
            <Before values={item.before} />
          </li>
        ))}
      </ol>
      {historyPhase === 'loading' && <p className="muted" role="status">{t('history.loading')}</p>}
      {historyPhase === 'ready' && historyNext !== null && <button type="button" onClick={view.moreHistory}>{t('history.more')}</button>}
    </div>
  );
}

function Before({ values }: { values: Record<string, unknown> | null }) {
  const { t } = useLang();
  const entries = Object.entries(values ?? {});
  if (entries.length === 0) return null;
  return (
    <dl className="pairs before">
      {entries.map(([field, value]) => (
        <div key={field}>
          <dt>{field}, {t('history.before')}</dt>
          <dd><bdi>{fieldText(value) || t('history.nothing')}</bdi></dd>
        </div>
      ))}
    </dl>
  );
}
