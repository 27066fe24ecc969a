// Rule 4 in one place: what to do when a subscription says "subscribed".
// Invariant: whoever asked from a position and was not recovered has lost something and loads the list again;
// repeated losses wait longer each time, so a hub that cannot recover is not hammered with lists.

export interface SubscribedReply {
  wasRecovering: boolean;
  recovered: boolean;
}

export const mustReload = (reply: SubscribedReply): boolean => reply.wasRecovering && !reply.recovered;

const FIRST_MS = 250;
const LONGEST_MS = 30_000;

/** Full jitter: many pages lose their position at the same moment. `attempt` counts from 0, which waits for nothing. */
export function reloadDelay(attempt: number, random: () => number = Math.random): number {
  if (attempt <= 0) return 0;
  return Math.round(random() * Math.min(LONGEST_MS, FIRST_MS * 2 ** attempt));
}
