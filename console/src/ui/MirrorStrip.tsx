// The mirrors: state, lag and counts of each; stale and failed polls say so.
import { problemDetail } from '../i18n/translate';
import { useLang } from '../i18n/useLang';
import type { MirrorPoll } from '../live/mirrors';
import { useStore } from '../live/store';
import { MirrorCard } from './MirrorCard';
import { Failure } from './parts';

export function MirrorStrip({ poll }: { poll: MirrorPoll }) {
  const { t, moment } = useLang();
  const { items, problem, readAt, resuming, refused } = useStore(poll.state);
  return (
    <section className="mirrors" aria-labelledby="mirrors-title" data-stale={Boolean(items && problem)}>
      <h2 id="mirrors-title">{t('mirrors.title')}</h2>
      {items && problem && (
        <p className="stale" role="status" title={problemDetail(problem)}>{t('mirrors.stale', { time: moment(readAt) })}</p>
      )}
      {!items && !problem && <p className="muted">{t('mirrors.loading')}</p>}
      {!items && problem && <Failure words={t('mirrors.failed')} problem={problem} onRetry={poll.poll} />}
      {items?.length === 0 && <p className="muted">{t('mirrors.empty')}</p>}
      <ul>
        {items?.map((mirror) => (
          <MirrorCard
            key={mirror.name}
            mirror={mirror}
            resuming={resuming === mirror.name}
            refused={refused?.name === mirror.name ? refused.problem : null}
            onResume={() => void poll.resume(mirror.name)}
          />
        ))}
      </ul>
    </section>
  );
}
