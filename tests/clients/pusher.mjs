// Unmodified `pusher-js` clients against a hub: channels of every kind, events of clients, members, sign-in, the hub's own
// channels, and what a cut socket costs. An application's server signs with npm `pusher`; the hub signs for its own users.
// Prints one JSON report; the Rust test that starts it judges.
import { randomBytes } from 'node:crypto';
import Server from 'pusher';
import nacl from 'tweetnacl';
import { clientAt, finish, publishAt, readArguments, untilWithin } from './support/pusher.mjs';

const args = readArguments('sandbox', 'admin', 'master');
const { hostname: host, port } = new URL(args.url);
const report = {};
const server = new Server({
  appId: 'main', key: args.key, secret: args.secret, host, port,
  encryptionMasterKeyBase64: args.master ?? randomBytes(32).toString('base64'),
});
const clients = [];

/** A client whose application's server signs for anybody, as this member. */
function connect(member, more = {}) {
  // Of `presence-signed` it is not said as whom: that is for those who have signed in.
  const asWhom = (channel) => (channel.startsWith('presence-') && channel !== 'presence-signed' ? member : undefined);
  const signs = (socket, channel) => server.authorizeChannel(socket, channel, asWhom(channel));
  const client = clientAt(args.url, args.key, {
    nacl,
    channelAuthorization: { customHandler: ({ socketId, channelName }, done) => done(null, signs(socketId, channelName)) },
    userAuthentication: {
      customHandler: ({ socketId }, done) => done(null, server.authenticateUser(socketId, { id: member.user_id, user_info: member.user_info })),
    },
    ...more,
  });
  client.failures = [];
  client.connection.bind('error', (error) => client.failures.push(error?.data ?? error?.error?.data ?? String(error?.type)));
  clients.push(client);
  return client;
}

/** The same, as Echo configures it: the hub's own endpoints, and a bearer token. */
const ofHub = (token = args.token) => {
  const headers = { Authorization: `Bearer ${token}` };
  return {
    channelAuthorization: { transport: 'ajax', endpoint: `${args.url}/pusher/auth`, headers },
    userAuthentication: { transport: 'ajax', endpoint: `${args.url}/pusher/user-auth`, headers },
  };
};

const until = (what, holds) => untilWithin(args.timeout, what, holds);
const publish = (channel, name, data) => publishAt(args, channel, name, data);

const event = (emitter, name) => {
  const seen = [];
  emitter.bind(name, (data, meta) => seen.push(meta?.user_id ? { data, user: meta.user_id } : data));
  return seen;
};
const subscribed = (channel) => until(`subscribed to ${channel.name}`, () => channel.subscribed);
const connected = (client) => until('connected', () => client.connection.state === 'connected');

/** Everything that was said before has been answered. */
async function settled(client) {
  const name = `barrier-${randomBytes(6).toString('hex')}`;
  await subscribed(client.subscribe(name));
  client.unsubscribe(name);
}

const sections = {
  async public() {
    const client = connect({ user_id: 'a' });
    const channel = client.subscribe('room');
    const heard = event(channel, 'hello');
    await subscribed(channel);
    await publish('room', 'hello', { text: 'Їжак\n<b>', n: 1.5 });
    await until('an event', () => heard.length === 1);
    client.unsubscribe('room');
    client.unsubscribe('room');
    await settled(client);
    // Published is what the bus has; that it has gone round is seen by somebody who listens.
    const witness = connect({ user_id: 'w' }).subscribe('room');
    const seen = event(witness, 'hello');
    await subscribed(witness);
    await publish('room', 'hello', 'lost');
    await until('it has gone round', () => seen.length === 1);
    // A subscription that is cancelled and taken up again before it is answered.
    client.subscribe('room');
    client.unsubscribe('room');
    const again = client.subscribe('room');
    const later = event(again, 'hello');
    await subscribed(again);
    await publish('room', 'hello', 'a text');
    await until('an event', () => later.length === 1);
    return { heard, later, socket: /^\d+\.\d+$/.test(client.connection.socket_id), failures: client.failures };
  },

  async private() {
    const [one, two] = [connect({ user_id: 'a' }), connect({ user_id: 'b' })];
    const channels = [one, two].map((client) => client.subscribe('private-room'));
    await Promise.all(channels.map(subscribed));
    const [own, other] = channels.map((channel) => event(channel, 'client-typing'));
    channels[0].trigger('client-typing', { n: 1 });
    await until('a whisper', () => other.length === 1);
    channels[1].trigger('client-typing', 'a text');
    await until('a whisper', () => own.length === 1);
    await settled(one);
    for (let n = 0; n < 60; n += 1) channels[0].trigger('client-typing', { n });
    await until('one too many', () => one.failures.length > 0);
    const wrong = connect({ user_id: 'c' }, { channelAuthorization: { customHandler: (_, done) => done(null, { auth: `${args.key}:00` }) } });
    const refused = event(wrong.subscribe('private-room'), 'pusher:subscription_error');
    await until('a refusal', () => refused.length === 1);
    return { own, other: other.slice(0, 1), failures: one.failures.slice(0, 1), refused, open: wrong.connection.state };
  },

  async presence() {
    const name = 'presence-room';
    const as = (id) => ({ user_id: id, user_info: { name: `користувач ${id}` } });
    const [one, two, tab] = [connect(as('1')), connect(as('2')), connect(as('2'))];
    const first = one.subscribe(name);
    await subscribed(first);
    const [added, removed] = ['pusher:member_added', 'pusher:member_removed'].map((it) => event(first, it));
    const second = two.subscribe(name);
    const self = event(second, 'pusher:member_added');
    await subscribed(second);
    await until('a member', () => added.length === 1);
    await subscribed(tab.subscribe(name));
    await settled(one);
    const whispers = event(first, 'client-hello');
    second.trigger('client-hello', {});
    await until('a whisper', () => whispers.length === 1);
    const members = {};
    second.members.each(({ id, info }) => (members[id] = info));
    const { me, count } = second.members;
    tab.disconnect();
    await until('a tab gone', async () => (await settled(one), true));
    const stayed = removed.length;
    two.disconnect();
    await until('a member gone', () => removed.length === 1);
    return {
      me, members, count: [first.members.count, count], added, self, whispers, stayed, removed,
      failures: [...one.failures, ...two.failures],
    };
  },

  async encrypted() {
    const name = 'private-encrypted-room';
    const channel = connect({ user_id: 'a' }).subscribe(name);
    const heard = event(channel, 'secret');
    await subscribed(channel);
    const nonce = nacl.randomBytes(nacl.secretbox.nonceLength);
    const text = new TextEncoder().encode(JSON.stringify({ text: 'їжак' }));
    const box = nacl.secretbox(text, nonce, server.channelSharedSecret(name));
    const base64 = (bytes) => Buffer.from(bytes).toString('base64');
    await publish(name, 'secret', { nonce: base64(nonce), ciphertext: base64(box) });
    await until('a secret', () => heard.length === 1);
    // The hub's own endpoint hands out the key, and the application's server encrypts by itself.
    const safe = connect({ user_id: 'b' }, ofHub(args.admin)).subscribe('private-encrypted-safe');
    const opened = event(safe, 'secret');
    await subscribed(safe);
    await server.trigger('private-encrypted-safe', 'secret', { text: 'ключ' });
    await until('an opened secret', () => opened.length === 1);
    const refused = [];
    const barred = connect({ user_id: 'c' }, ofHub()).subscribe('private-encrypted-safe');
    barred.bind('pusher:subscription_error', ({ status }) => refused.push(status));
    await until('a refusal', () => refused.length > 0);
    return { heard, opened, refused: refused[0] };
  },

  async cache() {
    const client = connect({ user_id: 'a' });
    const [misses, heard] = [[], []];
    client.bind_global((name, data) => name === 'news' && heard.push(data));
    const first = client.subscribe('cache-news');
    first.bind('pusher:cache_miss', () => misses.push(1));
    await until('a miss', () => misses.length === 1);
    await publish('cache-news', 'news', { n: 1 });
    await publish('cache-news', 'news', { n: 2 });
    await until('news', () => heard.length === 2);
    client.unsubscribe('cache-news');
    await settled(client);
    client.subscribe('cache-news');
    await until('the last news', () => heard.length === 3);
    await settled(client);
    return { misses: misses.length, heard };
  },

  async signin() {
    const client = connect({ user_id: '7', user_info: { name: 'О' } });
    client.signin();
    await client.user.signinDonePromise;
    await until('signed in', () => client.user.user_data);
    await subscribed(client.user.serverToUserChannel);
    // Who has signed in needs to say nothing else on a presence channel.
    const member = client.subscribe('presence-signed');
    await subscribed(member);
    return { user: client.user.user_data, own: client.user.serverToUserChannel.name, me: member.members.me };
  },

  async hub() {
    const kind = 'private-entities.procedure';
    const one = connect({ user_id: 'x' }, ofHub());
    const changes = one.subscribe(kind);
    const heard = event(changes, 'change');
    await subscribed(changes);
    const two = connect({ user_id: 'x' }, ofHub());
    two.signin();
    await until('signed in', () => two.user.user_data);
    const objects = `${args.sandbox}/collections/procedure/objects`;
    const { items: [first] } = await (await fetch(`${args.url}/api/v1/entities/procedure?limit=1`, { headers: { authorization: `Bearer ${args.token}` } })).json();
    const set = (status) => fetch(`${objects}/${first.id}`, { method: 'PATCH', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ status }) });
    const entity = two.subscribe(`private-cache-entity.procedure.${first.id}`);
    const states = event(entity, 'change');
    await until('its state', () => states.length === 1);
    await set('active_auction');
    await until('a change', () => heard.some((it) => it.id === first.id && it.doc.status === 'active_auction'));
    await until('its change', () => states.at(-1).doc.status === 'active_auction');
    // Its socket is cut, it changes, and the client, which can recover nothing, has its state all the same.
    const before = states.length;
    two.connection.connection.transport.socket.close();
    await set('complete');
    await until('its state again', () => states.length > before && states.at(-1).doc.status === 'complete');
    const refusals = {};
    for (const [why, options] of Object.entries({
      'a bare signature': {}, 'a bad token': ofHub(args.token.slice(0, -2)),
    })) {
      const client = connect({ user_id: 'viewer-1' }, options);
      const refused = event(client.subscribe(kind), 'pusher:subscription_error');
      await until(`a refusal of ${why}`, () => refused.length === 1);
      refusals[why] = refused[0].status;
    }
    return { user: two.user.user_data, refusals, revisions: states.every((it, n) => n === 0 || it.revision >= states[n - 1].revision) };
  },

  async reconnect() {
    const client = connect({ user_id: 'a' });
    const channel = client.subscribe('private-again');
    await subscribed(channel);
    const heard = event(channel, 'hello');
    const socket = client.connection.socket_id;
    client.connection.connection.transport.socket.close();
    await until('another socket', () => client.connection.socket_id !== socket && client.connection.state === 'connected');
    await until('subscribed again', () => channel.subscribed);
    await settled(client);
    await publish('private-again', 'hello', 1);
    await until('an event', () => heard.length === 1);
    return heard;
  },

  async refused() {
    const codes = {};
    for (const key of ['nobody', 'switched-off']) {
      const client = connect({ user_id: 'a' });
      client.disconnect();
      const other = clientAt(args.url, key);
      const errors = [];
      other.connection.bind('error', (error) => errors.push(error?.data?.code ?? error?.error?.data?.code));
      await until(`${key} gone for good`, () => other.connection.state === 'disconnected');
      codes[key] = errors[0] ?? null;
    }
    return codes;
  },
};

try {
  for (const [name, run] of Object.entries(sections)) {
    report[name] = await run().catch((error) => ({ error: `${error.stack}` }));
  }
} finally {
  clients.forEach((client) => client.disconnect());
}
finish(report);
