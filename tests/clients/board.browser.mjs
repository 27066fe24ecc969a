// The operators' page in a real browser: what an operator sees, does and must never be lied to about.
// Waits are for conditions, never for time. Against the mock by default; against a real hub and its sandbox with DZVIN_URL,
// DZVIN_TOKEN and DZVIN_SANDBOX (tests/it/page.rs). Scenarios that need one of the two are skipped with the other and say so.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { launch, openPage, picture } from './support/browser.mjs';
import { startWorld } from './support/world.mjs';

let world;
let browser;
const REAL = Boolean(process.env.DZVIN_URL);
const mockOnly = REAL ? { skip: 'needs the mock' } : {};
/** Says nothing about the hub: once is enough. */
const pageOnly = REAL ? { skip: 'needs no real hub' } : {};
const realOnly = REAL ? {} : { skip: 'needs a real hub' };
const HTML_TITLE = '<img src=x onerror="document.body.innerHTML=\'hacked\'"><script>window.hacked=1</script> & "лот"';

const rows = (page) => page.locator('.grid-row');
const status = (page) => page.locator('.link');
const isConnected = (page) => page.locator('.link[data-state="connected"]').waitFor();

async function signedIn(options, hash = '') {
  const it = await openPage(browser, options);
  await it.page.goto(`${world.console}#${hash || `/${world.kind}`}&token=${world.token}`);
  await rows(it.page).first().waitFor();
  await isConnected(it.page);
  await it.page.locator('.count').filter({ hasNotText: /Підписуємося|Subscribing/ }).waitFor();
  return it;
}

/** Repeats an action until a locator shows up: the source may be slow, the page may not. */
async function until(action, locator, every = 500) {
  for (let left = 30; left > 0; left -= 1) {
    await action();
    try {
      return await locator.waitFor({ timeout: every });
    } catch (error) {
      if (left === 1) throw error;
    }
  }
}

/** Some entity's id: not of the newest ones, so that a change moves its row. */
async function someId(n) {
  const { items } = await world.rest(`/entities/${world.kind}?limit=50`);
  return items[n].id;
}

const rowOf = (page, { id, revision }) => page.locator(`.grid-row[data-id="${id}"][data-revision="${revision}"]`);

/** Every entity the hub lists now is on the page with this revision or a newer one. */
async function caughtUp(page, list) {
  const truth = list.items.slice(0, 20).map(({ id, revision }) => [id, revision]);
  await page.waitForFunction((expected) => {
    const shown = new Map([...document.querySelectorAll('.grid-row')].map((it) => [it.dataset.id, Number(it.dataset.revision)]));
    return expected.every(([id, revision]) => (shown.get(id) ?? 0) >= revision);
  }, truth);
}

before(async () => {
  world = await startWorld();
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await world?.stop();
});

describe('signing in', () => {
  test('a refused token is said to be refused, a good one opens the board, neither stays in the address', async () => {
    const { page, close } = await openPage(browser);
    await page.goto(world.console);
    await page.getByLabel('Токен').fill('definitely.not.valid');
    await page.getByRole('button', { name: 'Увійти' }).click();
    await page.getByRole('alert').filter({ hasText: 'не прийняв' }).waitFor();
    await picture(page, 'sign-in');
    await page.getByLabel('Токен').fill(world.token);
    await page.keyboard.press('Enter');
    await rows(page).first().waitFor();
    assert.ok(!page.url().includes(world.token));
    assert.deepEqual(await page.evaluate(() => Object.keys(localStorage)), []);
    await page.getByRole('button', { name: 'Вийти' }).click();
    await page.getByLabel('Токен').waitFor();
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    await close();
  });

  test('a token in the fragment is taken and removed, the deep link stays', async () => {
    const { page, close } = await signedIn();
    assert.equal(new URL(page.url()).hash, `#/${world.kind}`);
    await close();
  });

  test('a 401 leads back to the form with the reason', async () => {
    const { page, close } = await signedIn();
    await page.route('**/api/v1/mirrors', (it) => it.fulfill({ status: 401, contentType: 'application/problem+json', body: '{"status":401}' }));
    await page.getByRole('alert').filter({ hasText: 'токен більше не діє' }).waitFor();
    await close();
  });
});

describe('the live board', () => {
  test('a change appears without a reload, on top, marked, with its changed fields listed', async () => {
    const { page, close } = await signedIn();
    await page.evaluate(() => { window.sameDocument = true; });
    await until(() => world.change(), page.locator('.grid-row[data-live]').first());
    assert.ok(await page.evaluate(() => window.sameDocument));
    const item = await world.patch(await someId(40), { status: 'unheard_of', title: 'Щойно змінена назва' });
    const top = rowOf(page, item);
    await top.waitFor();
    assert.equal(await rows(page).first().getAttribute('data-id'), item.id);
    assert.ok((await top.getAttribute('class')).includes('fresh'));
    assert.match(await top.innerText(), /Щойно змінена назва/);
    assert.equal(await top.locator('.cell.changed').innerText(), 'unheard_of');
    const chips = await top.locator('.chip').allInnerTexts();
    assert.ok(['status', 'title'].every((name) => chips.includes(name)), chips.join());
    await picture(page, 'board-light');
    await close();
  });

  test('markup in a title is letters', async () => {
    const { page, close } = await openPage(browser);
    await page.route(`**/api/v1/entities/${world.kind}?*`, async (it) => {
      const response = await it.fetch();
      const list = await response.json();
      list.items[0] = { ...list.items[0], ref: undefined, doc: { title: { uk_UA: HTML_TITLE } } };
      await it.fulfill({ response, json: list });
    });
    await page.goto(`${world.console}#/${world.kind}&token=${world.token}`);
    await page.locator('.title').filter({ hasText: '<script>window.hacked=1</script>' }).first().waitFor();
    assert.equal(await page.evaluate(() => window.hacked), undefined);
    assert.equal(await page.locator('.grid img, .grid script').count(), 0);
    await close();
  });

  test('a cut connection is shown with its reason and time, and everything missed arrives after it', async () => {
    const { page, close } = await signedIn();
    world.proxy.cut();
    try {
      await page.locator('.link[data-state="reconnecting"]').waitFor();
      assert.match(await status(page).innerText(), /Відновлення зв’язку/);
      await page.locator('.behind').waitFor();
      await page.locator('.mirrors .stale').waitFor();
      await picture(page, 'board-cut');
      for (let n = 0; n < 30; n += 1) await world.change();
    } finally {
      world.proxy.restore();
    }
    await page.getByRole('button', { name: 'Спробувати зараз' }).click({ timeout: 2000 }).catch(() => {});
    await isConnected(page);
    await caughtUp(page, await world.rest(`/entities/${world.kind}?limit=20`));
    await page.locator('.behind').waitFor({ state: 'detached' });
    await page.locator('.mirrors .stale').waitFor({ state: 'detached' });
    await close();
  });

  test('a position that cannot be recovered loads the list again', mockOnly, async () => {
    const { page, close } = await signedIn({}, '/procedure/LLE001-UA-20261120-00050');
    await page.locator('.panel .json-text').waitFor();
    world.proxy.cut();
    await page.locator('.link[data-state="reconnecting"]').waitFor();
    world.mock.procedures.lose();
    const item = world.mock.procedures.patch('LLE001-UA-20261120-00050', { title: 'Після втраченої історії' });
    world.proxy.restore();
    await page.locator(`.grid-row[data-id="${item.id}"]`).filter({ hasText: 'Після втраченої історії' }).waitFor();
    await page.locator('.panel .json-text').filter({ hasText: 'Після втраченої історії' }).waitFor();
    const next = world.mock.procedures.patch(item.id, { status: 'complete' });
    await page.locator(`.grid-row[data-id="${item.id}"][data-revision="${next.revision}"]`).waitFor();
    await close();
  });

  test('pausing holds the rows and counts, resuming applies everything', async () => {
    const { page, close } = await signedIn();
    const before = await rows(page).first().getAttribute('data-id');
    await page.getByRole('button', { name: 'Пауза' }).click();
    let last;
    for (const n of [30, 40, 49]) last = await world.patch(await someId(n), { status: 'paused_change' });
    await page.locator('.paused').filter({ hasText: 'Чекають 3 зміни' }).waitFor();
    assert.equal(await rows(page).first().getAttribute('data-id'), before);
    await page.getByRole('button', { name: 'Продовжити' }).click();
    await rowOf(page, last).waitFor();
    await close();
  });

  test('a refused subscription is said, not hidden', mockOnly, async () => {
    world.mock.world.refused.add('entities.procedure');
    const { page, close } = await openPage(browser);
    await page.goto(`${world.console}#/procedure&token=${world.token}`);
    await page.getByRole('alert').filter({ hasText: 'permission denied' }).waitFor();
    world.mock.world.refused.clear();
    await close();
  });

  test('two hundred changes a second stay smooth, bounded and exact', mockOnly, async () => {
    const { page, close } = await signedIn();
    const { procedures } = world.mock;
    // Processor time of the page's own thread, so that a busy machine does not decide.
    const devtools = await page.context().newCDPSession(page);
    await devtools.send('Performance.enable', { timeDomain: 'threadTicks' });
    const cpu = async () => (await devtools.send('Performance.getMetrics')).metrics.find((it) => it.name === 'TaskDuration').value * 1000;
    const begun = await cpu();
    const ids = [...procedures.all.keys()];
    await new Promise((resolve) => {
      let sent = 0;
      const timer = setInterval(() => {
        for (let n = 0; n < 4; n += 1, sent += 1) procedures.patch(ids[(sent * 7) % ids.length], { status: `s${sent % 9}` });
        if (sent >= 800) resolve(clearInterval(timer));
      }, 20);
    });
    await caughtUp(page, procedures.list(new URLSearchParams('limit=50')));
    const each = ((await cpu()) - begun) / 800;
    console.log(`200 changes a second: ${each.toFixed(2)} ms of processor per change, ${await rows(page).count()} rows`);
    assert.ok(each < 5, 'the thread of the page is never full');
    await close();
  });
});

describe('finding one entity', () => {
  test('load more, filter, open by link, close by Escape', async () => {
    const { page, close } = await signedIn();
    const first = await rows(page).count();
    const more = page.getByRole('button', { name: 'Показати ще' });
    if (await more.count()) {
      await more.click();
      await page.waitForFunction((n) => document.querySelectorAll('.grid-row').length > n, first);
    }
    // Rows hold still while one is picked.
    await page.getByRole('button', { name: 'Пауза' }).click();
    const id = await rows(page).nth(2).getAttribute('data-id');
    await rows(page).nth(2).click();
    await page.locator('.panel .json-text').waitFor();
    assert.ok(page.url().endsWith(`#/${world.kind}/${encodeURIComponent(id)}`));
    await page.getByRole('tab', { name: 'Історія' }).click();
    await page.locator('.history li').first().waitFor();
    await picture(page, 'entity-history');
    await page.keyboard.press('Escape');
    await page.locator('.panel').waitFor({ state: 'detached' });
    await page.goto(`${world.console}#/${world.kind}/${encodeURIComponent(id)}`);
    await page.locator('.panel .id-line').filter({ hasText: id }).waitFor();
    await picture(page, 'entity-light');
    await close();
  });

  test('a filter on a declared field is kept in the link, and rows that stop matching leave', async () => {
    const { page, close } = await signedIn();
    const [one, other] = [await someId(30), await someId(31)];
    await world.patch(one, { status: 'filtered_status' });
    await page.getByLabel('status').fill('filtered_status');
    await page.keyboard.press('Enter');
    const row = page.locator(`.grid-row[data-id="${one}"]`);
    await page.waitForFunction(() => document.querySelectorAll('.grid-row').length === 1);
    assert.ok(page.url().endsWith('?status=filtered_status'));
    await page.locator('.count').filter({ hasNotText: 'Підписуємося' }).waitFor();
    await world.patch(other, { status: 'filtered_status' });
    await page.locator(`.grid-row[data-id="${other}"]`).waitFor();
    await world.patch(one, { status: 'complete' });
    await row.filter({ hasText: 'вийшла з фільтра' }).waitFor();
    await row.waitFor({ state: 'detached' });
    await close();
  });

  test('an open entity follows its changes; numbers keep their digits', async () => {
    const id = await someId(10);
    const { page, close } = await signedIn({}, `/procedure/${encodeURIComponent(id)}`);
    await page.locator('.json-text').filter({ hasText: 'UAH' }).waitFor();
    await world.patch(id, { status: 'opened_and_changed' });
    await page.locator('.json-text .line.changed').filter({ hasText: 'opened_and_changed' }).waitFor();
    await page.route('**/numbers-11', (it) => it.fulfill({ contentType: 'application/json', body: '{"kind":"procedure","id":"numbers-11","revision":1,"offset":1,"op":"create","at":"2026-11-20T09:15:49Z","by":"x","doc":{"amount":904.240,"big":12345678901234567890}}' }));
    await page.goto(`${world.console}#/procedure/numbers-11`);
    await page.locator('.json-text').filter({ hasText: '904.240' }).filter({ hasText: '12345678901234567890' }).waitFor();
    await close();
  });

  test('a document of 7.5 MB shows its beginning at once and the rest on request, without freezing', async () => {
    const big = { title: 'Дуже великий документ', items: Array.from({ length: 30_000 }, (_, n) => ({ id: `item-${n}`, text: 'x'.repeat(200), n })) };
    await world.put('big-one', big);
    const { page, close } = await signedIn({}, '/procedure/big-one');
    await page.locator('.json-tools').filter({ hasText: 'Показано початок' }).waitFor();
    await page.locator('.grid-row[data-id="big-one"] .title').filter({ hasText: 'Дуже великий документ' }).waitFor();
    await page.evaluate(() => {
      let last = performance.now();
      window.longest = 0;
      requestAnimationFrame(function frame(now) {
        window.longest = Math.max(window.longest, now - last);
        last = now;
        requestAnimationFrame(frame);
      });
    });
    await page.getByRole('button', { name: 'Показати все' }).click();
    await page.locator('.json-block').filter({ hasText: 'item-29999' }).waitFor({ state: 'attached', timeout: 60_000 });
    const longest = Math.round(await page.evaluate(() => window.longest));
    console.log(`showing all of 7.5 MB: longest pause between frames ${longest} ms`);
    assert.ok(longest < 1500, 'the page stays alive');
    await picture(page, 'entity-big');
    await page.keyboard.press('Escape');
    await page.locator('.panel').waitFor({ state: 'detached' });
    await close();
  });
});

describe('honest states', () => {
  const fail = { status: 503, contentType: 'application/problem+json', body: '{"type":"about:blank","title":"Unavailable","status":503,"code":"database_down","detail":"PostgreSQL does not answer"}' };

  test('a failed list shows the problem and a retry that works', pageOnly, async () => {
    const { page, close } = await openPage(browser);
    await page.route('**/api/v1/entities/**', (it) => it.fulfill(fail));
    await page.goto(`${world.console}#/${world.kind}&token=${world.token}`);
    await page.getByRole('alert').filter({ hasText: 'database_down' }).filter({ hasText: 'Список не завантажено' }).waitFor();
    await picture(page, 'failed');
    await page.unroute('**/api/v1/entities/**');
    // It may have come back by itself a moment before the click.
    await page.getByRole('button', { name: 'Повторити' }).click({ timeout: 2000 }).catch(() => {});
    await rows(page).first().waitFor();
    await close();
  });

  test('an empty kind says that it is empty', pageOnly, async () => {
    const { page, close } = await openPage(browser);
    await page.route(`**/api/v1/entities/${world.kind}?*`, async (it) => {
      const response = await it.fetch();
      await it.fulfill({ response, json: { ...(await response.json()), items: [], next: null, total: 0 } });
    });
    await page.goto(`${world.console}#/${world.kind}&token=${world.token}`);
    await page.locator('.empty').filter({ hasText: 'Поки що порожньо' }).waitFor();
    await close();
  });

  test('a mirror that the upstream refuses waits for a person, and the button brings it back', realOnly, async () => {
    const { page, close } = await signedIn();
    const mirror = page.locator(`[data-mirror="${world.kind}"]`);
    await mirror.and(page.locator('[data-state="live"]')).waitFor();
    await world.control('POST', 'tokens', { token: 'sandbox-token', permissions: ['api'] });
    try {
      await world.control('POST', `collections/${world.kind}/disconnect`, { manner: 'fin' });
      await mirror.filter({ hasText: 'заборонено' }).waitFor();
      await picture(page, 'forbidden');
    } finally {
      await world.control('POST', 'tokens', { token: 'sandbox-token', permissions: ['*'] });
    }
    await page.getByRole('button', { name: `Відновити дзеркало ${world.kind}` }).click();
    await mirror.and(page.locator('[data-state="live"]')).waitFor();
    await world.change();
    await page.locator('.grid-row[data-live]').first().waitFor();
    await close();
  });

  test('mirrors: the state in words, a stale marker when polling fails, a refused resume explained', mockOnly, async () => {
    const { page, close } = await signedIn();
    await page.locator('[data-mirror="procedure"]').filter({ hasText: 'наживо' }).waitFor();
    await page.getByRole('button', { name: 'Відновити дзеркало registry' }).click();
    await page.locator('[data-mirror="registry"]').filter({ hasText: 'бракує дозволу' }).waitFor();
    await page.route('**/api/v1/mirrors', (it) => it.fulfill(fail));
    await page.locator('.mirrors .stale').filter({ hasText: 'Застаріло' }).waitFor();
    await page.unroute('**/api/v1/mirrors');
    await page.locator('.mirrors .stale').waitFor({ state: 'detached' });
    await close();
  });
});

describe('for everybody', () => {
  test('a telephone of 360 px: cards, nothing wider than the screen, the entity covers the board', async () => {
    const { page, close } = await signedIn({ viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true });
    const overflow = () => page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok((await overflow()) <= 0, `wider by ${await overflow()} px`);
    await picture(page, 'phone-board');
    await rows(page).first().tap();
    await page.locator('.panel .json-text').waitFor();
    assert.ok((await overflow()) <= 0, `wider by ${await overflow()} px`);
    await picture(page, 'phone-entity');
    await page.getByRole('button', { name: 'Закрити' }).tap();
    await page.locator('.panel').waitFor({ state: 'detached' });
    await close();
  });

  test('keyboard only: reach the grid, move, open, close, and be where one was', pageOnly, async () => {
    const { page, close } = await signedIn();
    await page.keyboard.press('Tab');
    assert.match(await page.evaluate(() => document.activeElement.className), /skip/);
    await page.keyboard.press('Enter');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'grid');
    for (const key of ['ArrowDown', 'ArrowDown', 'ArrowDown', 'ArrowUp']) await page.keyboard.press(key);
    const active = await page.locator('.grid-row.active').getAttribute('data-id');
    assert.ok(active);
    await picture(page, 'keyboard');
    await page.keyboard.press('Enter');
    await page.locator('.panel .id-line').filter({ hasText: active }).waitFor();
    await page.waitForFunction(() => document.activeElement?.id === 'panel-title');
    await page.keyboard.press('Escape');
    await page.waitForFunction(() => document.activeElement?.id === 'grid');
    assert.equal(await page.locator('.grid-row.active').getAttribute('data-id'), active);
    await page.evaluate(() => document.activeElement.blur());
    const stops = new Set();
    for (let n = 0; n < 30; n += 1) {
      await page.keyboard.press('Tab');
      stops.add(await page.evaluate(() => document.activeElement?.id || document.activeElement?.name || document.activeElement?.textContent));
    }
    for (const stop of ['grid', 'Пауза', 'Вийти', 'Укр', 'Eng']) assert.ok(stops.has(stop), `Tab reaches ${stop}: ${[...stops].join(' | ')}`);
    await close();
  });

  test('both languages, remembered; the first follows the browser', pageOnly, async () => {
    const { page, close } = await signedIn({ locale: 'en-GB' });
    await page.getByRole('button', { name: 'Pause' }).waitFor();
    assert.equal(await page.evaluate(() => document.documentElement.lang), 'en');
    await page.getByRole('button', { name: 'Українська' }).click();
    await page.getByRole('button', { name: 'Пауза' }).waitFor();
    await page.reload();
    await page.getByRole('button', { name: 'Пауза' }).waitFor();
    assert.equal(await page.evaluate(() => document.documentElement.lang), 'uk');
    await close();
  });

  test('dark, and without motion', pageOnly, async () => {
    const { page, close } = await signedIn({ colorScheme: 'dark', reducedMotion: 'reduce' });
    await until(() => world.change(), page.locator('.grid-row[data-live]').first());
    assert.equal(await page.evaluate(() => getComputedStyle(document.querySelector('.grid-row[data-live]'), '::before').animationName), 'none');
    await rows(page).first().click();
    await page.locator('.panel .json-text').waitFor();
    await picture(page, 'entity-dark');
    await close();
  });
});
