// What unmodified `pusher-js` does at every code with which the hub closes a socket: those that the server API can bring about,
// those of framing, those of a handshake that no such client makes, and what ends only a channel. `back` within `ms`, or `gone`.
// Prints one JSON report; the Rust test that starts it judges by the tables of the protocol.
import Server from 'pusher';
import Client from 'pusher-js';
import { api, args, report, until } from './support/kit.mjs';
import { frames, startMeddler } from './support/meddler.mjs';

const { hostname: host, port } = new URL(args.url);
const server = new Server({ appId: 'main', key: args.key, secret: args.secret, host, port });
const codes = (args.codes ?? '3001,3503').split(',').map(Number);

function connect(user, more = {}, key = args.key) {
  const client = new Client(key, {
    cluster: '', wsHost: host, wsPort: port, forceTLS: false, enabledTransports: ['ws'], disableStats: true,
    channelAuthorization: { customHandler: ({ socketId, channelName }, done) => done(null, server.authorizeChannel(socketId, channelName)) },
    userAuthentication: { customHandler: ({ socketId }, done) => done(null, server.authenticateUser(socketId, { id: user })) },
    ...more,
  });
  client.ends = [];
  client.connection.bind('error', (error) => client.ends.push({ code: error?.data?.code ?? error?.error?.data?.code, at: Date.now() }));
  client.states = [];
  client.connection.bind('state_change', ({ current }) => client.states.push({ current, at: Date.now() }));
  return client;
}
const connected = (client) => until('connected', () => client.connection.state === 'connected');

/** What came of a socket that was open, by its id. */
async function fate(client, socket) {
  const last = () => client.ends.at(-1);
  await until('an end', () => client.connection.state === 'disconnected' || (client.connection.socket_id !== socket && client.connection.state === 'connected'));
  const gone = client.connection.state === 'disconnected';
  // 1 is what a state machine makes of a close without a code of the protocol's.
  const result = { code: last()?.code ?? null, ...(gone ? { gone } : { back: true, ms: client.states.at(-1).at - last()?.at }) };
  client.disconnect();
  return result;
}

const sections = {
  async ordered() {
    const fates = {};
    await Promise.all([...codes, 4000, 4499, 4500, 4999].map(async (code) => {
      const client = connect(`u${code}`);
      await connected(client);
      const socket = client.connection.socket_id;
      await api('disconnect', { client: socket, disconnect: { code, reason: 'the application says so' } });
      fates[code] = await fate(client, socket);
    }));
    return fates;
  },

  async framing() {
    const fates = {};
    const between = await startMeddler(args.url);
    for (const [what, frame] of Object.entries(frames)) {
      const client = connect('m', { wsHost: '127.0.0.1', wsPort: between.port });
      await connected(client);
      const socket = client.connection.socket_id;
      between.say(frame);
      // What is text and no event is answered by an error, and the socket stays open.
      if (what.startsWith('rubbish') || what.startsWith('a pong')) {
        await until('an error', () => client.ends.length);
        fates[what] = { code: client.ends[0].code ?? null, open: client.connection.socket_id === socket && client.connection.state === 'connected' };
        client.disconnect();
      } else {
        fates[what] = await fate(client, socket);
      }
    }
    between.stop();
    return fates;
  },

  async handshake() {
    const fates = {};
    const spellings = {
      'a version that is none': (head) => head.replace(/version=[^&]*/, `version=${'1'.repeat(65)}`), 'another protocol': (head) => head.replace('protocol=7', 'protocol=99'),
      'no protocol': (head) => head.replace('protocol=7&', ''), 'no such key': (head) => head.replace(`/app/${args.key}`, '/app/nobody'),
      'switched off': (head) => head.replace(`/app/${args.key}`, '/app/switched-off'),
    };
    for (const [what, spell] of Object.entries(spellings)) {
      const between = await startMeddler(args.url, spell);
      fates[what] = await fate(connect('h', { wsHost: '127.0.0.1', wsPort: between.port }), 'none yet');
      between.stop();
    }
    return fates;
  },

  /** By the server's library: every connection of the user, for good. */
  async terminated() {
    const client = connect('t1');
    client.signin();
    await until('signed in', () => client.user.user_data);
    const socket = client.connection.socket_id;
    await server.terminateUserConnections('t1');
    return fate(client, socket);
  },

  /** There is no word for the end of a channel: an error is told, and the socket stays open. */
  async channel() {
    const client = connect('c');
    const channel = client.subscribe('private-ends');
    const told = [];
    channel.bind('pusher:subscription_error', ({ status }) => told.push(status));
    await until('subscribed', () => channel.subscribed);
    await api('unsubscribe', { client: client.connection.socket_id, channel: 'private-ends' });
    await until('told', () => told.length);
    const result = { told, open: client.connection.state };
    client.disconnect();
    return result;
  },
};

report(sections);
