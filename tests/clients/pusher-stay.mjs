// Unmodified `pusher-js` clients on a public channel, a presence channel and the hub's own channel of a kind, each at a node of its own,
// with a ledger of everything that each is told, in order. Asked over stdin, answers on stdout, one JSON line each; the Rust test that
// starts it judges.
//   {"ask":"join","name":...,"url":...}  -> {"event":"joined"}   one more client; its ledger says when it has all three
//   {"ask":"leave","name":...}           -> {"event":"left"}
//   {"ask":"ledgers"}                    -> {"event":"ledgers","all":{name: {told: [entry, ...], members: [id, ...]}}}
// Entries: {connected: socket}; {subscribed: channel, members}; {refused: channel, status}; {heard: channel, n} of an event, where n
// is the offset of a change; {added: user}; {removed: user}. Of those who have left, what they were told until then.
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import Server from 'pusher';
import { clientAt } from './support/pusher.mjs';

const names = ['key', 'secret', 'token', 'news', 'room', 'changes'];
const { values: args } = parseArgs({ options: Object.fromEntries(names.map((name) => [name, { type: 'string' }])) });
const say = (event, more = {}) => process.stdout.write(`${JSON.stringify({ event, ...more })}\n`);
const server = new Server({ appId: 'main', key: args.key, secret: args.secret, host: '127.0.0.1' });
const clients = new Map();
/** After which one who was refused asks again. */
const PAUSE_MS = 250;

/** The application's server signs for its own channels, and the hub for a bearer on the hub's. */
const signing = (url, name) => ({ socketId, channelName }, done) => {
  if (channelName !== args.changes) return done(null, server.authorizeChannel(socketId, channelName, { user_id: name }));
  const body = JSON.stringify({ socket_id: socketId, channel_name: channelName });
  const headers = { authorization: `Bearer ${args.token}`, 'content-type': 'application/json' };
  return fetch(`${url}/pusher/auth`, { method: 'POST', headers, body })
    .then((answer) => answer.json())
    // The library would show what was signed for a connection of before to the one of now.
    .then((signed) => clients.get(name).client.connection.socket_id === socketId && done(null, signed), (error) => done(error, null));
};

function join({ name, url }) {
  const client = clientAt(url, args.key, { channelAuthorization: { customHandler: signing(url, name) } });
  const told = [];
  clients.set(name, { client, told });
  // To the library a channel that the server has refused waits for its answer for ever; a page that asks again has to begin anew.
  const refused = (channel, status) => {
    told.push({ refused: channel, status });
    const again = () => clients.get(name).left || (client.disconnect(), client.connect());
    setTimeout(again, PAUSE_MS);
  };
  client.connection.bind('connected', ({ socket_id: socket }) => told.push({ connected: socket }));
  // Below what a page sees: that shows nobody leaving twice.
  client.connection.bind('message', ({ event, channel, data }) => {
    if (event === 'pusher_internal:subscription_succeeded') told.push({ subscribed: channel, members: data?.presence?.ids });
    else if (event === 'pusher:subscription_error') refused(channel, data.status);
    else if (event === 'pusher_internal:member_added') told.push({ added: data.user_id });
    else if (event === 'pusher_internal:member_removed') told.push({ removed: data.user_id });
    else if (event === 'change') told.push({ heard: channel, n: data.offset });
    else if (event === 'told') told.push({ heard: channel, n: data.n });
  });
  [args.news, args.room, args.changes].forEach((it) => client.subscribe(it));
  say('joined');
}

say('ready');
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  if (command.ask === 'join') {
    join(command);
  } else if (command.ask === 'leave') {
    const { client, told } = clients.get(command.name);
    clients.get(command.name).left = true;
    // What it is told in the moment of leaving is nothing that it shows.
    client.connection.unbind('message');
    client.disconnect();
    told.push({ left: true });
    say('left');
  } else {
    const ledger = ({ client, told }) => ({ told, members: Object.keys(client.channel(args.room).members.members).toSorted() });
    say('ledgers', { all: Object.fromEntries([...clients].map(([name, it]) => [name, ledger(it)])) });
  }
}
