// Unmodified `centrifuge` clients of both forms on channels of the application: what is published over the server API reaches
// each in order, also those whose sockets are cut meanwhile; what a client publishes reaches the others with its name.
// Prints one JSON report; the Rust test that starts it judges.
import { parseArgs } from 'node:util';
import { Centrifuge } from 'centrifuge';
import { Centrifuge as Protobuf } from 'centrifuge/build/protobuf';
import WebSocket from 'ws';

const { values: args } = parseArgs({
  options: {
    url: { type: 'string' },
    token: { type: 'string' },
    key: { type: 'string' },
    clients: { type: 'string', default: '10' },
    publications: { type: 'string', default: '500' },
    cuts: { type: 'string', default: '20' },
  },
});
const [clients, publications, cuts] = [args.clients, args.publications, args.cuts].map(Number);
const ws = `${args.url.replace(/^http/, 'ws')}/connection/websocket`;
const report = { received: 0, lost: 0, doubled: 0, recovered: 0, unrecovered: 0, wrong: 0, errors: [] };

async function api(method, body) {
  const response = await fetch(`${args.url}/api/${method}`, {
    method: 'POST',
    headers: { 'x-api-key': args.key, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  const answer = await response.json();
  if (answer.error || !response.ok) report.errors.push(answer);
  // A batch has no result around its replies.
  return answer.result ?? answer;
}

/** Remembers its socket, so that a test can cut it. */
class Socket extends WebSocket {
  constructor(...all) {
    super(...all);
    Socket.latest = this;
  }
}

const text = (data) => (data instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(data)) : data);
const bytes = (binary, data) => (binary ? new TextEncoder().encode(JSON.stringify(data)) : data);

class Listener {
  constructor(n) {
    this.last = 0;
    this.binary = n % 2 === 1;
    const own = class extends Socket {
      constructor(...all) {
        super(...all);
        own.latest = this;
      }
    };
    this.cut = () => own.latest?.terminate();
    this.client = new (this.binary ? Protobuf : Centrifuge)(ws, {
      websocket: own,
      token: args.token,
      minReconnectDelay: 10,
      maxReconnectDelay: 100,
    });
    this.subscription = this.client.newSubscription('chat.1');
    this.subscription.on('publication', ({ data, offset, tags }) => {
      report.received += 1;
      if (offset <= this.last) report.doubled += 1;
      else report.lost += offset - this.last - 1;
      if (text(data).n !== offset || tags?.parity !== String(offset % 2)) report.wrong += 1;
      this.last = offset;
    });
    this.subscription.on('subscribed', ({ wasRecovering, recovered }) => {
      if (wasRecovering) report[recovered ? 'recovered' : 'unrecovered'] += 1;
    });
    this.subscription.on('error', ({ error }) => report.errors.push(error));
    this.client.on('disconnected', ({ code }) => code && report.errors.push({ disconnected: code }));
    this.subscription.subscribe();
    this.client.connect();
  }

  async reaches(offset) {
    while (this.last < offset) await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const all = Array.from({ length: clients }, (_, n) => new Listener(n));
await Promise.all(all.map((one) => one.subscription.ready(10_000)));

// One after the other: the order of offsets is that of the answers.
for (let n = 1; n <= publications; n += 1) {
  const answer = await api('publish', { channel: 'chat.1', data: { n, text: 'Їжак\n<b>' }, tags: { parity: String(n % 2) } });
  if (answer?.offset !== n) report.wrong += 1;
  if (cuts && n % Math.ceil(publications / cuts) === 0) all[n % all.length].cut();
}
await Promise.all(all.map((one) => one.reaches(publications)));

// What clients say to each other.
const heard = [];
const rooms = all.slice(0, 2).map((one) => one.client.newSubscription('room.1'));
for (const room of rooms) {
  room.on('publication', ({ data, info }) => heard.push({ data: text(data), user: info?.user }));
  room.subscribe();
  await room.ready(10_000);
}
await rooms[0].publish(bytes(all[0].binary, { hello: 1 }));
await rooms[1].publish(bytes(all[1].binary, { hello: 2 }));
while (heard.length < 4) await new Promise((resolve) => setTimeout(resolve, 5));
report.heard = heard.sort((a, b) => a.data.hello - b.data.hello);
const history = await rooms[1].history({ limit: 10 });
report.history = history.publications.map(({ offset }) => offset);
report.refused = await all[0].subscription.publish({}).then(() => 0, (error) => error.code);

const batch = await api('batch', {
  commands: [{ publish: { channel: 'news', data: 1 } }, { publish: { channel: 'entities.procedure', data: 1 } }, { nonsense: {} }],
});
report.batch = batch.replies.map((reply) => reply.publish?.offset ?? reply.error.code);
const broadcast = await api('broadcast', { channels: ['news', 'b.1', 'not a name'], data: {} });
report.broadcast = broadcast.responses.map((reply) => reply.result?.offset ?? reply.error.code);
report.api_history = (await api('history', { channel: 'news', limit: 10 })).publications.map(({ data }) => data);

all.forEach((one) => one.client.disconnect());
process.stdout.write(`${JSON.stringify(report)}\n`);
