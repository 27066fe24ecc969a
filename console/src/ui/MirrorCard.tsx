// One mirror. Unknown states are shown as they come, in a neutral tone.
import type { Problem } from '../api/problem';
import type { Mirror } from '../api/types';
import { problemDetail, problemWords } from '../i18n/translate';
import { useLang } from '../i18n/useLang';
import { Time } from './parts';

const TONES: Record<string, string> = {
  live: 'good', standby: 'calm', connecting: 'busy', handshaking: 'busy', snapshot: 'busy', reconciling: 'busy',
  gap: 'warn', backoff: 'warn', over_limit: 'warn', forbidden: 'bad', stopped: 'bad',
};
const FLOWING = new Set(['live', 'snapshot', 'reconciling', 'gap', 'over_limit']);
const RESUMABLE = new Set(['forbidden', 'backoff', 'over_limit']);

interface Props {
  mirror: Mirror;
  resuming: boolean;
  refused: Problem | null;
  onResume: () => void;
}

export function MirrorCard({ mirror, resuming, refused, onResume }: Props) {
  const { t, word } = useLang();
  const tone = TONES[mirror.state] ?? 'calm';
  return (
    <li className="mirror" data-mirror={mirror.name} data-state={mirror.state}>
      <div className="mirror-head">
        <h3>{mirror.name}</h3>
        <span className={`pill ${tone}`}><i className="dot" aria-hidden="true" />{word('mirror.state', mirror.state)}</span>
        {RESUMABLE.has(mirror.state) && (
          <button type="button" disabled={resuming} aria-label={t('mirrors.resume_of', { name: mirror.name })} onClick={onResume}>
            {t(resuming ? 'mirrors.resuming' : 'mirrors.resume')}
          </button>
        )}
      </div>
      {mirror.reason && <p className="mirror-note">{mirror.reason}</p>}
      {mirror.last_error && mirror.last_error !== mirror.reason && tone !== 'good' && <p className="mirror-note">{t('mirrors.last_error')}: {mirror.last_error}</p>}
      {refused && <Refused problem={refused} />}
      <Facts mirror={mirror} />
    </li>
  );
}

function Refused({ problem }: { problem: Problem }) {
  const { t, lang } = useLang();
  const words = problem.status === 403 ? t('mirrors.resume_forbidden') : problemWords(lang, problem);
  return <p className="mirror-note bad" role="alert">{words} <span className="detail">{problemDetail(problem)}</span></p>;
}

function Facts({ mirror }: { mirror: Mirror }) {
  const { t, number, size, duration } = useLang();
  // The last known lag says nothing once frames have ceased to come.
  const lag = FLOWING.has(mirror.state) ? mirror.lag_ms : null;
  return (
    <>
      <p className="facts">
        <span className="lag">{t('mirrors.lag')} <b>{lag == null ? '–' : duration(lag)}</b></span>
        <span><b>{number(mirror.objects)}</b> {t('mirrors.objects')}</span>
        <span><b>{number(mirror.applied)}</b> {t('mirrors.applied')}</span>
        {mirror.quarantined > 0 && <span className="alarm"><b>{number(mirror.quarantined)}</b> {t('mirrors.quarantined')}</span>}
      </p>
      <details>
        <summary>{t('mirrors.details')}</summary>
        <dl className="pairs">
          <dt>{t('mirrors.last_frame')}</dt><dd>{mirror.last_frame_at ? <Time at={mirror.last_frame_at} /> : '–'}</dd>
          <dt>{t('mirrors.newest_version')}</dt><dd>{mirror.newest_version ?? '–'}</dd>
          <dt>{t('mirrors.unchanged')}</dt><dd>{number(mirror.unchanged)}</dd>
          <dt>{t('mirrors.stale_objects')}</dt><dd>{number(mirror.stale)}</dd>
          <dt>{t('mirrors.reconnects')}</dt><dd>{number(mirror.reconnects)}</dd>
          <dt>{t('mirrors.max_message')}</dt><dd>{size(mirror.max_message_bytes)}</dd>
          <dt>{t('mirrors.owner')}</dt><dd>{mirror.owner ?? '–'}{mirror.here && ` (${t('mirrors.here')})`}</dd>
          {mirror.last_error && <><dt>{t('mirrors.last_error')}</dt><dd>{mirror.last_error}</dd></>}
        </dl>
      </details>
    </>
  );
}
