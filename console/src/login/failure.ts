// What can go wrong with a login, as one type.
// Invariant: nothing of an address, a code or a token is ever in it, only the issuer's own short word for its refusal.
import type { Key, Params } from '../i18n/translate';

export type Trouble =
  /** The issuer does not answer, or does not let this page ask (which a browser does not tell apart). */
  | 'unreachable'
  /** Whoever was asked said no. */
  | 'denied'
  /** The issuer refuses, by a word of its own. */
  | 'refused'
  /** The answer is to no question of this tab. */
  | 'state'
  /** The answer is not what was asked for, or for somebody else. */
  | 'answer'
  /** The hub does not take the token. */
  | 'token'
  /** Nor does it as long as the clocks differ. */
  | 'clock'
  /** A piece of the page was not found: the hub is away, or was replaced meanwhile. */
  | 'page';

export class LoginFailure extends Error {
  constructor(
    readonly trouble: Trouble,
    /** The issuer's word, as `invalid_target`. */
    readonly word = '',
  ) {
    super(trouble);
    this.name = 'LoginFailure';
  }

  /** Whether the same may succeed a little later. */
  get passes(): boolean {
    return this.trouble === 'unreachable' || this.trouble === 'page';
  }
}

/** Refusals that say "later" (RFC 6749, 4.1.2.1; RFC 8628 for the last). */
const LATER = new Set(['server_error', 'temporarily_unavailable', 'slow_down']);
/** The status of an answer that is no error of the protocol stands in brackets in the library's words. */
const OF_STATUS = /\((\d{3})\)/;
/** The words of the library when the answer belongs to no question, or to one that was asked of another issuer. */
const OF_STATE = /^(No (matching )?state|State does not|authority mismatch|client_id mismatch)/;

/** What the library threw, without what it says. */
export function asFailure(error: unknown): LoginFailure {
  if (error instanceof LoginFailure) return error;
  if (!(error instanceof Error)) return new LoginFailure('answer');
  const word = (error as { error?: unknown }).error;
  if (error.name === 'ErrorResponse' && typeof word === 'string') {
    if (LATER.has(word)) return new LoginFailure('unreachable');
    return word === 'access_denied' ? new LoginFailure('denied') : new LoginFailure('refused', word.replace(/[^\w.-]/g, '').slice(0, 60));
  }
  // `fetch` throws a TypeError for whatever keeps it from an answer.
  if (error.name === 'ErrorTimeout' || error instanceof TypeError) return new LoginFailure('unreachable');
  if (OF_STATE.test(error.message)) return new LoginFailure('state');
  const status = Number(OF_STATUS.exec(error.message)?.[1]);
  return new LoginFailure(status >= 500 || status === 429 ? 'unreachable' : 'answer');
}

/** Words that wait to be said in the language of the moment. */
export interface Notice {
  readonly key: Key;
  readonly params?: Params;
}

export const noticeOf = ({ trouble, word }: LoginFailure, host: string): Notice => ({ key: `login.${trouble}`, params: { host, word } });
