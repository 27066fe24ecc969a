// For those who listen: a summary of what has changed, at most once in a while, instead of a stream of words.
import { useEffect, useState } from 'react';
import { useLang } from '../i18n/useLang';
import type { Feed } from '../live/feed';

const EVERY_MS = 10_000;

export function Announcer({ feed }: { feed: Feed }) {
  const { t, lang } = useLang();
  const [text, setText] = useState('');
  useEffect(() => {
    let told = feed.state.get().applied;
    const timer = setInterval(() => {
      const { applied, board } = feed.state.get();
      if (applied === told) return;
      const last = board.rows[0];
      setText(t('board.summary', { n: applied - told, title: last?.title?.[lang] ?? last?.id ?? '' }));
      told = applied;
    }, EVERY_MS);
    return () => clearInterval(timer);
  }, [feed, t, lang]);
  return <p className="unseen" aria-live="polite">{text}</p>;
}
