// Unmodified `centrifuge` clients forced onto one transport of one direction: what is published reaches them in order, also after
// the stream was cut; they publish, ask for history, unsubscribe and refresh their token by requests of their own, which may go
// to another node than the stream. Needs `--experimental-eventsource`. Prints one JSON report; the Rust test that starts it judges.
import { parseArgs } from 'node:util';
import { Centrifuge } from 'centrifuge';
import { Centrifuge as Protobuf } from 'centrifuge/build/protobuf';
import { startProxy } from './support/proxy.mjs';

const { values: args } = parseArgs({
  options: {
    url: { type: 'string' },
    // Where commands go; where servers publish.
    emulation: { type: 'string' },
    transport: { type: 'string' },
    protobuf: { type: 'boolean', default: false },
    token: { type: 'string' },
    // Given by `getToken`, after the first has ended.
    next: { type: 'string' },
    key: { type: 'string' },
    // Tells channels of one run from those of another.
    n: { type: 'string', default: '1' },
    publications: { type: 'string', default: '200' },
  },
});
const [chatName, roomName] = [`chat.${args.n}`, `room.${args.n}`];
const publications = Number(args.publications);
const report = { received: 0, lost: 0, doubled: 0, wrong: 0, recovered: 0, unrecovered: 0, connected: 0, asked: 0, errors: [] };
const pause = () => new Promise((resolve) => setTimeout(resolve, 5));
const until = async (what) => {
  while (!what()) await pause();
};

async function publish(channel, data) {
  const response = await fetch(`${args.url}/api/publish`, {
    method: 'POST',
    headers: { 'x-api-key': args.key },
    body: JSON.stringify({ channel, data }),
  });
  const answer = await response.json();
  if (!answer.result) report.errors.push(answer);
}

const text = (data) => (args.protobuf ? JSON.parse(new TextDecoder().decode(data)) : data);
const bytes = (data) => (args.protobuf ? new TextEncoder().encode(JSON.stringify(data)) : data);

// The stream alone goes through the proxy, so that it can be cut while commands pass.
const proxy = await startProxy(args.url);
const Client = args.protobuf ? Protobuf : Centrifuge;
function client(token) {
  const endpoint = `${proxy.url.replace('http:', new URL(args.url).protocol)}/connection/${args.transport}`;
  const made = new Client([{ transport: args.transport, endpoint }], {
    emulationEndpoint: `${args.emulation ?? args.url}/emulation`,
    token,
    getToken: async () => {
      report.asked += 1;
      return args.next;
    },
    minReconnectDelay: 10,
    maxReconnectDelay: 100,
  });
  made.on('connected', ({ transport }) => {
    report.connected += 1;
    if (transport !== args.transport) report.wrong += 1;
  });
  made.on('disconnected', ({ code }) => code && report.errors.push({ disconnected: code }));
  return made;
}

const one = client(args.token);
let last = 0;
const chat = one.newSubscription(chatName);
chat.on('publication', ({ data, offset }) => {
  report.received += 1;
  if (offset <= last) report.doubled += 1;
  else report.lost += offset - last - 1;
  if (text(data).n !== offset) report.wrong += 1;
  last = offset;
});
chat.on('subscribed', ({ wasRecovering, recovered }) => {
  if (wasRecovering) report[recovered ? 'recovered' : 'unrecovered'] += 1;
});
chat.subscribe();
one.connect();
await chat.ready(10_000);

const half = publications / 2;
for (let n = 1; n <= half; n += 1) await publish(chatName, { n, text: 'Їжак\n<b>\u2028' });
await until(() => last === half);
proxy.cut();
await until(() => one.state !== 'connected');
for (let n = half + 1; n <= publications; n += 1) await publish(chatName, { n, text: 'x'.repeat(2000) });
proxy.restore();
await until(() => last === publications);

// What clients say to each other.
const two = client(args.next);
const heard = [];
const rooms = [one, two].map((it) => it.newSubscription(roomName));
two.connect();
for (const room of rooms) {
  room.on('publication', ({ data, info }) => heard.push({ data: text(data), user: info?.user }));
  room.subscribe();
  await room.ready(10_000);
}
await rooms[0].publish(bytes({ hello: 1 }));
await rooms[1].publish(bytes({ hello: 2 }));
await until(() => heard.length === 4);
report.heard = heard.sort((a, b) => a.data.hello - b.data.hello);
report.history = (await rooms[1].history({ limit: 10 })).publications.map(({ offset }) => offset);
report.refused = await chat.publish(bytes({})).then(() => 0, (error) => error.code);
// Many at once, each in a request of its own.
report.many = (await Promise.all(Array.from({ length: 50 }, () => rooms[0].history({ limit: 0 })))).length;

// The first token ends in the middle of this connection, which goes on.
const connected = report.connected;
await until(() => report.asked > 0);
await rooms[0].history({ limit: 0 });
report.reconnected = report.connected - connected;

// Whoever has unsubscribed hears nothing more. The answer to a command behind it tells that the hub has taken it.
rooms[0].unsubscribe();
await one.history(roomName, { limit: 0 });
await rooms[1].publish(bytes({ hello: 3 }));
await until(() => heard.length === 5);
await one.history(roomName, { limit: 0 });
report.after = heard.length;

one.disconnect();
two.disconnect();
await proxy.stop();
process.stdout.write(`${JSON.stringify(report)}\n`);
process.exit(0);
