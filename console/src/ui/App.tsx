// Who is signed in decides what is shown: the form, or a session (one API, one connection, one poll of the mirrors).
import { useCallback, useEffect, useState } from 'react';
import { cleanToken, forgetToken, storeToken, storedToken, takeFromAddressBar } from '../api/token';
import type { Key } from '../i18n/translate';
import { useLang } from '../i18n/useLang';
import type { Answer } from '../login/answer';
import { type Bearer, pasted } from '../login/bearer';
import { enter } from '../login/enter';
import type { Notice } from '../login/failure';
import { LoginSession, forgetLogin } from '../login/session';
import { Session } from './Session';
import { SignIn } from './SignIn';
import { Bell } from './parts';

type Phase =
  | { at: 'in'; bearer: Bearer; id: number }
  /** `again`: the issuer is to ask anew, whoever is signed in there. */
  | { at: 'out'; notice: Notice | null; again: boolean }
  /** For the issuer's word. */
  | { at: 'waiting'; words: Key };

let sessions = 0;
const inside = (bearer: Bearer): Phase => ({ at: 'in', bearer, id: ++sessions });
const outside = (notice: Notice | null = null, again = false): Phase => ({ at: 'out', notice, again });

/** Whoever is signed in has asked no issuer: an answer then is none. */
function opening(answer: Answer | null): Phase {
  const token = cleanToken(storedToken() ?? '');
  const bearer = token ? pasted(token) : LoginSession.resume();
  if (bearer) return inside(bearer);
  return answer ? { at: 'waiting', words: 'login.waiting' } : outside();
}

/** `answer`: that of the issuer, with which the page was opened. */
export function App({ answer }: { answer: Answer | null }) {
  const [phase, setPhase] = useState<Phase>(() => opening(answer));
  const bearer = phase.at === 'in' ? phase.bearer : null;

  const signIn = useCallback((token: string) => {
    forgetLogin();
    storeToken(token);
    setPhase(inside(pasted(token)));
  }, []);
  const signOut = useCallback((left: Bearer, refused: boolean) => {
    left.stop();
    forgetToken();
    if (left instanceof LoginSession && !refused) {
      setPhase({ at: 'waiting', words: 'login.leaving' });
      void end(left).then((next) => next && setPhase(next));
    } else {
      forgetLogin();
      setPhase(outside(refused ? { key: 'signin.ended' } : null));
    }
  }, []);

  useEffect(() => {
    if (!answer || bearer) return;
    void enter(answer).then((it) => setPhase('session' in it ? inside(it.session) : outside(it.notice, it.refused)));
  }, [answer]);
  useEffect(() => {
    bearer?.start();
    return () => bearer?.stop();
  }, [bearer]);

  // A link with a token opened in a tab that already shows the page.
  useEffect(() => {
    const changed = () => {
      const given = takeFromAddressBar();
      if (given) signIn(given);
    };
    window.addEventListener('hashchange', changed);
    return () => window.removeEventListener('hashchange', changed);
  }, [signIn]);

  if (phase.at === 'in') return <Session key={phase.id} bearer={phase.bearer} onSignOut={signOut} />;
  if (phase.at === 'waiting') return <Waiting words={phase.words} />;
  return <SignIn notice={phase.notice} again={phase.again} onToken={signIn} />;
}

/** Goes to the issuer for the end of its session; answers what to show when there is no such way. */
async function end(session: LoginSession): Promise<Phase | null> {
  try {
    const url = await session.end();
    if (url === null) return outside(null, true);
    location.assign(url);
    return null;
  } catch {
    return outside({ key: 'login.left_here', params: { host: session.host } }, true);
  }
}

function Waiting({ words }: { words: Key }) {
  const { t } = useLang();
  // Whoever comes back from the issuer by the browser's own way finds this page as it was left.
  useEffect(() => {
    const shown = (event: PageTransitionEvent) => event.persisted && location.reload();
    window.addEventListener('pageshow', shown);
    return () => window.removeEventListener('pageshow', shown);
  }, []);
  return (
    <main className="signin">
      <p className="signin-head" role="status"><Bell />{t(words)}</p>
    </main>
  );
}
