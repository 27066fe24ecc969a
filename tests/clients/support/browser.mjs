// A real Chromium with an empty profile. Every page of a test is watched: a script error or a CSP violation fails it.
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

const ARGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

export const launch = () => chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ARGS });

/** What the browser itself says when a request fails is expected where a test makes requests fail. */
const EXPECTED = /Failed to load resource|WebSocket connection to|net::ERR_/;

export async function openPage(browser, options = {}) {
  const context = await browser.newContext({ locale: 'uk-UA', timezoneId: 'Europe/Kyiv', viewport: { width: 1440, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(Number(process.env.DZVIN_TIMEOUT_MS ?? 15_000));
  const faults = [];
  page.on('pageerror', (error) => faults.push(String(error)));
  page.on('console', (it) => {
    if (it.type() === 'error' && !EXPECTED.test(it.text())) faults.push(it.text());
  });
  return {
    page,
    async close() {
      await context.close();
      assert.deepEqual(faults, [], 'script errors or CSP violations');
    },
  };
}

/** Screenshots are for people: taken only when a folder is named. */
export async function picture(page, name) {
  if (process.env.DZVIN_SHOTS) await page.screenshot({ path: `${process.env.DZVIN_SHOTS}/${name}.png` });
}
