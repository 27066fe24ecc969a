// Small parts used everywhere: the bell, the language switch, a time, a failure with its retry.
import type { Problem } from '../api/problem';
import { problemDetail, problemWords } from '../i18n/translate';
import { useLang } from '../i18n/useLang';

export function Bell() {
  return (
    <svg className="bell" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d="M12 2.500a1.5 1.5 0 0 0-1.5 1.500v.5C7.8 5.2 6.2 7.5 6.2 10.500v4L4.5 16.800c-.4.5 0 1.2.6 1.200h13.800c.6 0 1-.7.6-1.200l-1.7-2.300v-4c0-3-1.6-5.3-4.3-6V4A1.5 1.5 0 0 0 12 2.500z" />
      <path className="clapper" d="M9.7 19.300h4.600a2.3 2.3 0 0 1-4.6 0z" />
    </svg>
  );
}

export function LangSwitch() {
  const { t, lang, choose } = useLang();
  return (
    <div className="langs" role="group" aria-label={t('app.language')}>
      <button type="button" lang="uk" aria-pressed={lang === 'uk'} aria-label="Українська" onClick={() => choose('uk')}>Укр</button>
      <button type="button" lang="en" aria-pressed={lang === 'en'} aria-label="English" onClick={() => choose('en')}>Eng</button>
    </div>
  );
}

export function Time({ at }: { at: string }) {
  const { moment, fullMoment } = useLang();
  return <time dateTime={at} title={fullMoment(at)}>{moment(at)}</time>;
}

interface FailureProps {
  words: string;
  problem: Problem;
  onRetry?: () => void;
}

export function Failure({ words, problem, onRetry }: FailureProps) {
  const { t, lang } = useLang();
  const detail = problemDetail(problem);
  return (
    <div className="notice bad" role="alert">
      <p><strong>{words}</strong> {problemWords(lang, problem)}</p>
      {detail && <p className="detail">{detail}</p>}
      {onRetry && <button type="button" onClick={onRetry}>{t('board.retry')}</button>}
    </div>
  );
}
