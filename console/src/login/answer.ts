// The issuer's answer in the address bar: taken out before anything else runs, as a token is, and where the operator was put
// back in its place. It is asked for in the fragment, which no server sees; an issuer that knows no better uses the query.
import { hrefOf, parseRoute } from '../route/route';

const BACK = 'dzvin.back';
/** A code and its state have some hundred bytes; a novel is no answer. */
const MAX_LENGTH = 8192;

export interface Answer {
  readonly url: string;
  readonly mode: 'fragment' | 'query';
  /** Who says that it answers (RFC 9207), where it says so. */
  readonly issuer: string | null;
}

/** The answer in an address, if there is one. */
export function answerIn(address: string): Answer | null {
  const { hash, search } = new URL(address);
  const found = ([['fragment', hash], ['query', search]] as const).find(([, text]) => isAnswer(text));
  if (!found || address.length > MAX_LENGTH) return null;
  const [mode, text] = found;
  return { url: address, mode, issuer: new URLSearchParams(text.slice(1)).get('iss') };
}

/** A link into the board begins with a slash, and its filter may be called anything. */
function isAnswer(text: string): boolean {
  if (text.startsWith('#/')) return false;
  const params = new URLSearchParams(text.slice(1));
  return params.has('code') || params.has('error');
}

/** Remembers where the operator is, for the way back. */
export const rememberPlace = (): void => sessionStorage.setItem(BACK, location.hash);

/** Takes an answer out of the address bar, without leaving a history entry that holds it. */
export function takeAnswer(): Answer | null {
  const answer = answerIn(location.href);
  const back = sessionStorage.getItem(BACK) ?? '';
  sessionStorage.removeItem(BACK);
  if (answer) history.replaceState(null, '', location.pathname + (back.startsWith('#/') ? hrefOf(parseRoute(back)) : ''));
  return answer;
}
