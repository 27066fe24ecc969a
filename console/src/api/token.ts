// Where the bearer token lives: given in the fragment (#token=...) or typed, kept in sessionStorage for this tab only.
// Invariants: never in a query string, never in localStorage, gone from the address bar before anything else runs.

const KEY = 'dzvin.token';

/** A JWT is header-sized; a pasted novel is not a token. */
const MAX_LENGTH = 8192;

/** Header-safe characters only: the token goes into an HTTP header. */
export function cleanToken(text: string): string | null {
  const token = text.trim().replace(/^Bearer\s+/i, '');
  return token.length > 0 && token.length <= MAX_LENGTH && /^[\x21-\x7e]+$/.test(token) ? token : null;
}

/** The token of a fragment and the fragment without it. */
export function takeFromFragment(hash: string): { token: string | null; rest: string } {
  const parts = hash.replace(/^#/, '').split('&');
  const at = parts.findIndex((part) => part.startsWith('token='));
  if (at < 0) return { token: null, rest: hash };
  const [found] = parts.splice(at, 1);
  let value = found!.slice('token='.length);
  try {
    value = decodeURIComponent(value);
  } catch {
    // Not percent-encoded: taken as it is.
  }
  const rest = parts.join('&');
  return { token: cleanToken(value), rest: rest ? `#${rest}` : '' };
}

/** Takes a token out of the address bar, without leaving a history entry that holds it. */
export function takeFromAddressBar(): string | null {
  const { token, rest } = takeFromFragment(location.hash);
  if (location.hash.includes('token=')) history.replaceState(null, '', location.pathname + location.search + rest);
  return token;
}

export const storedToken = (): string | null => sessionStorage.getItem(KEY);
export const storeToken = (token: string): void => sessionStorage.setItem(KEY, token);
export const forgetToken = (): void => sessionStorage.removeItem(KEY);

/** What the token says, unchecked: for display and for timers, the hub decides. Nothing for one that is no JWT. */
export function claimsOf(token: string): Record<string, unknown> {
  try {
    const part = token.split('.')[1]!.replace(/-/g, '+').replace(/_/g, '/');
    const bytes = Uint8Array.from(atob(part), (c) => c.charCodeAt(0));
    const claims: unknown = JSON.parse(new TextDecoder().decode(bytes));
    return claims && typeof claims === 'object' ? (claims as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}

/** Who the token says we are: by the name that people know, where an issuer puts one into it. */
export function subjectOf(token: string): string {
  const { preferred_username: name, sub } = claimsOf(token);
  const known = [name, sub].find((text) => typeof text === 'string' && text !== '');
  return typeof known === 'string' ? known.slice(0, 80) : '';
}
