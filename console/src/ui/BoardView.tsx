// The board of one kind: its tools, its honest state, its rows, what comes after them.
import type { Filter, Kind } from '../api/types';
import { useLang } from '../i18n/useLang';
import { MAX_ROWS } from '../live/board';
import { type Feed, type FeedState, canLoadMore } from '../live/feed';
import type { Hub } from '../live/hub';
import { useStore } from '../live/store';
import { Announcer } from './Announcer';
import { Filters } from './Filters';
import { Grid } from './Grid';
import { KindSelect } from './KindSelect';
import { Failure } from './parts';

interface Props {
  feed: Feed;
  hub: Hub;
  kind: Kind;
  kinds: Kind[];
  filter: Filter;
  openId: string | null;
  href: (id: string) => string;
  onOpen: (id: string) => void;
  onKind: (kind: string) => void;
  onFilter: (filter: Filter) => void;
}

export function BoardView({ feed, hub, kind, kinds, filter, openId, href, onOpen, onKind, onFilter }: Props) {
  const { t } = useLang();
  const state = useStore(feed.state);
  const { board, phase, problem } = state;
  const filtered = Object.keys(filter).length > 0;
  return (
    <section aria-labelledby="board-title" aria-busy={phase === 'loading'}>
      <h2 id="board-title" className="unseen">{t('board.title')}: {kind.kind}</h2>
      <div className="tools">
        <KindSelect kinds={kinds} value={kind.kind} onChange={onKind} />
        <Filters key={JSON.stringify(filter)} fields={kind.fields} filter={filter} rows={board.rows} onFilter={onFilter} />
        <Flow feed={feed} hub={hub} state={state} />
      </div>
      <Behind hub={hub} state={state} />
      {phase === 'failed' && problem && <Failure words={t('board.failed')} problem={problem} onRetry={() => void feed.reload()} />}
      {phase === 'loading' && <Skeleton />}
      {phase === 'ready' && board.rows.length === 0 && (
        <p className="empty" role="status">{t(filtered ? 'board.empty_filter' : 'board.empty')}</p>
      )}
      {board.rows.length > 0 && (
        <Grid rows={board.rows} fields={kind.fields} openId={openId} href={href} onOpen={onOpen} onSeen={feed.want} label={kind.kind} />
      )}
      {phase === 'ready' && board.rows.length > 0 && <Tail feed={feed} state={state} />}
      <Announcer feed={feed} />
    </section>
  );
}

/** Count, pause and resume. */
function Flow({ feed, hub, state }: { feed: Feed; hub: Hub; state: FeedState }) {
  const { t, number } = useLang();
  const connected = useStore(hub.link).state === 'connected';
  const { board, paused, waiting, overflowed, channel, phase } = state;
  const total = board.total === null ? null : Math.max(board.total + board.drift, board.rows.length);
  return (
    <div className="flow">
      <p className="count" data-applied={state.applied}>
        {(phase === 'ready' || board.rows.length > 0) && t('board.count', { n: board.rows.length })}
        {total !== null && ` ${t(board.drift === 0 ? 'board.total' : 'board.total_about', { n: number(total) })}`}
        {connected && phase === 'ready' && channel === 'waiting' && <span className="muted"> · {t('board.subscribing')}</span>}
      </p>
      {paused && <p className="paused" role="status">{overflowed ? t('board.overflowed') : t('board.waiting', { n: waiting })}</p>}
      <button type="button" className={paused ? 'primary' : ''} aria-pressed={paused} onClick={paused ? feed.resume : feed.pause}>
        {t(paused ? 'board.resume' : 'board.pause')}
      </button>
    </div>
  );
}

/** Rows that do not move any more must say so. */
function Behind({ hub, state }: { hub: Hub; state: FeedState }) {
  const { t, moment } = useLang();
  const link = useStore(hub.link);
  if (state.channel === 'refused') {
    return <p className="notice bad" role="alert">{t('board.refused', { reason: state.refusal })}</p>;
  }
  if (state.loadedAt === 0 || link.lostAt === 0) return null;
  return <p className="notice warn behind" role="status">{t('board.behind', { time: moment(link.lostAt) })}</p>;
}

function Skeleton() {
  const { t } = useLang();
  return (
    <div className="skeleton" role="status">
      <span className="unseen">{t('board.loading')}</span>
      {[1, 2, 3, 4, 5, 6].map((n) => <i key={n} aria-hidden="true" />)}
    </div>
  );
}

function Tail({ feed, state }: { feed: Feed; state: FeedState }) {
  const { t } = useLang();
  const { board, more } = state;
  if (canLoadMore(board)) {
    return (
      <div className="tail">
        <button type="button" disabled={more === 'loading'} onClick={() => void feed.more()}>
          {t(more === 'loading' ? 'board.more_loading' : more === 'failed' ? 'board.more_failed' : 'board.more')}
        </button>
      </div>
    );
  }
  return <p className="tail muted">{board.next || board.truncated ? t('board.bounded', { n: MAX_ROWS }) : t('board.end')}</p>;
}
