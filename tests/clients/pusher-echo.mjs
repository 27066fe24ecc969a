// Unmodified `laravel-echo`, and the hooks of `@laravel/echo-react`, against a hub. Prints one JSON report; the Rust test that
// starts it judges.
import { randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { configureEcho, echo as currentEcho, useConnectionStatus, useEcho, useEchoModel, useEchoNotification, useEchoPresence, useEchoPublic, useSocketId } from '@laravel/echo-react';
import Echo from 'laravel-echo';
import Server from 'pusher';
import Client from 'pusher-js';
import { createElement, useState } from 'react';
import { act, create } from 'react-test-renderer';
import nacl from 'tweetnacl';
import { finish, publishAt, readArguments, untilWithin } from './support/pusher.mjs';

const args = readArguments();
globalThis.IS_REACT_ACT_ENVIRONMENT = true;
const { hostname, port } = new URL(args.url);
const server = new Server({
  appId: 'main', key: args.key, secret: args.secret, host: hostname, port,
  encryptionMasterKeyBase64: randomBytes(32).toString('base64'),
});
const report = {};

const options = (user) => ({
  broadcaster: 'reverb', key: args.key, wsHost: hostname, wsPort: port, wssPort: port, forceTLS: false, enabledTransports: ['ws'], nacl, Pusher: Client,
  authorizer: ({ name }) => ({
    authorize: (socket, done) => done(null, server.authorizeChannel(socket, name, name.startsWith('presence-') ? { user_id: user, user_info: { id: user } } : undefined)),
  }),
});

const until = (what, holds) => untilWithin(args.timeout, what, holds);
const publish = (channel, name, data) => publishAt(args, channel, name, data);

const ready = (channel) => new Promise((resolve, reject) => channel.subscribed(resolve).error(reject));

const sections = {
  async channels() {
    const [one, two] = [new Echo(options('1')), new Echo(options('2'))];
    const heard = { events: [], whispers: [], secrets: [], here: [], joining: [], leaving: [] };
    const channel = one.private('orders.1');
    await ready(channel);
    channel.listen('OrderShipped', (data) => heard.events.push(data)).listenForWhisper('typing', (data) => heard.whispers.push(data));
    const other = two.private('orders.1');
    await ready(other);
    await publish('private-orders.1', 'App\\Events\\OrderShipped', { id: 1 });
    other.whisper('typing', { who: 2 });
    await until('an event and a whisper', () => heard.events.length === 1 && heard.whispers.length === 1);

    const name = 'private-encrypted-safe';
    const safe = one.encryptedPrivate('safe');
    await ready(safe);
    safe.listen('.secret', (data) => heard.secrets.push(data));
    const nonce = nacl.randomBytes(nacl.secretbox.nonceLength);
    const box = nacl.secretbox(new TextEncoder().encode('{"n":1}'), nonce, server.channelSharedSecret(name));
    const base64 = (bytes) => Buffer.from(bytes).toString('base64');
    await publish(name, 'secret', { nonce: base64(nonce), ciphertext: base64(box) });
    await until('a secret', () => heard.secrets.length === 1);

    one.join('office').here((all) => heard.here.push(all)).joining((member) => heard.joining.push(member)).leaving((member) => heard.leaving.push(member));
    await until('here', () => heard.here.length === 1);
    two.join('office');
    await until('joining', () => heard.joining.length === 1);
    two.leave('office');
    await until('leaving', () => heard.leaving.length === 1);
    const socket = one.socketId();
    one.disconnect();
    two.disconnect();
    return { ...heard, socket: /^\d+\.\d+$/.test(socket) };
  },

  /** As the page of an operator would: the hub's own endpoint, a bearer token, and the channel of a kind. */
  async hub() {
    const headers = { Authorization: `Bearer ${args.token}` };
    const { authorizer, ...rest } = options();
    const echo = new Echo({ ...rest, authEndpoint: `${args.url}/pusher/auth`, auth: { headers } });
    await ready(echo.private('entities.procedure'));
    const refused = await ready(echo.private('others')).then(() => null, (error) => error.status);
    echo.disconnect();
    return { refused };
  },

  async hook() {
    configureEcho(options('3'));
    let shown = [];
    function Orders() {
      const [orders, add] = useState([]);
      useEcho('orders.2', 'OrderShipped', ({ id }) => act(() => add((all) => [...all, id])));
      shown = orders;
      return null;
    }
    let root;
    await act(async () => { root = create(createElement(Orders)); });
    // The hook says nothing of being subscribed: what is published before it is, is for nobody.
    let n = 0;
    await until('an order is shown', async () => {
      n += 1;
      await publish('private-orders.2', 'App\\Events\\OrderShipped', { id: n });
      return shown.length > 0;
    });
    const last = n;
    await until('the last order is shown', () => shown.at(-1) === last);
    await act(async () => root.unmount());
    const at = shown.length;
    await publish('private-orders.2', 'App\\Events\\OrderShipped', { id: 0 });
    return { ordered: shown.every((id, i) => i === 0 || id === shown[i - 1] + 1), after: shown.length - at };
  },

  /** Public, presence, of a model, and notifications, in one component that goes again. */
  async hooks() {
    configureEcho(options('4'));
    // Its hooks change their state by themselves, whenever the connection does.
    globalThis.IS_REACT_ACT_ENVIRONMENT = false;
    const shown = { public: [], presence: [], model: [], notices: [] };
    const hooks = {};
    let told;
    function Board() {
      const [, draw] = useState(0);
      const show = (list) => (data) => draw(shown[list].push(data));
      hooks.public = useEchoPublic('board', ['Posted', '.edited'], show('public'));
      hooks.presence = useEchoPresence('desk', '.moved', show('presence'));
      hooks.model = useEchoModel('App.Models.Order', 7, 'OrderUpdated', show('model'));
      hooks.notices = useEchoNotification('App.Models.User.4', show('notices'), 'App.Notifications.InvoicePaid');
      told = { status: useConnectionStatus(), socket: useSocketId() };
      return null;
    }
    // Echo has one channel of a name: who asks for it before the component does hears of its subscription, however soon that is.
    const members = { here: [], joining: [], leaving: [] };
    const desk = currentEcho().join('desk');
    desk.here((all) => members.here.push(all)).joining(({ id }) => members.joining.push(id)).leaving(({ id }) => members.leaving.push(id));
    const others = [currentEcho().channel('board'), ...['App.Models.Order.7', 'App.Models.User.4'].map((name) => currentEcho().private(name))];
    const subscribed = Promise.all(others.map(ready));
    const root = create(createElement(Board));
    await subscribed;
    await until('it is mounted', () => hooks.notices?.channel() && hooks.presence.channel());
    await until('here', () => members.here.length === 1);
    const other = new Echo(options('5'));
    const seen = { here: [], leaving: [] };
    other.join('desk').here((all) => seen.here.push(...all.map(({ id }) => id))).leaving(({ id }) => seen.leaving.push(id));
    await until('joining', () => members.joining.length === 1 && seen.here.length === 2);
    await publish('board', 'App\\Events\\Posted', { id: 1 });
    await publish('board', 'edited', { id: 2 });
    await publish('presence-desk', 'moved', { x: 1 });
    await publish('private-App.Models.Order.7', 'OrderUpdated', { model: { id: 7 } });
    const created = 'Illuminate\\Notifications\\Events\\BroadcastNotificationCreated';
    // Of another type: it comes, and the hook leaves it out.
    await publish('private-App.Models.User.4', created, { id: 'n0', type: 'App\\Notifications\\Other' });
    await publish('private-App.Models.User.4', created, { id: 'n1', type: 'App\\Notifications\\InvoicePaid', amount: 1.5 });
    await until('all of it', () => shown.public.length === 2 && [shown.presence, shown.model, shown.notices].every((list) => list.length === 1));
    await until('the hook of the socket', () => told.status === 'connected' && told.socket === currentEcho().socketId());
    root.unmount();
    await until('its user leaves', () => seen.leaving.length === 1);
    other.disconnect();
    currentEcho().disconnect();
    return { shown, here: members.here[0].map(({ id }) => id), joining: members.joining, seen };
  },

  /** `broadcast(…)->toOthers()`: Echo puts its socket's id into what `axios` asks of the application, whose server names it. */
  async toOthers() {
    const hooked = [];
    // As much of axios as Echo looks for; what it asks goes by `fetch`.
    const axios = () => {};
    axios.interceptors = { request: { use: (change) => hooked.push(change) } };
    globalThis.axios = axios;
    const sockets = [];
    const application = createServer(async (request, response) => {
      const socket_id = request.headers['x-socket-id'];
      sockets.push(socket_id);
      await server.trigger('private-orders.3', 'App\\Events\\OrderShipped', { id: sockets.length }, socket_id ? { socket_id } : {});
      response.end();
    });
    await new Promise((resolve) => application.listen(0, '127.0.0.1', resolve));
    const [sender, other] = [new Echo(options('6')), new Echo({ ...options('7'), withoutInterceptors: true })];
    delete globalThis.axios;
    const heard = { sender: [], other: [] };
    for (const [who, echo] of Object.entries({ sender, other })) {
      const channel = echo.private('orders.3');
      await ready(channel);
      channel.listen('OrderShipped', ({ id }) => heard[who].push(id));
    }
    const post = async (change) => fetch(`http://127.0.0.1:${application.address().port}/`, { method: 'POST', ...change({ headers: {} }) });
    await post(hooked[0]);
    // Without the header everybody hears it, and it comes behind the first.
    await post((request) => request);
    await until('both', () => heard.sender.length && heard.other.length === 2);
    const named = sockets[0] === sender.socketId();
    [sender, other].forEach((echo) => echo.disconnect());
    application.close();
    return { heard, named, hooked: hooked.length };
  },
};

for (const [name, run] of Object.entries(sections)) {
  report[name] = await run().catch((error) => ({ error: `${error.stack ?? JSON.stringify(error)}` }));
}
finish(report);
