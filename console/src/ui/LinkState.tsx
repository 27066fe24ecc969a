// The state of the connection in one line, with its reason: never better than the truth.
import { linkReason } from '../i18n/translate';
import { useLang } from '../i18n/useLang';
import type { Hub } from '../live/hub';
import { useStore } from '../live/store';

const TONE = { connected: 'good', connecting: 'busy', reconnecting: 'warn', offline: 'bad', ended: 'bad' } as const;

export function LinkState({ hub }: { hub: Hub }) {
  const { t, lang, moment } = useLang();
  const link = useStore(hub.link);
  const reason = linkReason(lang, link);
  return (
    <div className="link" data-state={link.state}>
      <span role="status" className={`pill ${TONE[link.state]}`}>
        <i className="dot" aria-hidden="true" />
        <strong>{t(`link.${link.state}`)}</strong>
        {reason && <span className="reason">{reason}</span>}
        {link.lostAt > 0 && <span className="reason">{t('link.since', { time: moment(link.lostAt) })}</span>}
      </span>
      {link.state !== 'connected' && (
        <button type="button" className="quiet" onClick={() => hub.retry()}>{t(link.state === 'ended' ? 'link.connect' : 'link.retry')}</button>
      )}
    </div>
  );
}
