// Unmodified `laravel-echo`, and the hook of `@laravel/echo-react`, against a hub. Prints one JSON report; the Rust test that
// starts it judges.
import { randomBytes } from 'node:crypto';
import { configureEcho, useEcho } from '@laravel/echo-react';
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
};

for (const [name, run] of Object.entries(sections)) {
  report[name] = await run().catch((error) => ({ error: `${error.stack ?? JSON.stringify(error)}` }));
}
finish(report);
