// Runs the ten lines of docs/PROTOCOL.md as they stand there, against a real hub: node bare.mjs --url HUB --token TOKEN --channel CHANNEL
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import WebSocket from 'ws';

const text = { type: 'string' };
const { url, token, channel } = parseArgs({ options: { url: text, token: text, channel: text } }).values;
const page = readFileSync(new URL('../../docs/PROTOCOL.md', import.meta.url), 'utf8');
const [, code] = page.match(/## Ten lines without a library\n```js\n([^]*?)```/);
const here = code.replace('ws://127.0.0.1:8480', url.replace('http', 'ws'));

const seen = [];
const show = (data) => {
  seen.push(data.n);
  if (seen.length < 5) return;
  console.log(JSON.stringify({ seen }));
  process.exit(0);
};
new Function('WebSocket', 'token', 'channel', 'show', here)(WebSocket, token, channel, show);
