// Where to sign in, as the hub says: `login.json` beside the page.
import { fetchText } from '../api/client';
import { Problem } from '../api/problem';

export interface LoginSettings {
  readonly issuer: string;
  readonly client_id: string;
  readonly scope: string;
  /** What the access token is to be for (RFC 8707), where the issuer wants to be told. */
  readonly resource: string | null;
  /** Which of the issuer's tokens the hub takes. */
  readonly token: 'access' | 'id';
}

/** Null when there is no login. */
export async function readLogin(signal?: AbortSignal): Promise<LoginSettings | null> {
  const text = await fetchText(`${import.meta.env.BASE_URL}login.json`, { signal });
  try {
    const { login } = JSON.parse(text) as { login?: unknown };
    if (login === null) return null;
    if (isSettings(login)) return login;
  } catch {
    // Not JSON: said below.
  }
  throw new Problem('answer', 0, '', '', '');
}

/** Also of what this tab has kept: it may be of another version. */
export function isSettings(it: unknown): it is LoginSettings {
  if (!it || typeof it !== 'object') return false;
  const { issuer, client_id, scope, resource, token } = it as Record<string, unknown>;
  const texts = [issuer, client_id, scope].every((text) => typeof text === 'string' && text !== '');
  return texts && URL.canParse(issuer as string) && (resource === null || typeof resource === 'string') && (token === 'access' || token === 'id');
}

/** How people know the issuer. */
export const hostOf = ({ issuer }: LoginSettings): string => new URL(issuer).host;
