// Signing in at an issuer, in a real browser, at a real hub and npm `oidc-provider` (support/issuer.mjs); started by tests/it. What is
// asked of the issuer is changed, where a scenario needs it, in what the page is told of it: the hub stays as it is.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { launch, openPage, picture } from './support/browser.mjs';
import { startWorld } from './support/world.mjs';

const ISSUER = process.env.DZVIN_ISSUER;
const HOST = new URL(ISSUER).host;
let world;
let browser;

before(async () => {
  world = await startWorld();
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await world?.stop();
});

const rows = (page) => page.locator('.grid-row');
const isConnected = (page) => page.locator('.link[data-state="connected"]').waitFor();
const button = (page) => page.getByRole('button', { name: `Увійти через ${HOST}` });
const says = (page, text) => page.getByRole('alert').filter({ hasText: text }).waitFor();
/** Nothing of an answer, nor of a token. */
const isClean = (page) => assert.doesNotMatch(page.url(), /code=|state=|error=|iss=|eyJ/);

/** A page before the form, told other things of the login than the hub says. */
async function outside(told = {}, hash = '', options = {}) {
  const it = await openPage(browser, options);
  // The issuer's own pages have pictures and letters of far away.
  await it.page.context().route(/^https:/, (route) => route.abort());
  if (Object.keys(told).length) {
    await it.page.route('**/console/login.json', async (route) => {
      const response = await route.fetch();
      const { login } = await response.json();
      await route.fulfill({ response, json: { login: { ...login, ...told } } });
    });
  }
  await it.page.goto(`${world.console}${hash}`);
  await button(it.page).waitFor();
  return it;
}

async function atIssuer(page, name = 'olha') {
  await button(page).click();
  await page.locator('input[name="login"]').fill(name);
  await page.locator('input[name="password"]').fill('anything');
  await page.locator('button[type="submit"]').click();
  await page.getByRole('button', { name: 'Continue' }).waitFor();
}

async function signIn(page) {
  await atIssuer(page);
  await page.getByRole('button', { name: 'Continue' }).click();
}

async function inside(told, hash) {
  const it = await outside(told, hash);
  await signIn(it.page);
  await rows(it.page).first().waitFor();
  await isConnected(it.page);
  return it;
}

describe('signing in at the issuer', () => {
  test('leads back to where one was, to a live board, through a reload, and out again at both', async () => {
    const { page, close } = await inside({}, '#/procedure?status=active_tendering');
    isClean(page);
    assert.equal(new URL(page.url()).hash, '#/procedure?status=active_tendering');
    assert.equal(new URL(page.url()).search, '');
    assert.deepEqual(await page.evaluate(() => Object.keys(localStorage)), []);
    assert.deepEqual(await page.evaluate(() => Object.keys(sessionStorage)), ['dzvin.login']);
    await page.getByText('olha', { exact: true }).waitFor();

    const item = await world.patch((await world.rest('/entities/procedure?limit=50&status=active_tendering')).items.at(-1).id, { title: 'Змінено щойно' });
    await page.locator(`.grid-row[data-id="${item.id}"][data-revision="${item.revision}"]`).waitFor();

    await page.reload();
    await rows(page).first().waitFor();
    await isConnected(page);

    await page.getByRole('button', { name: 'Вийти' }).click();
    // No token went there, so the issuer asks.
    await page.getByRole('button', { name: 'Yes, sign me out' }).waitFor();
    assert.doesNotMatch(page.url(), /eyJ|id_token_hint/);
    await page.getByRole('button', { name: 'Yes, sign me out' }).click();
    await button(page).waitFor();
    isClean(page);
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    // The issuer has forgotten as well: it wants to know who.
    await button(page).click();
    await page.locator('input[name="login"]').waitFor();
    await close();
  });

  test('by ID token, where access tokens are for nobody', async () => {
    const { page, close } = await inside({ token: 'id', resource: null, scope: 'openid' });
    isClean(page);
    await close();
  });

  test('a token may be pasted beside it', async () => {
    const { page, close } = await outside();
    await page.getByLabel('Токен').fill(world.token);
    await page.getByRole('button', { name: 'Увійти', exact: true }).click();
    await rows(page).first().waitFor();
    await page.getByRole('button', { name: 'Вийти' }).click();
    await button(page).waitFor();
    await close();
  });

  test('by keyboard, on a telephone, in English', async () => {
    const { page, close } = await outside({}, '', { locale: 'uk-UA', viewport: { width: 360, height: 740 }, hasTouch: true });
    await picture(page, 'login-phone');
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth), 'nothing sticks out');
    await page.getByRole('button', { name: 'English' }).click();
    const english = page.getByRole('button', { name: `Sign in with ${HOST}` });
    await english.focus();
    await page.keyboard.press('Enter');
    await page.locator('input[name="login"]').waitFor();
    // By the browser's own way back the form is as it was.
    await page.goBack();
    await english.waitFor();
    assert.ok(await english.isEnabled());
    await close();
  });
});

describe('the session', () => {
  test('is renewed before its end, and the connection lives on', async () => {
    const { page, close } = await outside({ resource: 'https://short.test' });
    const [renewals, sockets, told, bearers] = [[], [], [], new Set()];
    page.on('request', (request) => {
      if (/grant_type=refresh_token/.test(request.postData() ?? '')) renewals.push(request.url());
      if (request.url().includes('/api/v1/')) bearers.add(request.headers().authorization);
    });
    page.on('websocket', (socket) => {
      sockets.push(socket);
      socket.on('framesent', ({ payload }) => /"refresh"/.test(payload) && told.push(payload));
    });
    await signIn(page);
    await isConnected(page);
    await page.evaluate(() => {
      window.states = [];
      new MutationObserver(() => window.states.push(document.querySelector('.link')?.dataset.state)).observe(document.body, { subtree: true, attributes: true, attributeFilter: ['data-state'] });
    });
    const begun = Date.now();
    while (renewals.length < 3 || told.length < 2) {
      assert.ok(Date.now() - begun < 60_000, `${renewals.length} renewals, ${told.length} told`);
      await page.waitForTimeout(100);
    }
    // Past the end of every token but the last ones.
    const item = await world.change();
    await page.locator(`.grid-row[data-id="${item.id}"][data-revision="${item.revision}"]`).waitFor();
    assert.equal(sockets.length, 1, 'one connection all the time');
    assert.deepEqual(await page.evaluate(() => window.states), []);
    assert.ok(bearers.size >= 3, `${bearers.size} tokens over REST`);
    assert.ok(renewals.every((url) => url.startsWith(ISSUER)));
    await close();
  });

  test('says that the issuer is away, and goes on when it is back', async () => {
    const { page, close } = await inside({ resource: 'https://short.test' });
    await page.route(`${ISSUER}/token`, (route) => route.abort());
    const trouble = page.getByRole('status').filter({ hasText: 'не вдається поновити' });
    await trouble.waitFor();
    await page.unroute(`${ISSUER}/token`);
    await trouble.waitFor({ state: 'detached' });
    await isConnected(page);
    await close();
  });

  test('ends honestly where nothing renews it', async () => {
    const { page, close } = await inside({ resource: 'https://short.test', client_id: 'once' });
    await says(page, 'токен більше не діє');
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    await close();
  });
});

describe('what goes wrong is said', () => {
  test('a token for somebody else is not accepted, and the issuer is asked anew', async () => {
    const { page, close } = await outside({ resource: 'https://other.test' });
    await picture(page, 'login');
    await signIn(page);
    await says(page, 'хаб не прийняв його токен');
    isClean(page);
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    await picture(page, 'login-refused');
    // Whoever is signed in there may be somebody else now.
    await button(page).click();
    await page.locator('input[name="login"]').waitFor();
    await close();
  });

  test('who denies is back where they were', async () => {
    const { page, close } = await outside({}, '#/procedure?status=complete');
    await atIssuer(page);
    await page.getByText(/cancel/i).click();
    await says(page, 'Вхід скасовано');
    isClean(page);
    assert.equal(new URL(page.url()).hash, '#/procedure?status=complete');
    await close();
  });

  test('a refusal has the issuer’s word', async () => {
    const { page, close } = await outside();
    await page.route(`${ISSUER}/auth?*`, async (route) => {
      const asked = new URL(route.request().url());
      asked.searchParams.set('prompt', 'none');
      await route.continue({ url: asked.href });
    });
    await button(page).click();
    await says(page, 'login_required');
    await close();
  });

  test('an answer that nobody asked for is none', async () => {
    for (const [odd, part] of [['#code=x&state=y', '#'], ['?code=x&state=y', '?'], ['#error=access_denied&error_description=<b>call+0900</b>', '#']]) {
      const { page, close } = await outside({}, odd);
      await says(page, 'не на запит цієї вкладки');
      isClean(page);
      assert.ok(!page.url().includes(part), page.url());
      assert.ok(!(await page.locator('body').innerText()).includes('0900'));
      await close();
    }
  });

  test('an issuer that is away is said to be, and may be asked again', async () => {
    const { page, close } = await outside();
    await page.route(`${ISSUER}/.well-known/**`, (route) => route.abort());
    await button(page).click();
    await says(page, 'не відповідає');
    await page.unroute(`${ISSUER}/.well-known/**`);
    await button(page).click();
    await page.locator('input[name="login"]').waitFor();
    await close();
  });

  test('a code that is lost on the way is no session', async () => {
    const { page, close } = await outside();
    await page.route(`${ISSUER}/token`, (route) => route.abort());
    await signIn(page);
    await says(page, 'не відповідає');
    isClean(page);
    await close();
  });
});
