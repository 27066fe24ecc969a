// The unmodified npm `pusher` server library against a running hub: everything that a server of an application does over the
// signed HTTP API, heard by unmodified `pusher-js` clients, and the webhooks that come of it, checked by the library itself.
// Asked over stdin, answers on stdout, one JSON line each; the Rust test that starts it judges.
//   {"ask":"hook"}             -> {"event":"hook","url":...}           where this process receives webhooks
//   {"ask":"run","url":...}    -> {"event":"report",...}               the whole scenario
//   {"ask":"counts","url":...} -> {"event":"counts",...}               only what is asked about channels
//   {"ask":"hooks"}            -> {"event":"hooks","events":[...]}     the webhooks so far
import http from 'node:http';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import Server from 'pusher';
import nacl from 'tweetnacl';
import { clientAt } from './support/pusher.mjs';

const { values: args } = parseArgs({
  options: {
    app: { type: 'string', default: 'main' },
    key: { type: 'string' },
    secret: { type: 'string' },
    refuse: { type: 'string', default: '1' },
    patience: { type: 'string', default: '20000' },
  },
});
const say = (event, more = {}) => process.stdout.write(`${JSON.stringify({ event, ...more })}\n`);
const serverAt = (url) => {
  const { hostname, port } = new URL(url);
  return new Server({
    appId: args.app,
    key: args.key,
    secret: args.secret,
    host: hostname,
    port,
    encryptionMasterKeyBase64: Buffer.alloc(32, 7).toString('base64'),
  });
};

/** Looks until it is true, or patience ends. */
async function until(what, condition, errors) {
  const end = Date.now() + Number(args.patience);
  while (Date.now() < end) {
    const value = await condition();
    if (value) return value;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  errors.push(`never happened: ${what}`);
  return null;
}

// The receiver: refuses the first requests, so that they are sent again.
const hooks = { events: [], invalid: 0, refused: 0 };
let refusals = Number(args.refuse);
const receiver = http.createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    const hook = serverAt('http://127.0.0.1:1').webhook({ headers: request.headers, rawBody: Buffer.concat(chunks).toString() });
    if (!hook.isValid() || Number.isNaN(hook.getTime().getTime())) hooks.invalid += 1;
    else if (refusals-- > 0) hooks.refused += 1;
    else hooks.events.push(...hook.getEvents());
    response.writeHead(refusals >= 0 ? 503 : 200).end();
  });
});

async function counts(url) {
  const server = serverAt(url);
  const get = async (path, params) => (await server.get({ path, params })).json();
  return {
    all: await get('/channels'),
    some: await get('/channels', { filter_by_prefix: 'presence-', info: 'user_count,subscription_count' }),
    one: await get('/channels/presence-room', { info: 'user_count,subscription_count' }),
    empty: await get('/channels/nobody', {}),
    users: await get('/channels/presence-room/users'),
    refused: await get('/channels', { info: 'user_count' }).catch((error) => error.status),
  };
}

function listenerAt(url, server, user) {
  const client = clientAt(url, args.key, {
    nacl,
    channelAuthorization: {
      customHandler: ({ socketId, channelName }, done) => {
        const member = channelName.startsWith('presence-') ? { user_id: user.id, user_info: user.user_info } : undefined;
        done(null, server.authorizeChannel(socketId, channelName, member));
      },
    },
    userAuthentication: { customHandler: ({ socketId }, done) => done(null, server.authenticateUser(socketId, user)) },
  });
  const heard = [];
  const subscribe = (name, events) => {
    const channel = client.subscribe(name);
    for (const event of events) channel.bind(event, (data) => heard.push([name, event, data ?? null]));
    return channel;
  };
  return { client, heard, subscribe };
}

async function run(url) {
  const [server, errors, report] = [serverAt(url), [], {}];
  const a = listenerAt(url, server, { id: 'u1', user_info: { name: 'Оля' } });
  const b = listenerAt(url, server, { id: 'u2', user_info: { name: 'Іван' } });
  for (const it of [a, b]) it.client.connection.bind('error', ({ data, error }) => it.heard.push(['error', data?.code ?? error?.data?.code ?? null]));
  const names = ['orders', 'private-orders', 'presence-room', 'private-encrypted-orders'];
  const channels = [a, b].map((it) => names.map((name) => it.subscribe(name, ['hi', 'text', 'batch'])));
  await until('all are subscribed', () => channels.flat().every((channel) => channel.subscribed), errors);
  const socket = a.client.connection.socket_id;
  const settled = (n) => until(`${n} events`, () => a.heard.length >= n && b.heard.length >= n, errors);

  await server.trigger(['orders', 'private-orders', 'presence-room'], 'hi', { n: 1.5, text: 'ї "x"' });
  await settled(3);
  await server.trigger('orders', 'text', 'plain ї');
  await server.trigger('private-encrypted-orders', 'hi', { secret: 'ї' });
  await settled(5);
  const described = await until(
    'members are counted',
    async () => {
      const it = await (await server.trigger(['orders', 'presence-room'], 'none', {}, { info: 'user_count,subscription_count' })).json();
      const { orders, 'presence-room': room } = it.channels;
      return room.user_count === 2 && room.subscription_count === 2 && orders.subscription_count === 2 ? it : null;
    },
    errors,
  );
  report.described = described;
  const batch = [1, 2, 3].map((n) => ({ channel: 'orders', name: 'batch', data: { n } }));
  report.batch = await (await server.triggerBatch(batch)).json();
  await settled(8);
  // Whose action it was hears nothing of it; b's next event says that a's would have come.
  await server.trigger('orders', 'hi', { not: 'for a' }, { socket_id: socket });
  await server.trigger('orders', 'hi', { last: true });
  await until('b hears', () => b.heard.length >= 10, errors);
  await settled(9);
  report.heard = { a: a.heard.slice(), b: b.heard.slice() };
  // Presence follows subscriptions with a little delay.
  report.counts = await until(
    'all channels are counted',
    async () => {
      const it = await counts(url);
      return Object.keys(it.all.channels).length === names.length ? it : null;
    },
    errors,
  );

  // A cache channel: missed once, then shown.
  const missed = [];
  b.subscribe('private-cache-last', ['hi']).bind('pusher:cache_miss', () => missed.push('miss'));
  await until('a cache miss', () => missed.length > 0, errors);
  await server.trigger('private-cache-last', 'hi', { n: 7 });
  const { cache } = await (await server.get({ path: '/channels/private-cache-last', params: { info: 'cache' } })).json();
  report.cache = { data: cache?.data, ttl: cache?.ttl > 1700 };
  // Clients to each other, which the server hears of.
  b.client.channel('presence-room').trigger('client-typing', { n: 1 });

  // One user, and away with it.
  a.client.signin();
  a.client.user.bind('note', (data) => a.heard.push(['user', 'note', data]));
  await until('a user', () => a.client.user.user_data, errors);
  report.note = await until(
    'the user hears',
    async () => {
      await server.sendToUser('u1', 'note', { x: 1 });
      return a.heard.find(([name]) => name === 'user');
    },
    errors,
  );
  await server.terminateUserConnections('u1');
  await until('a is sent away', () => a.client.connection.state === 'disconnected', errors);
  report.sent_away = { a: a.client.connection.state, b: b.client.connection.state };
  report.last_error = a.heard.filter(([name]) => name === 'error').pop();
  b.client.disconnect();
  const told = (name, more = {}) =>
    hooks.events.some((event) => event.name === name && Object.entries(more).every(([key, value]) => event[key] === value));
  await until('webhooks of the end', () => told('channel_vacated', { channel: 'orders' }) && told('member_removed', { user_id: 'u2' }), errors);
  return { ...report, errors, hooks };
}

receiver.listen(0, '127.0.0.1', () => say('ready'));
createInterface({ input: process.stdin }).on('line', async (line) => {
  const { ask, url } = JSON.parse(line);
  try {
    if (ask === 'hook') say('hook', { url: `http://127.0.0.1:${receiver.address().port}/hooks?token=of-the-receiver` });
    if (ask === 'hooks') say('hooks', hooks);
    if (ask === 'counts') say('counts', await counts(url));
    if (ask === 'run') say('report', await run(url));
  } catch (error) {
    say(ask === 'run' ? 'report' : ask, { errors: [`${error.message} ${error.status ?? ''} ${error.body ?? ''}`] });
  }
});
