// The entry: takes a token, or an issuer's answer, out of the address bar before anything else, then mounts the page.
import { createRoot } from 'react-dom/client';
import { storeToken, takeFromAddressBar } from './api/token';
import { LangProvider } from './i18n/useLang';
import { takeAnswer } from './login/answer';
import { forgetLogin } from './login/session';
import './styles/base.css';
import './styles/board.css';
import './styles/panel.css';
import { App } from './ui/App';
import { Boundary } from './ui/Boundary';

const given = takeFromAddressBar();
if (given) {
  forgetLogin();
  storeToken(given);
}
const answer = takeAnswer();

createRoot(document.getElementById('root')!).render(
  <LangProvider>
    <Boundary>
      <App answer={answer} />
    </Boundary>
  </LangProvider>,
);
