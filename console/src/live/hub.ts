// The one connection to the hub: unmodified centrifuge, its states turned into words an operator can act on.
// Invariants: a subscription starts from a given position (rule 4); the state shown is never better than the truth.
import { Centrifuge, State, type SubscribedContext, type Subscription, UnauthorizedError, connectingCodes, disconnectedCodes } from 'centrifuge';
import type { Change, Position } from '../api/types';
import type { Bearer } from '../login/bearer';
import { Store } from './store';

export type LinkState = 'connecting' | 'connected' | 'reconnecting' | 'offline' | 'ended';

export interface Link {
  state: LinkState;
  /** The code and words of the last close, as the hub or the library gave them. */
  code: number;
  reason: string;
  /** When the last good connection ended (ms); 0 while connected, and before the first one. */
  lostAt: number;
}

export interface SubscriptionHandlers {
  onChange(change: Change): void;
  onSubscribed(reply: SubscribedContext): void;
  /** Asked again by itself later (temporary refusal, cut connection). */
  onWaiting(code: number, reason: string): void;
  /** Refused for good. */
  onRefused(code: number, reason: string): void;
}

/** The close codes that say the same as the library's own numbers. */
const NO_PING = 3012;
const TOO_LARGE = 1009;

const UNAUTHORIZED = new Set([1, 101, 3500]);

export class Hub {
  readonly link: Store<Link>;
  private readonly client: Centrifuge;
  private wasConnected = false;
  private readonly stops: (() => void)[] = [];

  constructor(bearer: Bearer, onSignedOut: () => void) {
    const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
    this.link = new Store<Link>({ state: 'connecting', code: 0, reason: '', lostAt: 0 });
    // What the connection lives on; asked for another when that ends, or has ended before a reconnect.
    let token = bearer.token.get();
    const getToken = async () => {
      const newer = await bearer.newer(token);
      if (newer === null) throw new UnauthorizedError('');
      token = newer;
      return token;
    };
    this.client = new Centrifuge(`${scheme}://${location.host}/connection/websocket`, {
      token,
      getToken,
      name: 'console',
      minReconnectDelay: 300,
      maxReconnectDelay: 10_000,
    });
    // The library's own small numbers mean different things in different events: told apart here, once.
    this.client.on('connecting', (it) => {
      const code = it.code === connectingCodes.noPing ? NO_PING : it.code;
      this.moved(this.wasConnected ? 'reconnecting' : 'connecting', code, it.reason);
    });
    this.client.on('connected', () => {
      this.wasConnected = true;
      this.moved('connected', 0, '');
    });
    this.client.on('disconnected', (it) => {
      this.moved('ended', it.code === disconnectedCodes.messageSizeLimit ? TOO_LARGE : it.code, it.reason);
      if (UNAUTHORIZED.has(it.code)) onSignedOut();
    });
    // A failed attempt: the words of the failure, without pretending that the state has changed.
    this.client.on('error', (it) => {
      const link = this.link.get();
      if (link.state !== 'connected') this.link.set({ ...link, code: it.error.code, reason: it.error.message });
    });
    this.watchNetwork();
  }

  connect(): void {
    this.client.connect();
  }

  /** The operator's "try now": does not wait for the back-off. Positions are kept by the subscriptions. */
  retry(): void {
    this.client.disconnect();
    this.client.connect();
  }

  close(): void {
    for (const stop of this.stops) stop();
    this.client.disconnect();
  }

  /** Subscribes from a position; returns how to stop. */
  subscribe(channel: string, since: Position, handlers: SubscriptionHandlers): () => void {
    const stale = this.client.getSubscription(channel);
    if (stale) this.drop(stale);
    const subscription = this.client.newSubscription(channel, { since });
    subscription.on('publication', (it) => handlers.onChange(it.data as Change));
    subscription.on('subscribed', (it) => handlers.onSubscribed(it));
    subscription.on('subscribing', (it) => handlers.onWaiting(it.code, it.reason));
    subscription.on('error', (it) => handlers.onWaiting(it.error.code, it.error.message));
    subscription.on('unsubscribed', (it) => handlers.onRefused(it.code, it.reason));
    subscription.subscribe();
    return () => this.drop(subscription);
  }

  private drop(subscription: Subscription): void {
    subscription.removeAllListeners();
    subscription.unsubscribe();
    this.client.removeSubscription(subscription);
  }

  private moved(state: LinkState, code: number, reason: string): void {
    const honest = state !== 'connected' && state !== 'ended' && !navigator.onLine ? 'offline' : state;
    const before = this.link.get();
    const lostAt = state === 'connected' ? 0 : before.lostAt || (before.state === 'connected' ? Date.now() : 0);
    this.link.set({ state: honest, code, reason, lostAt });
  }

  private watchNetwork(): void {
    const changed = () => {
      const { state, code, reason } = this.link.get();
      if (state === 'connected' || state === 'ended') return;
      if (!navigator.onLine) this.moved('offline', code, reason);
      else if (this.client.state === State.Connecting) this.moved(this.wasConnected ? 'reconnecting' : 'connecting', code, reason);
    };
    for (const name of ['online', 'offline'] as const) {
      window.addEventListener(name, changed);
      this.stops.push(() => window.removeEventListener(name, changed));
    }
  }
}
