// The boxes of docs/FROM-PUSHER.md as they stand there, but for the addresses: the page's client, its Echo, and its server find each
// other, and its webhooks come. node from-pusher.mjs --url HUB --hooks PORT. Prints one JSON report; the Rust test that starts
// it, on a hub with the page's configuration, judges.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { parseArgs } from 'node:util';
import Echo from 'laravel-echo';
import Server from 'pusher';
import Pusher from 'pusher-js';

const text = { type: 'string' };
const { url, hooks, timeout } = parseArgs({ options: { url: text, hooks: text, timeout: { ...text, default: '15000' } } }).values;
const { hostname, port } = new URL(url);
const page = readFileSync(new URL('../../docs/FROM-PUSHER.md', import.meta.url), 'utf8');
const boxes = (language) => [...page.matchAll(new RegExp(` *\`\`\`${language}\\n([^]*?)\`\`\``, 'g'))].map(([, code]) => code);

async function until(what, holds) {
  for (const end = Date.now() + Number(timeout); Date.now() < end; ) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new Error(`never: ${what}`);
}

// The application: it signs for its users, and is told by webhooks.
const told = [];
const application = createServer(async (request, response) => {
  let body = '';
  for await (const chunk of request) body += chunk;
  if (request.url === '/webhooks') {
    const webhook = server.webhook({ headers: request.headers, rawBody: body });
    told.push(...(webhook.isValid() ? webhook.getEvents().map(({ name, channel }) => `${name} ${channel}`) : ['a bad signature']));
    return response.end();
  }
  const { socket_id, channel_name } = Object.fromEntries(new URLSearchParams(body));
  const member = channel_name.startsWith('presence-') ? { user_id: '1', user_info: {} } : undefined;
  response.setHeader('content-type', 'application/json').end(JSON.stringify(server.authorizeChannel(socket_id, channel_name, member)));
});
await new Promise((resolve) => application.listen(Number(hooks), '127.0.0.1', resolve));

const here = (code) => code
  .replaceAll('hub.example', hostname).replaceAll('443', port).replace('forceTLS: true', 'forceTLS: false').replace('useTLS: true', 'useTLS: false')
  .replaceAll('https://app.example', `http://127.0.0.1:${hooks}`);
const [forPusher, forEcho, forServer] = boxes('js').map(here);
const run = (code, name, given) => new Function(...Object.keys(given), `${code}; return ${name};`)(...Object.values(given));

const server = run(forServer, 'server', { Server });
const pusher = run(forPusher, 'pusher', { Pusher });
globalThis.window = {};
const echo = run(forEcho, 'echo', { Echo, Pusher });
delete globalThis.window;

const heard = { public: [], private: [], echo: [], whispers: [] };
pusher.subscribe('news').bind('hello', (data) => heard.public.push(data));
const rooms = pusher.subscribe('private-room');
rooms.bind('hello', (data) => heard.private.push(data)).bind('client-typing', (data) => heard.whispers.push(data));
const joined = [];
echo.join('office').here((all) => joined.push(all.length));
const room = echo.private('room').listen('.hello', (data) => heard.echo.push(data));
await new Promise((resolve, reject) => room.subscribed(resolve).error(reject));
await until('all are subscribed', () => pusher.channel('news').subscribed && rooms.subscribed && joined.length);
await server.trigger(['news', 'private-room'], 'hello', { text: 'вітаю' });
room.whisper('typing', { who: 'echo' });
await until('all is heard', () => Object.values(heard).every((list) => list.length === 1));
await until('webhooks', () => told.includes('channel_occupied private-room'));
// Of what Laravel is told, each value is one that the libraries were told as well.
const env = Object.fromEntries(boxes('sh')[0].split('\n').map((line) => line.trim().split('=')).filter(([name]) => name));
const laravel = [env.REVERB_APP_ID, env.REVERB_APP_KEY, env.REVERB_APP_SECRET.replaceAll('"', ''), env.REVERB_HOST, env.REVERB_PORT];
const agrees = laravel.every((value) => boxes('js')[2].includes(value)) && env.REVERB_SCHEME === 'https';
pusher.disconnect();
echo.disconnect();
process.stdout.write(`${JSON.stringify({ heard, joined, told: told.filter((it) => it.startsWith('a bad')), agrees })}\n`, () => process.exit(0));
