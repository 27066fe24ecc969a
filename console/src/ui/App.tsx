// Who is signed in decides what is shown: the form, or a session (one API, one connection, one poll of the mirrors).
import { useCallback, useEffect, useState } from 'react';
import { cleanToken, forgetToken, storeToken, storedToken, takeFromAddressBar } from '../api/token';
import { Session } from './Session';
import { SignIn } from './SignIn';

export function App() {
  const [token, setToken] = useState<string | null>(() => cleanToken(storedToken() ?? ''));
  const [ended, setEnded] = useState(false);

  const signIn = useCallback((next: string) => {
    storeToken(next);
    setEnded(false);
    setToken(next);
  }, []);
  const signOut = useCallback((refused: boolean) => {
    forgetToken();
    setEnded(refused);
    setToken(null);
  }, []);

  // A link with a token opened in a tab that already shows the page.
  useEffect(() => {
    const changed = () => {
      const given = takeFromAddressBar();
      if (given) signIn(given);
    };
    window.addEventListener('hashchange', changed);
    return () => window.removeEventListener('hashchange', changed);
  }, [signIn]);

  return token ? <Session key={token} token={token} onSignOut={signOut} /> : <SignIn ended={ended} onToken={signIn} />;
}
