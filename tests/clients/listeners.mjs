// Unmodified `centrifuge` clients of both forms on one channel of the application, each at a node of its own, with a ledger of
// everything that each is told, in order. Asked over stdin, answers on stdout, one JSON line each; the Rust test that starts it judges.
//   {"ask":"join","name":...,"url":...}  -> {"event":"joined"}   one more client, when it is subscribed
//   {"ask":"leave","name":...}           -> {"event":"left"}
//   {"ask":"ledgers"}                    -> {"event":"ledgers","all":{name: [entry, ...]}}, of those who have left too
// Entries: {began: {recovered, epoch, offset}} of a subscription, where `recovered` is null for the first; {offset, n} of a
// publication; {ended: code} when the subscription is to begin again; {join: user}; {leave: user}; {error: code}.
import { createInterface } from 'node:readline';
import { Client, args, sign, until } from './support/kit.mjs';

const say = (event, more = {}) => process.stdout.write(`${JSON.stringify({ event, ...more })}\n`);
const clients = new Map();
const ledgers = {};

async function join({ name, url }) {
  const form = clients.size % 2 ? 'protobuf' : 'json';
  const it = new Client(form, { token: sign({ sub: name }) }, `${url.replace(/^http/, 'ws')}/connection/websocket`);
  const ledger = (ledgers[name] = []);
  clients.set(name, it);
  it.client.on('disconnected', ({ code }) => code && say('gone', { code }));
  const subscription = it.client.newSubscription(args.only, { joinLeave: true, minResubscribeDelay: 10, maxResubscribeDelay: 200 });
  subscription.on('subscribed', ({ wasRecovering, recovered, streamPosition: { epoch, offset } }) =>
    ledger.push({ began: { recovered: wasRecovering ? recovered : null, epoch, offset } }));
  subscription.on('publication', ({ offset, data }) => ledger.push({ offset, n: it.read(data).n }));
  subscription.on('subscribing', ({ code }) => code && ledger.push({ ended: code }));
  subscription.on('join', ({ info }) => ledger.push({ join: info.user }));
  subscription.on('leave', ({ info }) => ledger.push({ leave: info.user }));
  subscription.on('error', ({ error }) => ledger.push({ error: error.code }));
  subscription.subscribe();
  it.client.connect();
  await until(`${name} is subscribed`, () => subscription.state === 'subscribed');
  say('joined');
}

say('ready');
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  if (command.ask === 'join') {
    await join(command);
  } else if (command.ask === 'leave') {
    clients.get(command.name).close();
    say('left');
  } else {
    say('ledgers', { all: ledgers });
  }
}
