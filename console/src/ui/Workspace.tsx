// The board and, beside it (over it on a telephone), one entity. The address says which kind, filter and entity.
import { useCallback, useEffect, useMemo } from 'react';
import type { Api } from '../api/client';
import type { Kind } from '../api/types';
import { useLang } from '../i18n/useLang';
import { Feed } from '../live/feed';
import type { Hub } from '../live/hub';
import { type Route, hrefOf } from '../route/route';
import { go, useRoute } from '../route/useRoute';
import { BoardView } from './BoardView';
import { EntityPanel } from './EntityPanel';
import { KindSelect } from './KindSelect';
import { useNarrow } from './useNarrow';

interface Props {
  api: Api;
  hub: Hub;
  kinds: Kind[];
}

export function Workspace({ api, hub, kinds }: Props) {
  const { t } = useLang();
  const route = useRoute();
  const narrow = useNarrow();
  const readable = kinds.filter((it) => it.readable);
  const kind = route.kind ? readable.find((it) => it.kind === route.kind) : readable[0];
  const here: Route = { ...route, kind: kind?.kind ?? null };

  if (readable.length === 0) return <p className="notice warn" role="status">{t('board.no_kinds')}</p>;
  if (!kind) {
    return (
      <main className="board">
        <KindSelect kinds={kinds} value="" onChange={(to) => go({ kind: to, id: null, filter: {} })} />
        <p className="notice warn" role="alert">{t('board.unknown_kind', { kind: route.kind ?? '' })}</p>
      </main>
    );
  }
  return <Columns key={kind.kind} {...{ api, hub, kinds, kind, narrow }} route={here} />;
}

interface ColumnsProps extends Props {
  kind: Kind;
  route: Route;
  narrow: boolean;
}

function Columns({ api, hub, kinds, kind, route, narrow }: ColumnsProps) {
  const feed = useFeed(api, hub, kind, route);
  const open = useCallback(
    (id: string) => {
      go({ ...route, id });
    },
    [route],
  );
  const close = useCallback(() => {
    go({ ...route, id: null });
    requestAnimationFrame(() => document.getElementById('grid')?.focus({ preventScroll: true }));
  }, [route]);
  useEscape(route.id !== null, close);
  const covered = narrow && route.id !== null;

  return (
    <div className={route.id ? 'columns open' : 'columns'}>
      <main className="board" inert={covered}>
        <BoardView
          feed={feed} hub={hub} kind={kind} kinds={kinds} filter={route.filter} openId={route.id}
          href={(id) => hrefOf({ ...route, id })}
          onOpen={open}
          onKind={(to) => go({ kind: to, id: null, filter: {} })}
          onFilter={(filter) => go({ ...route, filter })}
        />
      </main>
      {route.id && <EntityPanel key={route.id} api={api} feed={feed} id={route.id} onClose={close} />}
    </div>
  );
}

/** One feed per kind and filter; the old one is stopped before the new one starts. */
function useFeed(api: Api, hub: Hub, kind: Kind, route: Route): Feed {
  const filterKey = JSON.stringify(Object.entries(route.filter).sort());
  const feed = useMemo(
    () =>
      new Feed(
        { kind: kind.kind, fields: kind.fields, filter: route.filter },
        {
          list: (...args) => api.list(...args),
          entity: (...args) => api.entity(...args),
          subscribe: (...args) => hub.subscribe(...args),
        },
      ),
    // The filter is compared by its content: the address bar makes a new object for every change of it.
    [api, hub, kind, filterKey],
  );
  useEffect(() => {
    feed.start();
    const stop = hub.link.subscribe(() => {
      if (hub.link.get().state === 'connected') feed.nudge();
    });
    return () => {
      stop();
      feed.stop();
    };
  }, [feed, hub]);
  return feed;
}

function useEscape(active: boolean, close: () => void) {
  useEffect(() => {
    if (!active) return;
    const pressed = (event: KeyboardEvent) => {
      if (event.key === 'Escape' && !event.defaultPrevented) close();
    };
    window.addEventListener('keydown', pressed);
    return () => window.removeEventListener('keydown', pressed);
  }, [active, close]);
}
