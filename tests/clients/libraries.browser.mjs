// The libraries as pages load them, in a page of another origin in a real Chromium: `centrifuge` in both forms on every transport of
// both directions, with patches and a command after the first; `pusher-js` on a private channel that the hub itself signs for.
// node libraries.browser.mjs --url HUB --apikey KEY --signing SECRET --key APP. Prints one JSON report; the Rust test that starts
// it judges.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { launch, openPage } from './support/browser.mjs';
import { api, args, sign, until } from './support/kit.mjs';

const scripts = {
  json: 'centrifuge/dist/centrifuge.js', protobuf: 'centrifuge/dist/centrifuge.protobuf.js', pusher: 'pusher-js/dist/web/pusher.min.js',
};
const RUN = Date.now().toString(36);
const server = createServer((request, response) => {
  const script = scripts[request.url.slice(1)];
  response.setHeader('content-type', script ? 'text/javascript' : 'text/html');
  response.end(script ? readFileSync(new URL(`node_modules/${script}`, import.meta.url)) : '<!doctype html><meta charset="utf-8">');
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const origin = `http://127.0.0.1:${server.address().port}`;
const browser = await launch();

/** Runs in the page. */
async function centrifuge({ url, token, transport, channel, binary }) {
  const endpoint = `${transport === 'websocket' ? url.replace('http', 'ws') : url}/connection/${transport}`;
  const client = new Centrifuge([{ transport, endpoint }], { emulationEndpoint: `${url}/emulation`, token });
  window.heard = [];
  const read = (data) => (data instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(data)) : data);
  const subscription = client.newSubscription(channel, { delta: 'fossil' });
  subscription.on('publication', ({ data, offset }) => window.heard.push([read(data).text, offset]));
  subscription.subscribe();
  const connected = new Promise((resolve) => client.on('connected', (it) => resolve(it.transport)));
  client.connect();
  await subscription.ready();
  await subscription.publish(binary ? new TextEncoder().encode('{"text":"своє"}') : { text: 'своє' });
  window.finish = async () => {
    const { publications } = await subscription.history({ limit: 10 });
    client.disconnect();
    return { history: publications.length, patches: subscription.deltaStats().numDeltaPayloads };
  };
  return connected;
}

async function over(form, transport) {
  const { page, close } = await openPage(browser);
  await page.goto(`${origin}/`);
  await page.addScriptTag({ url: `${origin}/${form}` });
  const channel = `room.${form}-${transport}-${RUN}`;
  const name = await page.evaluate(centrifuge, { url: args.url, token: sign({ sub: 'p' }), transport, channel, binary: form === 'protobuf' });
  const long = 'довгий текст 👩‍🚀 '.repeat(20);
  for (const n of ['é', 'è', 'ї']) await api('publish', { channel, data: { text: `${long}${n}` } });
  await until('all of it', () => page.evaluate('heard.length === 4'));
  const heard = await page.evaluate('heard');
  const whole = heard.every(([text, offset], n) => offset === n + 1 && text === (n ? long + ['é', 'è', 'ї'][n - 1] : 'своє'));
  const result = { transport: name, whole, ...(await page.evaluate('finish()')) };
  await close();
  return result;
}

async function pusher() {
  const { page, close } = await openPage(browser);
  await page.goto(`${origin}/`);
  await page.addScriptTag({ url: `${origin}/pusher` });
  const { hostname, port } = new URL(args.url);
  const token = sign({ sub: 'p', roles: ['viewer'], permissions: ['channels:subscribe:private-page'] });
  const status = await page.evaluate(({ url, key, hostname, port, token }) => {
    const headers = { Authorization: `Bearer ${token}` };
    const client = new Pusher(key, {
      cluster: '', wsHost: hostname, wsPort: port, forceTLS: false, enabledTransports: ['ws'], disableStats: true,
      channelAuthorization: { transport: 'ajax', endpoint: `${url}/pusher/auth`, headers },
    });
    window.heard = [];
    const channel = client.subscribe('private-page').bind('hello', ({ text }) => window.heard.push(text));
    return new Promise((resolve) => {
      channel.bind('pusher:subscription_succeeded', () => resolve('subscribed'));
      channel.bind('pusher:subscription_error', ({ status, error }) => resolve(`${status} ${error}`));
    });
  }, { url: args.url, key: args.key, hostname, port: Number(port), token });
  if (status === 'subscribed') {
    await api('publish', { channel: 'private-page', data: { text: 'вітаю' }, tags: { event: 'hello' } });
    await until('an event', () => page.evaluate('heard.length === 1'));
  }
  const heard = await page.evaluate('heard');
  await close();
  return { status, heard };
}

const report = {};
for (const [form, transport] of [['json', 'websocket'], ['protobuf', 'websocket'], ['json', 'http_stream'], ['protobuf', 'http_stream'], ['json', 'sse']]) {
  report[`${form} ${transport}`] = await over(form, transport);
}
report.pusher = await pusher();
await browser.close();
server.close();
process.stdout.write(`${JSON.stringify(report)}\n`, () => process.exit(0));
