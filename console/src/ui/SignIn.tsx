// The sign-in form. The token is tried before it is kept; a refused one is said to be refused.
import { type FormEvent, useRef, useState } from 'react';
import { Api } from '../api/client';
import { asProblem } from '../api/problem';
import { cleanToken } from '../api/token';
import { problemDetail, problemWords } from '../i18n/translate';
import { useLang } from '../i18n/useLang';
import { Bell, LangSwitch } from './parts';

export function SignIn({ ended, onToken }: { ended: boolean; onToken: (token: string) => void }) {
  const { t, lang } = useLang();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState('');
  const input = useRef<HTMLInputElement>(null);

  const submit = async (event: FormEvent) => {
    event.preventDefault();
    const text = input.current?.value ?? '';
    const token = cleanToken(text);
    if (!token) {
      setError(t(text.trim() ? 'signin.malformed' : 'signin.empty'));
      input.current?.focus();
      return;
    }
    setBusy(true);
    setError('');
    try {
      await new Api(token, () => {}).kinds();
      onToken(token);
    } catch (failure) {
      const problem = asProblem(failure);
      const words = problem.signedOut ? t('signin.refused') : `${problemWords(lang, problem)} ${problemDetail(problem)}`;
      setError(words.trim());
      setBusy(false);
      input.current?.focus();
    }
  };

  return (
    <main className="signin">
      <form onSubmit={submit} noValidate>
        <div className="signin-head">
          <Bell />
          <h1>{t('signin.title')}</h1>
        </div>
        {ended && !error && <p className="notice warn" role="alert">{t('signin.ended')}</p>}
        <p id="signin-hint" className="muted">{t('signin.hint')}</p>
        <label htmlFor="token">{t('signin.token')}</label>
        <input
          id="token" ref={input} type="password" autoComplete="off" autoCapitalize="off" spellCheck={false} autoFocus
          aria-describedby={error ? 'signin-error signin-hint' : 'signin-hint'} aria-invalid={error ? true : undefined}
        />
        {error && <p id="signin-error" className="notice bad" role="alert">{error}</p>}
        <button type="submit" className="primary" disabled={busy}>{t(busy ? 'signin.checking' : 'signin.submit')}</button>
      </form>
      <LangSwitch />
    </main>
  );
}
