// The sign-in form. The token is tried before it is kept; a refused one is said to be refused. Where the hub names an issuer,
// the way there comes first.
import { type FormEvent, useEffect, useRef, useState } from 'react';
import { Api } from '../api/client';
import { asProblem } from '../api/problem';
import { cleanToken } from '../api/token';
import { problemDetail, problemWords } from '../i18n/translate';
import { useLang } from '../i18n/useLang';
import { pasted } from '../login/bearer';
import type { Notice } from '../login/failure';
import { IssuerLogin, useLogin } from './IssuerLogin';
import { Bell, LangSwitch } from './parts';

interface Props {
  /** Why the operator is here, if there is a reason. */
  notice: Notice | null;
  again: boolean;
  onToken: (token: string) => void;
}

export function SignIn({ notice, again, onToken }: Props) {
  const { t, lang } = useLang();
  const { login, reload } = useLogin();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState('');
  const [told, setTold] = useState(notice);
  const input = useRef<HTMLInputElement>(null);
  const issuer = login !== null && typeof login === 'object' ? login : null;
  const alone = login === null || login === 'unknown';

  useEffect(() => {
    if (alone) input.current?.focus();
  }, [alone]);

  const submit = async (event: FormEvent) => {
    event.preventDefault();
    const text = input.current?.value ?? '';
    const token = cleanToken(text);
    setTold(null);
    if (!token) {
      setError(t(text.trim() ? 'signin.malformed' : 'signin.empty'));
      input.current?.focus();
      return;
    }
    setBusy(true);
    setError('');
    try {
      await new Api(pasted(token), () => {}).kinds();
      onToken(token);
    } catch (failure) {
      const problem = asProblem(failure);
      const words = problem.signedOut ? t('signin.refused') : `${problemWords(lang, problem)} ${problemDetail(problem)}`;
      setError(words.trim());
      setBusy(false);
      input.current?.focus();
    }
  };
  const onNotice = (next: Notice | null) => {
    setError('');
    setTold(next);
  };

  return (
    <main className="signin">
      <form onSubmit={submit} noValidate>
        <div className="signin-head">
          <Bell />
          <h1>{t('signin.title')}</h1>
        </div>
        {told && !error && <p className="notice warn" role="alert">{t(told.key, told.params)}</p>}
        {issuer && <IssuerLogin settings={issuer} again={again} onNotice={onNotice} />}
        {issuer && <p className="or muted">{t('signin.or')}</p>}
        {login === 'unknown' && (
          <p className="notice" role="status">
            {t('login.unknown')} <button type="button" className="small" onClick={reload}>{t('board.retry')}</button>
          </p>
        )}
        <p id="signin-hint" className="muted">{t('signin.hint')}</p>
        <label htmlFor="token">{t('signin.token')}</label>
        <input
          id="token" ref={input} type="password" autoComplete="off" autoCapitalize="off" spellCheck={false}
          aria-describedby={error ? 'signin-error signin-hint' : 'signin-hint'} aria-invalid={error ? true : undefined}
        />
        {error && <p id="signin-error" className="notice bad" role="alert">{error}</p>}
        <button type="submit" className={issuer ? '' : 'primary'} disabled={busy}>{t(busy ? 'signin.checking' : 'signin.submit')}</button>
      </form>
      <LangSwitch />
    </main>
  );
}
