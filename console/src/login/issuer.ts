// The issuer, as npm `oidc-client-ts` speaks to it: authorization code with PKCE, refresh tokens, the end of its session.
// Invariants: there is no secret and no cookie; what waits for the issuer's answer waits in this tab alone; no token is put into
// an address, not even to say good-bye; what is thrown is a LoginFailure. The library is fetched when it is needed.
import type { OidcClient, OidcMetadata, SigninResponse } from 'oidc-client-ts';
import { claimsOf, cleanToken } from '../api/token';
import type { Answer } from './answer';
import { LoginFailure, asFailure } from './failure';
import type { LoginSettings } from './settings';

/** What a login came to, and what it lives on. */
export interface Held {
  readonly settings: LoginSettings;
  /** What the hub is shown. */
  readonly token: string;
  /** When it ends by this machine's clock (ms), and how long it lived in all; 0: nobody said. */
  readonly endsAt: number;
  readonly life: number;
  /** What brings the next one; null: nothing does. */
  readonly refresh: string | null;
  /** The issuer's name of the user: another one's token is not the next of this. */
  readonly subject: string;
}

/** From the request to the whole answer. */
const TIMEOUT_S = 10;
/** Where the library keeps what waits for an answer. */
export const WAITING = 'dzvin.oidc.';

/** How the issuer describes itself, asked for once. */
let described: Partial<OidcMetadata> | undefined;

/** The page itself: where the issuer sends the browser. */
const page = (): string => location.origin + import.meta.env.BASE_URL;

/** The address to which the browser is sent. `again`: whoever is signed in there is asked all the same. */
export const begin = (settings: LoginSettings, again: boolean, lang: string): Promise<string> =>
  guarded(async () => {
    const client = await clientOf(settings);
    const prompt = again ? 'login' : undefined;
    const { url } = await client.createSigninRequest({ nonce: crypto.randomUUID(), prompt, ui_locales: lang });
    return address(url);
  });

/** From the issuer's answer to its tokens. */
export const complete = (settings: LoginSettings, answer: Answer): Promise<Held> =>
  guarded(async () => {
    if (answer.issuer !== null && answer.issuer !== settings.issuer) throw new LoginFailure('answer');
    const client = await clientOf(settings, answer.mode);
    return held(settings, await client.processSigninResponse(answer.url));
  });

/** The next token. */
export const renew = (before: Held): Promise<Held> =>
  guarded(async () => {
    const { settings, refresh, subject } = before;
    if (refresh === null) throw new LoginFailure('refused');
    const client = await clientOf(settings);
    // An answer without an ID token leaves these claims.
    const profile = { iss: settings.issuer, aud: settings.client_id, sub: subject, exp: 0, iat: 0 };
    // No scope: what was granted once is asked for, and not what the issuer called the access token's part of it.
    const state = { refresh_token: refresh, profile, session_state: null };
    const next = held(settings, await client.useRefreshToken({ state, resource: settings.resource ?? undefined, timeoutInSeconds: TIMEOUT_S }), refresh);
    if (next.subject !== subject) throw new LoginFailure('answer');
    return next;
  });

/** Takes back what would bring further tokens; answers where the issuer ends its own session, if it does. */
export const leave = ({ settings, refresh }: Held): Promise<string | null> =>
  guarded(async () => {
    const client = await clientOf(settings);
    const { revocation_endpoint, end_session_endpoint } = await client.metadataService.getMetadata();
    // It would end by itself: no reason to keep anybody who wants to leave.
    if (refresh && revocation_endpoint) await client.revokeToken(refresh, 'refresh_token').catch(() => {});
    // Without a hint that would be a token in an address: the issuer asks whether it is to end its session.
    return end_session_endpoint ? address((await client.createSignoutRequest()).url) : null;
  });

async function clientOf(settings: LoginSettings, mode: Answer['mode'] = 'fragment'): Promise<OidcClient> {
  const library = await import('oidc-client-ts').catch(() => {
    throw new LoginFailure('page');
  });
  const { issuer, client_id, scope, resource } = settings;
  const client = new library.OidcClient({
    authority: issuer, client_id, scope, redirect_uri: page(), post_logout_redirect_uri: page(), response_mode: mode,
    ...(resource === null ? {} : { resource, extraTokenParams: { resource } }),
    ...(described?.issuer === issuer ? { metadata: described } : {}),
    fetchRequestCredentials: 'omit', requestTimeoutInSeconds: TIMEOUT_S,
    stateStore: new library.WebStorageStateStore({ prefix: WAITING, store: sessionStorage }),
  });
  const metadata = await client.metadataService.getMetadata();
  // Whoever describes somebody else is not the issuer.
  if (metadata.issuer !== issuer) throw new LoginFailure('answer');
  described = metadata;
  return client;
}

/** What the issuer gave, if it is its own, for this client, and new. */
function held(settings: LoginSettings, response: SigninResponse, refresh: string | null = null): Held {
  const { iss, aud, sub, exp, iat } = response.profile;
  if (iss !== settings.issuer || ![aud].flat().includes(settings.client_id) || !sub) throw new LoginFailure('answer');
  const id = settings.token === 'id';
  const token = cleanToken((id ? response.id_token : response.access_token) ?? '');
  if (!token) throw new LoginFailure('answer');
  const life = (id ? exp - iat : (response.expires_in ?? lifeOf(token))) * 1000;
  return {
    settings, token, life: life > 0 ? life : 0, endsAt: life > 0 ? Date.now() + life : 0,
    refresh: response.refresh_token ?? refresh, subject: sub,
  };
}

/** Seconds, by the token itself: its maker's clock need not be ours. 0: it does not say. */
function lifeOf(token: string): number {
  const { exp, iat } = claimsOf(token);
  return typeof exp === 'number' && typeof iat === 'number' ? exp - iat : 0;
}

/** An address to send a browser to, and no script. */
function address(url: string): string {
  if (!/^https?:$/.test(new URL(url).protocol)) throw new LoginFailure('answer');
  return url;
}

async function guarded<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw asFailure(error);
  }
}
