// A signed-in session: owns the API, the connection and the poll of the mirrors, and lays out the page.
import { useEffect, useMemo, useState } from 'react';
import { Api } from '../api/client';
import { Problem, asProblem, isAbort } from '../api/problem';
import { subjectOf } from '../api/token';
import type { Kind } from '../api/types';
import { useLang } from '../i18n/useLang';
import { Hub } from '../live/hub';
import { MirrorPoll } from '../live/mirrors';
import { useStore } from '../live/store';
import type { Bearer } from '../login/bearer';
import { LinkState } from './LinkState';
import { MirrorStrip } from './MirrorStrip';
import { Workspace } from './Workspace';
import { Bell, Failure, LangSwitch } from './parts';

interface Props {
  bearer: Bearer;
  onSignOut: (bearer: Bearer, refused: boolean) => void;
}

export function Session({ bearer, onSignOut }: Props) {
  const { t } = useLang();
  const { api, hub, mirrors } = useMemo(() => {
    const ended = () => onSignOut(bearer, true);
    const made = new Api(bearer, ended);
    return { api: made, hub: new Hub(bearer, ended), mirrors: new MirrorPoll(made) };
  }, [bearer, onSignOut]);
  const { kinds, problem, reload } = useKinds(api, hub);
  const token = useStore(bearer.token);
  const trouble = useStore(bearer.trouble);
  const subject = useMemo(() => subjectOf(token), [token]);

  useEffect(() => {
    hub.connect();
    const stop = mirrors.start();
    return () => {
      stop();
      hub.close();
    };
  }, [hub, mirrors]);

  const skip = () => document.getElementById('grid')?.focus();
  return (
    <>
      <button type="button" className="skip" onClick={skip}>{t('app.skip')}</button>
      <header className="top">
        <div className="brand">
          <Bell />
          <h1>{t('app.name')}<span className="muted"> {t('app.subtitle')}</span></h1>
        </div>
        <LinkState hub={hub} />
        <div className="who">
          {subject && <span className="muted subject" title={t('signedin', { name: subject })}>{subject}</span>}
          <LangSwitch />
          <button type="button" className="quiet" onClick={() => onSignOut(bearer, false)}>{t('signout')}</button>
        </div>
      </header>
      {trouble && <p className="notice warn" role="status">{t('login.renewal', { host: trouble })}</p>}
      <MirrorStrip poll={mirrors} />
      {kinds && <Workspace api={api} hub={hub} kinds={kinds} />}
      {!kinds && problem && <Failure words={t('board.failed')} problem={problem} onRetry={reload} />}
      {!kinds && !problem && <p className="notice" role="status">{t('board.loading')}</p>}
    </>
  );
}

/** The kinds are read once; a failure waits for the operator, or for the connection. */
function useKinds(api: Api, hub: Hub) {
  const [kinds, setKinds] = useState<Kind[] | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [attempt, setAttempt] = useState(0);
  useEffect(() => {
    if (kinds) return;
    const abort = new AbortController();
    api.kinds(abort.signal).then(
      (items) => abort.signal.aborted || setKinds(items),
      (error) => isAbort(error) || setProblem(asProblem(error)),
    );
    const again = () => setAttempt((n) => n + 1);
    const stop = hub.link.subscribe(() => {
      if (hub.link.get().state === 'connected') again();
    });
    return () => {
      abort.abort();
      stop();
    };
  }, [api, hub, attempt, kinds]);
  const reload = () => {
    setProblem(null);
    setAttempt((n) => n + 1);
  };
  return { kinds, problem, reload };
}
