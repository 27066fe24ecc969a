// An unmodified `centrifuge` client that follows single entities by the channels that REST names, and gets new tokens by
// `getToken`. A test drives it over stdin and reads its answers from stdout, one JSON line each; ids are those of entities.
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';

const { values: args } = parseArgs({
  options: {
    url: { type: 'string' },
    // The first is for `connect`, the others are what `getToken` gives, the last for ever.
    tokens: { type: 'string' },
    kind: { type: 'string', default: 'procedure' },
    ids: { type: 'string' },
  },
});
const [token, ...later] = args.tokens.split(',');
const say = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);
const get = async (path) => {
  const response = await fetch(`${args.url}/api/v1/entities/${args.kind}${path}`, { headers: { authorization: `Bearer ${later.at(-1)}` } });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
};

let asked = 0;
const closes = {};
const client = new Centrifuge(`${args.url.replace(/^http/, 'ws')}/connection/websocket`, {
  websocket: WebSocket,
  token,
  getToken: async () => later[Math.min(asked++, later.length - 1)],
  minReconnectDelay: 20,
  maxReconnectDelay: 500,
});
client.on('connecting', ({ code }) => (closes[code] = (closes[code] ?? 0) + 1));
client.on('disconnected', ({ code }) => say({ event: 'gone', code }));

const entities = new Map();
const { position } = await get('?limit=1');
for (const id of args.ids.split(',')) {
  const { channel, revision } = await get(`/${encodeURIComponent(id)}`);
  const it = { channel, last: revision, lost: 0, doubled: 0, recovered: 0, unrecovered: 0, others: 0 };
  const subscription = client.newSubscription(channel, { since: { epoch: position.epoch, offset: revision }, minResubscribeDelay: 20 });
  subscription.on('subscribed', ({ recovered }) => (it[recovered ? 'recovered' : 'unrecovered'] += 1));
  subscription.on('publication', ({ offset, data }) => {
    if (data.id !== id || data.revision !== offset) it.others += 1;
    if (offset <= it.last) it.doubled += 1;
    else it.lost += offset - it.last - 1;
    it.last = Math.max(it.last, offset);
  });
  entities.set(id, { it, subscription });
  subscription.subscribe();
}
client.connect();
await Promise.all([...entities.values()].map(({ subscription }) => subscription.ready()));
say({ event: 'ready' });

for await (const line of createInterface({ input: process.stdin })) {
  const { ask, id, ...options } = JSON.parse(line);
  if (ask === 'state') {
    say({ event: 'state', asked, closes, entities: Object.fromEntries([...entities].map(([id, { it }]) => [id, it])) });
  } else if (ask === 'history') {
    const { publications, offset } = await entities.get(id).subscription.history(options);
    say({ event: 'history', offset, offsets: publications.map((it) => it.offset), ids: [...new Set(publications.map(({ data }) => data.id))] });
  } else if (ask === 'unsubscribe') {
    entities.get(id).subscription.unsubscribe();
    // The answer to what is sent behind it tells that the hub has taken it.
    await client.history(entities.get(id).it.channel, { limit: 0 });
    say({ event: 'unsubscribed' });
  }
}
