import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Api } from '../src/api/client';
import { Problem } from '../src/api/problem';
import { answerIn } from '../src/login/answer';
import { pasted } from '../src/login/bearer';
import { LoginFailure, asFailure, noticeOf } from '../src/login/failure';
import { type Held, begin, complete, leave, renew } from '../src/login/issuer';
import { LoginSession, forgetLogin } from '../src/login/session';
import { type LoginSettings, isSettings, readLogin } from '../src/login/settings';
import { en } from '../src/i18n/en';

const ISSUER = 'https://id.example/realms/sales';
const settings: LoginSettings = { issuer: ISSUER, client_id: 'console', scope: 'openid', resource: null, token: 'access' };
const part = (it: unknown) => btoa(JSON.stringify(it)).replace(/=+$/, '');
const jwt = (claims: object) => `${part({ alg: 'none' })}.${part(claims)}.x`;
const NOW = 1_800_000_000;

/** As much of a browser's as is used, its keys enumerable as they are there. */
function storage(): Storage {
  const own = (it: unknown) => it as Record<string, string>;
  return Object.create({
    getItem(key: string) { return Object.hasOwn(this, key) ? own(this)[key]! : null; },
    setItem(key: string, value: string) { own(this)[key] = value; },
    removeItem(key: string) { delete own(this)[key]; },
    key(n: number) { return Object.keys(this)[n] ?? null; },
    get length() { return Object.keys(this).length; },
  }) as Storage;
}

beforeEach(() => {
  vi.useFakeTimers({ now: NOW * 1000 });
  vi.stubGlobal('sessionStorage', storage());
  vi.stubGlobal('location', { origin: 'https://hub.example' });
  vi.stubEnv('BASE_URL', '/console/');
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
  vi.unstubAllEnvs();
});

describe('the answer in the address', () => {
  it('is found in the fragment, and in the query of an issuer that knows no better', () => {
    const fragment = answerIn(`https://hub.example/console/#state=s&code=c&iss=${encodeURIComponent(ISSUER)}`);
    expect([fragment?.mode, fragment?.issuer]).toEqual(['fragment', ISSUER]);
    expect(answerIn('https://hub.example/console/?state=s&code=c')).toMatchObject({ mode: 'query', issuer: null });
    expect(answerIn('https://hub.example/console/#error=access_denied&state=s')?.mode).toBe('fragment');
  });

  it('is no link into the board, whatever its filter is called', () => {
    for (const hash of ['', '#/', '#/procedure?state=x&code=y', '#/procedure?x=1&error=y', '#token=a.b.c']) expect(answerIn(`https://hub.example/console/${hash}`)).toBeNull();
    expect(answerIn(`https://hub.example/console/#code=${'x'.repeat(10_000)}`)).toBeNull();
  });
});

describe('failures', () => {
  const thrown = (message: string, more: object = {}) => asFailure(Object.assign(new Error(message), more));

  it('are told apart, without what was said', () => {
    const response = (error: string) => thrown('call 0900 now, eyJ', { name: 'ErrorResponse', error });
    for (const [failure, trouble, word] of [
      [response('access_denied'), 'denied', ''],
      [response('invalid_target'), 'refused', 'invalid_target'],
      [response('<b>call 0900</b>'), 'refused', 'bcall0900b'],
      [response('temporarily_unavailable'), 'unreachable', ''],
      [asFailure(new TypeError('Failed to fetch')), 'unreachable', ''],
      [thrown('Network timed out', { name: 'ErrorTimeout' }), 'unreachable', ''],
      [thrown('Bad Gateway (502)'), 'unreachable', ''],
      [thrown(' (404)'), 'answer', ''],
      [thrown('No matching state found in storage'), 'state', ''],
      [thrown('No state in response'), 'state', ''],
      [thrown('authority mismatch on settings vs. signin state'), 'state', ''],
      [thrown('nonce in id_token does not match nonce in client storage'), 'answer', ''],
      [asFailure('eyJ'), 'answer', ''],
    ] as const) {
      expect([failure.trouble, failure.word]).toEqual([trouble, word]);
      expect(String(failure)).not.toContain('eyJ');
      expect(noticeOf(failure, 'id.example').key in en).toBe(true);
    }
  });
});

describe('what the hub says of the login', () => {
  const answers = (body: string) => vi.stubGlobal('fetch', async () => new Response(body));

  it('is a login, or none; anything else is not guessed at', async () => {
    answers(JSON.stringify({ login: settings }));
    expect(await readLogin()).toEqual(settings);
    answers('{"login":null}');
    expect(await readLogin()).toBeNull();
    for (const odd of ['', '<html>', '{}', 'null', '{"login":{}}', JSON.stringify({ login: { ...settings, issuer: 'crm' } })]) {
      answers(odd);
      await expect(readLogin()).rejects.toMatchObject({ origin: 'answer' });
    }
    expect(isSettings({ ...settings, token: 'refresh' })).toBe(false);
  });
});

/** An issuer that answers by path; what it was asked is kept. */
function issuer(tokens: () => object, more: object = {}) {
  const asked: { path: string; form: URLSearchParams; init: RequestInit }[] = [];
  const description = {
    issuer: ISSUER, authorization_endpoint: `${ISSUER}/auth`, token_endpoint: `${ISSUER}/token`,
    revocation_endpoint: `${ISSUER}/revoke`, end_session_endpoint: `${ISSUER}/logout`, ...more,
  };
  vi.stubGlobal('fetch', async (url: string, init: RequestInit = {}) => {
    const path = url.slice(ISSUER.length);
    asked.push({ path, form: new URLSearchParams(String(init.body ?? '')), init });
    return Response.json(path.startsWith('/.well-known') ? description : path === '/token' ? tokens() : {});
  });
  return asked;
}

describe('the issuer', () => {
  const claims = (more: object = {}) => ({ iss: ISSUER, aud: 'console', sub: 'olha', iat: NOW, exp: NOW + 300, ...more });

  /** From the button to the tokens. */
  async function login(of: LoginSettings, tokens: (nonce: string) => object, change: (answer: URLSearchParams) => void = () => {}) {
    let nonce = '';
    const asked = issuer(() => tokens(nonce));
    const url = new URL(await begin(of, false, 'uk'));
    nonce = url.searchParams.get('nonce')!;
    const answer = new URLSearchParams({ code: 'the-code', state: url.searchParams.get('state')! });
    change(answer);
    const held = () => complete(of, answerIn(`https://hub.example/console/#${answer}`)!);
    return { asked, url, held };
  }
  const good = (nonce: string, more: object = {}) => ({ access_token: 'a.b.c', token_type: 'Bearer', expires_in: 300, refresh_token: 'r1', id_token: jwt(claims({ nonce })), ...more });

  it('is asked for a code with PKCE, state and nonce, and for tokens without a secret or a cookie', async () => {
    const of = { ...settings, resource: 'https://hub.example' };
    const { asked, url, held } = await login(of, good);
    expect(url.href.startsWith(`${ISSUER}/auth?`)).toBe(true);
    const { state, nonce, code_challenge, ...rest } = Object.fromEntries(url.searchParams);
    expect(rest).toEqual({
      client_id: 'console', redirect_uri: 'https://hub.example/console/', response_type: 'code', scope: 'openid',
      code_challenge_method: 'S256', resource: 'https://hub.example', response_mode: 'fragment', ui_locales: 'uk',
    });
    expect([state!.length >= 32, nonce!.length >= 32, code_challenge!.length]).toEqual([true, true, 43]);
    expect(await held()).toEqual({ settings: of, token: 'a.b.c', refresh: 'r1', subject: 'olha', life: 300_000, endsAt: NOW * 1000 + 300_000 });
    const { form, init } = asked.at(-1)!;
    expect([form.get('code'), form.get('resource'), form.get('client_secret'), form.get('code_verifier')!.length]).toEqual(['the-code', 'https://hub.example', null, 96]);
    expect(init.credentials).toBe('omit');
    expect(Object.keys(sessionStorage)).toEqual([]);
  });

  it('gives an ID token where that is the bearer, which lives as long as it says by whatever clock', async () => {
    const { held } = await login({ ...settings, token: 'id' }, (nonce) => good(nonce, { id_token: jwt(claims({ nonce, iat: 1000, exp: 1060 })) }));
    const { token, life, endsAt } = await held();
    expect([token.startsWith('ey'), life, endsAt]).toEqual([true, 60_000, NOW * 1000 + 60_000]);
  });

  it('is not believed when it answers for another, to another, or to another question', async () => {
    for (const [tokens, change, trouble] of [
      [(nonce: string) => good(nonce, { id_token: jwt(claims({ nonce, iss: 'https://evil.example' })) }), undefined, 'answer'],
      [(nonce: string) => good(nonce, { id_token: jwt(claims({ nonce, aud: ['other'] })) }), undefined, 'answer'],
      [() => good('another'), undefined, 'answer'],
      [(nonce: string) => good(nonce, { access_token: 'with spaces' }), undefined, 'answer'],
      [(nonce: string) => good(nonce, { access_token: 'x'.repeat(9000) }), undefined, 'answer'],
      [(nonce: string) => good(nonce, { id_token: undefined }), undefined, 'answer'],
      [good, (answer: URLSearchParams) => answer.set('state', 'another'), 'state'],
      [good, (answer: URLSearchParams) => answer.set('iss', 'https://evil.example'), 'answer'],
      [good, (answer: URLSearchParams) => { answer.delete('code'); answer.set('error', 'access_denied'); }, 'denied'],
    ] as const) {
      const { held } = await login(settings, tokens, change);
      await expect(held()).rejects.toMatchObject({ trouble });
    }
  });

  it('answers one question once', async () => {
    const { held, url } = await login(settings, good);
    await held();
    const again = answerIn(`https://hub.example/console/#code=x&state=${url.searchParams.get('state')}`)!;
    await expect(complete(settings, again)).rejects.toMatchObject({ trouble: 'state' });
  });

  const before: Held = { settings, token: 'a.b.c', refresh: 'r1', subject: 'olha', life: 300_000, endsAt: 0 };

  it('renews for the same user, with or without a new refresh token', async () => {
    const asked = issuer(() => ({ access_token: 'd.e.f', expires_in: 60, token_type: 'Bearer' }));
    expect(await renew(before)).toMatchObject({ token: 'd.e.f', refresh: 'r1', life: 60_000 });
    expect(Object.fromEntries(asked.at(-1)!.form)).toEqual({ grant_type: 'refresh_token', refresh_token: 'r1', client_id: 'console' });
    issuer(() => ({ access_token: 'd.e.f', refresh_token: 'r2', id_token: jwt(claims()) }));
    expect(await renew(before)).toMatchObject({ refresh: 'r2', life: 0, endsAt: 0 });
    issuer(() => ({ access_token: 'd.e.f', id_token: jwt(claims({ sub: 'petro' })) }));
    await expect(renew(before)).rejects.toMatchObject({ trouble: 'answer' });
    // An issuer that renews no ID token cannot renew this.
    issuer(() => ({ access_token: 'd.e.f' }));
    await expect(renew({ ...before, settings: { ...settings, token: 'id' } })).rejects.toMatchObject({ trouble: 'answer' });
  });

  it('is left with nothing of a token in the address', async () => {
    const asked = issuer(() => ({}));
    const url = new URL((await leave(before))!);
    expect(Object.fromEntries(url.searchParams)).toEqual({ client_id: 'console', post_logout_redirect_uri: 'https://hub.example/console/' });
    expect(asked.find((it) => it.path === '/revoke')!.form.get('token')).toBe('r1');
  });
});

describe('a session', () => {
  const held = (n: number, more: Partial<Held> = {}): Held => ({ settings, token: `t${n}`, refresh: `r${n}`, subject: 'olha', life: 300_000, endsAt: Date.now() + 300_000, ...more });
  const kept = () => JSON.parse(sessionStorage.getItem('dzvin.login') ?? 'null') as Held | null;

  it('is renewed a minute before its end, or in the last third of a short life, again and again', async () => {
    let n = 1;
    const ask = vi.fn(async () => held(++n, { life: 6_000, endsAt: Date.now() + 6_000 }));
    const session = new LoginSession(held(1), ask);
    session.start();
    await vi.advanceTimersByTimeAsync(239_000);
    expect(ask).toHaveBeenCalledTimes(0);
    await vi.advanceTimersByTimeAsync(1_000);
    expect([ask.mock.calls.length, session.token.get(), kept()?.refresh]).toEqual([1, 't2', 'r2']);
    await vi.advanceTimersByTimeAsync(12_000);
    expect(session.token.get()).toBe('t5');
    session.stop();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(ask).toHaveBeenCalledTimes(4);
  });

  it('is renewed once for all who ask, and not for whoever has an older token', async () => {
    const ask = vi.fn(async () => held(2));
    const session = new LoginSession(held(1), ask);
    session.start();
    expect(await Promise.all([session.newer('t1'), session.newer('t1')])).toEqual(['t2', 't2']);
    expect(await session.newer('t1')).toBe('t2');
    expect(ask).toHaveBeenCalledTimes(1);
    session.stop();
  });

  it('says that the issuer is away, asks again, and goes on', async () => {
    let away = true;
    const session = new LoginSession(held(1), async () => {
      if (away) throw new LoginFailure('unreachable');
      return held(2);
    });
    session.start();
    await expect(session.newer('t1')).rejects.toMatchObject({ origin: 'issuer' });
    expect([session.trouble.get(), session.token.get()]).toEqual(['id.example', 't1']);
    away = false;
    await vi.advanceTimersByTimeAsync(5_000);
    expect([session.trouble.get(), session.token.get()]).toEqual(['', 't2']);
    session.stop();
  });

  it('is used to its end and not beyond when the issuer renews it no more', async () => {
    const ask = vi.fn(async (): Promise<Held> => {
      throw new LoginFailure('refused', 'invalid_grant');
    });
    const session = new LoginSession(held(1), ask);
    session.start();
    expect(await session.newer('t1')).toBeNull();
    expect(await session.newer('t1')).toBeNull();
    expect([session.token.get(), kept()?.refresh, ask.mock.calls.length]).toEqual(['t1', null, 1]);
    await vi.advanceTimersByTimeAsync(600_000);
    expect(ask).toHaveBeenCalledTimes(1);
    session.stop();
  });

  it('is not renewed by the same token once more', async () => {
    const session = new LoginSession(held(1), async () => held(1));
    expect(await session.newer('t1')).toBeNull();
  });

  it('leaves nothing behind, not even by a renewal that ends later', async () => {
    let arrive = (_: Held) => {};
    const session = new LoginSession(held(1), () => new Promise((resolve) => { arrive = resolve; }));
    session.start();
    const waiting = session.newer('t1');
    sessionStorage.setItem('dzvin.oidc.abandoned', '{}');
    session.stop();
    forgetLogin();
    arrive(held(2));
    await waiting;
    expect(Object.keys(sessionStorage)).toEqual([]);
  });

  it('is taken up again after a reload, unless it has ended or is none', () => {
    sessionStorage.setItem('dzvin.oidc.waiting', '{}');
    const resume = (it: unknown) => {
      sessionStorage.setItem('dzvin.login', typeof it === 'string' ? it : JSON.stringify(it));
      return LoginSession.resume();
    };
    expect(resume(held(1))?.token.get()).toBe('t1');
    expect(resume(held(1, { endsAt: Date.now() - 1 }))?.token.get()).toBe('t1');
    expect(resume(held(1, { refresh: null }))?.token.get()).toBe('t1');
    for (const odd of [held(1, { refresh: null, endsAt: Date.now() - 1 }), '{', 'null', '[]', { ...held(1), settings: {} }, { ...held(1), token: 1 }, { ...held(1), life: 'x' }]) {
      expect(resume(odd)).toBeNull();
      expect(Object.keys(sessionStorage)).toEqual(['dzvin.oidc.waiting']);
    }
  });
});

describe('REST', () => {
  const refuses = (...tokens: string[]) => {
    const asked: string[] = [];
    vi.stubGlobal('fetch', async (_: string, { headers }: { headers: { Authorization: string } }) => {
      asked.push(headers.Authorization);
      const refused = tokens.some((token) => headers.Authorization === `Bearer ${token}`);
      return refused ? Response.json({ code: 'token_expired' }, { status: 401 }) : Response.json({ items: [] });
    });
    return asked;
  };

  it('asks with the newest token, once more when it was too old, and gives up when there is none', async () => {
    const out = vi.fn();
    let asked = refuses('t1');
    await new Api({ ...pasted('t1'), newer: async () => 't2' }, out).kinds();
    expect([asked, out.mock.calls.length]).toEqual([['Bearer t1', 'Bearer t2'], 0]);
    asked = refuses('t1', 't2');
    await expect(new Api({ ...pasted('t1'), newer: async () => 't2' }, out).kinds()).rejects.toMatchObject({ status: 401 });
    expect([asked.length, out.mock.calls.length]).toEqual([2, 1]);
    asked = refuses('t1');
    await expect(new Api(pasted('t1'), out).kinds()).rejects.toMatchObject({ code: 'token_expired' });
    expect([asked.length, out.mock.calls.length]).toEqual([1, 2]);
  });

  it('does not sign out because the issuer is away', async () => {
    const out = vi.fn();
    refuses('t1');
    const away = async () => {
      throw new Problem('issuer', 0, '', '', '');
    };
    await expect(new Api({ ...pasted('t1'), newer: away }, out).kinds()).rejects.toMatchObject({ origin: 'issuer' });
    expect(out).not.toHaveBeenCalled();
  });
});
