// What scripts of unmodified clients share: arguments, patience, the server API, tokens as an application's server signs them, and
// clients of both forms whose sockets a test can cut.
import { createHmac } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Centrifuge } from 'centrifuge';
import { Centrifuge as Protobuf } from 'centrifuge/build/protobuf';
import WebSocket from 'ws';

const text = { type: 'string' };
export const { values: args } = parseArgs({
  options: { url: text, apikey: text, signing: text, key: text, secret: text, token: text, only: text, form: text, codes: text, sandbox: text, timeout: { ...text, default: '15000' } },
});
const ws = `${args.url.replace(/^http/, 'ws')}/connection/websocket`;
const PATIENCE_MS = Number(args.timeout);

/** Waits for a condition, and says which one never came. */
export async function until(what, holds, patience = PATIENCE_MS) {
  for (const end = Date.now() + patience; Date.now() < end; await pause(5)) {
    const value = await holds();
    if (value) return value;
  }
  throw new Error(`never: ${what}`);
}

/** The server API; a refusal is an error of its code. */
export async function api(method, body) {
  const response = await fetch(`${args.url}/api/${method}`, {
    method: 'POST',
    headers: { 'x-api-key': args.apikey, 'content-type': 'application/json' },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });
  const answer = await response.json();
  if (answer.error || !response.ok) throw Object.assign(new Error(`${method}: ${JSON.stringify(answer)}`), { code: answer.error?.code });
  return answer.result;
}

/** A JWT of these claims, good for so many seconds. */
export function sign(claims, seconds = 3600) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const body = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ iat: now, exp: now + seconds, ...claims })}`;
  return `${body}.${createHmac('sha256', args.signing).update(body).digest('base64url')}`;
}

/** A client of a form, and everything that it says of itself. */
export class Client {
  constructor(form, options, endpoint = ws) {
    this.binary = form === 'protobuf';
    this.said = [];
    const it = this;
    class Socket extends WebSocket {
      constructor(...all) {
        super(...all);
        it.socket = this;
      }
    }
    this.client = new (this.binary ? Protobuf : Centrifuge)(endpoint, {
      websocket: Socket, minReconnectDelay: 10, maxReconnectDelay: 100, timeout: PATIENCE_MS, ...options,
    });
    for (const name of ['connecting', 'connected', 'disconnected', 'error']) {
      this.client.on(name, (it) => this.said.push({ name, code: it.code ?? it.error?.code, reason: it.reason, context: it }));
    }
  }

  /** As the network would. */
  cut() {
    this.socket?.terminate();
  }

  async connected() {
    this.client.connect();
    await until('connected', () => this.client.state === 'connected');
    return this;
  }

  subscribe(channel, options = {}) {
    const subscription = this.client.newSubscription(channel, { minResubscribeDelay: 10, maxResubscribeDelay: 100, ...options });
    const heard = { publications: [], joins: [], leaves: [], subscribed: [], unsubscribed: [], subscribing: [], errors: [] };
    subscription.on('publication', (it) => heard.publications.push({ ...it, data: this.read(it.data) }));
    subscription.on('join', ({ info }) => heard.joins.push(info));
    subscription.on('leave', ({ info }) => heard.leaves.push(info));
    subscription.on('subscribed', (it) => heard.subscribed.push(it));
    subscription.on('subscribing', (it) => heard.subscribing.push(it.code));
    subscription.on('unsubscribed', (it) => heard.unsubscribed.push(it.code));
    subscription.on('error', ({ error }) => heard.errors.push(error.code));
    subscription.subscribe();
    return { subscription, heard };
  }

  /** Payloads of the binary form are bytes. */
  read(data) {
    return data instanceof Uint8Array ? (data.length ? JSON.parse(new TextDecoder().decode(data)) : undefined) : data;
  }

  write(data) {
    return this.binary ? new TextEncoder().encode(JSON.stringify(data)) : data;
  }

  close() {
    this.client.disconnect();
  }
}

/** Runs the sections, each on its own, and prints what came of them; what threw is under `error`. */
export async function report(sections) {
  const done = {};
  for (const [name, run] of Object.entries(sections)) {
    if (args.only && args.only !== name) continue;
    done[name] = await run().catch((error) => ({ error: `${error.stack ?? JSON.stringify(error)}` }));
  }
  process.stdout.write(`${JSON.stringify(done)}\n`, () => process.exit(0));
}
