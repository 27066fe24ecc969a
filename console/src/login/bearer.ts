// What a session signs its requests with. A pasted token stays what it is; that of a login becomes another before it ends.
import { Store } from '../live/store';

export interface Bearer {
  /** The newest token. */
  readonly token: Store<string>;
  /** Who cannot be reached while the token waits to be renewed; empty: all is well. */
  readonly trouble: Store<string>;
  /**
   * A token that is newer than this one, or null when there will be none.
   * Throws a `Problem` when whoever makes them cannot be reached now.
   */
  newer(than: string): Promise<string | null>;
  /** From here on it is kept fresh, until `stop`. */
  start(): void;
  stop(): void;
}

/** A token that nobody renews. */
export function pasted(token: string): Bearer {
  return {
    token: new Store(token),
    trouble: new Store(''),
    newer: async () => null,
    start() {},
    stop() {},
  };
}
