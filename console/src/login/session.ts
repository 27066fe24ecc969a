// The session of a login: its token, renewed in time, kept for a reload of this tab.
// Invariants: one renewal at a time; nothing is stored any more once it was stopped; a token that the issuer no longer renews is
// used to its end and not beyond; while the issuer is away it is asked again and again, and whoever waits is told.
import { Problem } from '../api/problem';
import { Store } from '../live/store';
import type { Bearer } from './bearer';
import { LoginFailure } from './failure';
import { type Held, WAITING, leave, renew } from './issuer';
import { hostOf, isSettings } from './settings';

const KEY = 'dzvin.login';
/** So long before its end a token is renewed; of one that lives shorter than three times this, in the last third of its life. */
const AHEAD_MS = 60_000;
/** From a renewal that failed to the next. */
const RETRY_MS = 5_000;
/** A token that hardly lives must not keep the issuer busy. */
const LEAST_MS = 1_000;
/** A browser's timers count no further: more than three weeks. */
const MAX_TIMER_MS = 2 ** 31 - 1;

export class LoginSession implements Bearer {
  readonly token: Store<string>;
  readonly trouble = new Store('');
  private timer: ReturnType<typeof setTimeout> | undefined;
  private renewing: Promise<string | null> | null = null;
  private running = false;

  /** `ask` is the issuer; another one in tests. */
  constructor(
    private held: Held,
    private readonly ask: (before: Held) => Promise<Held> = renew,
  ) {
    this.token = new Store(held.token);
  }

  /** That which this tab has kept, if any. */
  static resume(): LoginSession | null {
    try {
      const held: unknown = JSON.parse(sessionStorage.getItem(KEY) ?? 'null');
      if (isHeld(held) && (held.refresh !== null || held.endsAt === 0 || held.endsAt > Date.now())) return new LoginSession(held);
    } catch {
      // Of another version: forgotten below.
    }
    // It alone: what waits for the issuer's answer may be about to get it.
    sessionStorage.removeItem(KEY);
    return null;
  }

  get host(): string {
    return hostOf(this.held.settings);
  }

  start(): void {
    this.running = true;
    this.keep();
    this.plan();
  }

  stop(): void {
    this.running = false;
    clearTimeout(this.timer);
  }

  async newer(than: string): Promise<string | null> {
    const token = this.token.get();
    if (token !== than) return token;
    if (this.held.refresh === null) return null;
    this.renewing ??= this.renew().finally(() => {
      this.renewing = null;
    });
    return this.renewing;
  }

  /** Forgets everything; answers where the issuer ends its session, if it does. Throws a `LoginFailure` when it cannot be asked. */
  end(): Promise<string | null> {
    this.stop();
    forgetLogin();
    return leave(this.held);
  }

  private async renew(): Promise<string | null> {
    clearTimeout(this.timer);
    const before = this.held;
    try {
      const next = await this.ask(before);
      // The same once more is no renewal, and would be asked for without end.
      if (next.token === before.token) throw new LoginFailure('answer');
      this.held = next;
    } catch (failure) {
      if (failure instanceof LoginFailure && failure.passes) {
        this.trouble.set(this.host);
        this.plan(RETRY_MS);
        throw new Problem('issuer', 0, '', '', '');
      }
      this.held = { ...before, refresh: null };
    }
    this.trouble.set('');
    this.keep();
    if (this.held.refresh === null && this.held.token === before.token) return null;
    this.token.set(this.held.token);
    this.plan();
    return this.held.token;
  }

  private keep(): void {
    if (this.running) sessionStorage.setItem(KEY, JSON.stringify(this.held));
  }

  private plan(delay = this.untilDue()): void {
    clearTimeout(this.timer);
    const { endsAt, refresh, token } = this.held;
    if (!this.running || refresh === null || endsAt === 0) return;
    // Who needs the token is told by `newer`; here nobody does.
    const due = () => void this.newer(token).catch(() => {});
    this.timer = setTimeout(due, Math.min(delay, MAX_TIMER_MS));
  }

  private untilDue(): number {
    const { endsAt, life } = this.held;
    return Math.max(endsAt - Date.now() - Math.min(AHEAD_MS, life / 3), LEAST_MS);
  }
}

function isHeld(it: unknown): it is Held {
  if (!it || typeof it !== 'object') return false;
  const { settings, token, endsAt, life, refresh, subject } = it as Record<string, unknown>;
  const texts = [token, subject].every((text) => typeof text === 'string');
  return isSettings(settings) && texts && [endsAt, life].every(Number.isFinite) && (refresh === null || typeof refresh === 'string');
}

/** Also what still waited for an answer. */
export function forgetLogin(): void {
  const ours = Object.keys(sessionStorage).filter((key) => key === KEY || key.startsWith(WAITING));
  for (const key of ours) sessionStorage.removeItem(key);
}
