// Clients that only listen, as a page would write them: a browser's EventSource (`--experimental-eventsource`) and a WebSocket.
// Both tell on stdout what they are told, one JSON line each.
import { parseArgs } from 'node:util';
import WebSocket from 'ws';

const { values: args } = parseArgs({ options: { url: { type: 'string' }, token: { type: 'string' } } });
const say = (from, event) => process.stdout.write(`${JSON.stringify({ from, ...event })}\n`);
const connect = JSON.stringify({ token: args.token, name: 'oneway' });

const events = new EventSource(`${args.url}/connection/uni_sse?cf_connect=${encodeURIComponent(connect)}`);
events.onmessage = ({ data }) => say('sse', { push: JSON.parse(data) });
events.onerror = () => {
  say('sse', { closed: true });
  events.close();
};

const socket = new WebSocket(`${args.url.replace(/^http/, 'ws')}/connection/uni_websocket`);
socket.on('open', () => {
  socket.send(connect);
  // Nobody listens to what comes after.
  socket.send('{"id":1,"publish":{}}');
});
socket.on('message', (data) => say('ws', { push: JSON.parse(data) }));
socket.on('close', (code, reason) => say('ws', { closed: code, reason: reason.toString() }));
