// The last resort: a fault of this page is said in words, with the way out, instead of a white screen.
import { Component, type ReactNode } from 'react';
import { useLang } from '../i18n/useLang';

export class Boundary extends Component<{ children: ReactNode }, { broken: boolean }> {
  override state = { broken: false };

  static getDerivedStateFromError() {
    return { broken: true };
  }

  override render() {
    return this.state.broken ? <Broken /> : this.props.children;
  }
}

function Broken() {
  const { t } = useLang();
  return (
    <main className="signin" role="alert">
      <p>{t('app.broken')}</p>
      <button type="button" className="primary" onClick={() => location.reload()}>
        {t('app.reload')}
      </button>
    </main>
  );
}
