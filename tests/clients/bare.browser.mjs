// The ten lines of docs/PROTOCOL.md as they stand there, in a page of another origin in a real Chromium: node bare.browser.mjs
// --url HUB --token TOKEN --channel CHANNEL. Ends when it has seen five publications and answered two pings.
import { createServer } from 'node:http';
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { launch, openPage } from './support/browser.mjs';

const text = { type: 'string' };
const { url, token, channel } = parseArgs({ options: { url: text, token: text, channel: text } }).values;
const manual = readFileSync(new URL('../../docs/PROTOCOL.md', import.meta.url), 'utf8');
const [, code] = manual.match(/## Ten lines without a library\n```js\n([^]*?)```/);
const here = code.replace('ws://127.0.0.1:8480', url.replace('http', 'ws'));
// What is shown before the page can tell goes into its list.
const html = `<!doctype html><meta charset="utf-8"><script>
const token = ${JSON.stringify(token)}, channel = ${JSON.stringify(channel)}, seen = [], show = (data) => seen.push(data.n);
${here}</script>`;

const server = createServer((_, response) => response.setHeader('content-type', 'text/html').end(html));
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const browser = await launch();
const { page, close } = await openPage(browser);
let [sockets, pongs, closed] = [0, 0, 0];
page.on('websocket', (socket) => {
  sockets += 1;
  socket.on('framesent', ({ payload }) => (pongs += payload === '{}' ? 1 : 0));
  socket.on('close', () => (closed += 1));
});
await page.goto(`http://127.0.0.1:${server.address().port}/`);
await page.waitForFunction('seen.length >= 5');
while (pongs < 2 && !closed) await new Promise((resolve) => setTimeout(resolve, 5));
const seen = (await page.evaluate('seen')).slice(0, 5);
console.log(JSON.stringify({ seen, sockets, pongs: pongs >= 2, closed, agent: await page.evaluate('navigator.userAgent') }));
await close();
await browser.close();
server.close();
