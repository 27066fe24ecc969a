// The way to the issuer, where the hub names one. The page is left for it: where the operator is waits in this tab.
import { useEffect, useRef, useState } from 'react';
import { isAbort } from '../api/problem';
import { useLang } from '../i18n/useLang';
import { rememberPlace } from '../login/answer';
import { type Notice, asFailure, noticeOf } from '../login/failure';
import { begin } from '../login/issuer';
import { type LoginSettings, hostOf, readLogin } from '../login/settings';

/** Null: there is none. */
export type Login = LoginSettings | null | 'loading' | 'unknown';

export function useLogin(): { login: Login; reload: () => void } {
  const [login, setLogin] = useState<Login>('loading');
  const [attempt, setAttempt] = useState(0);
  useEffect(() => {
    const abort = new AbortController();
    readLogin(abort.signal).then(setLogin, (error) => isAbort(error) || setLogin('unknown'));
    return () => abort.abort();
  }, [attempt]);
  return { login, reload: () => setAttempt((n) => n + 1) };
}

interface Props {
  settings: LoginSettings;
  /** Whoever is signed in at the issuer is asked all the same. */
  again: boolean;
  /** What went wrong on the way there. */
  onNotice: (notice: Notice | null) => void;
}

export function IssuerLogin({ settings, again, onNotice }: Props) {
  const { t, lang } = useLang();
  const [busy, setBusy] = useState(false);
  const button = useRef<HTMLButtonElement>(null);
  const host = hostOf(settings);
  // Without it a browser has no SHA-256, and so no PKCE.
  const secure = window.isSecureContext;

  useEffect(() => {
    // Whoever already types a token goes on.
    if (document.activeElement === document.body) button.current?.focus();
    // Whoever comes back from the issuer by the browser's own way finds this page as it was left.
    const shown = () => setBusy(false);
    window.addEventListener('pageshow', shown);
    return () => window.removeEventListener('pageshow', shown);
  }, []);

  const go = async () => {
    setBusy(true);
    onNotice(null);
    try {
      const url = await begin(settings, again, lang);
      rememberPlace();
      location.assign(url);
    } catch (error) {
      onNotice(noticeOf(asFailure(error), host));
      setBusy(false);
    }
  };

  return (
    <>
      <button ref={button} type="button" className="primary" disabled={busy || !secure} onClick={() => void go()}>
        {t(busy ? 'login.going' : 'login.with', { host })}
      </button>
      {!secure && <p className="notice warn">{t('login.insecure', { host })}</p>}
    </>
  );
}
