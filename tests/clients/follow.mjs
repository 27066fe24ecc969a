// Followers: unmodified `centrifuge` clients that load a kind over REST, subscribe from the list's position and keep a
// ledger of what they are told. A test drives them over stdin and reads their report from stdout, one JSON line each.
//
// The checker: offsets grow by one; a publication at or below the last is doubled, one further on means that something
// was lost; at the end every follower's documents equal what REST shows. After `recovered: false` a follower loads the
// list again, as any page would. `--drop N` makes the first follower's socket swallow its Nth publication, with `--op` its
// Nth of that operation: the report must then be bad, which is how the checker itself is tested.
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';

const { values: args } = parseArgs({
  options: {
    url: { type: 'string' },
    token: { type: 'string' },
    kind: { type: 'string', default: 'procedure' },
    clients: { type: 'string', default: '10' },
    drop: { type: 'string', default: '0' },
    op: { type: 'string', default: '' },
  },
});
const http = args.url.replace(/\/$/, '');
const ws = `${http.replace(/^http/, 'ws')}/connection/websocket`;
const say = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);

/** Asks until answered: while a hub is being killed, the door behind which it stands refuses. */
async function get(path, stop = () => false) {
  for (;;) {
    try {
      const response = await fetch(http + path, {
        headers: { authorization: `Bearer ${args.token}` },
        signal: AbortSignal.timeout(10_000),
      });
      if (response.status === 404) return null;
      if (response.ok) return await response.json();
    } catch (error) {
      if (stop()) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Every row of the kind, with the position of the first page. */
async function load() {
  const docs = new Map();
  let position = null;
  let cursor = null;
  do {
    const page = await get(`/api/v1/entities/${args.kind}?trash=include&limit=200${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`);
    position ??= page.position;
    for (const item of page.items) docs.set(item.id, { revision: item.revision, doc: item.ref ? undefined : item.doc });
    cursor = page.next;
  } while (cursor);
  return { docs, position };
}

class Follower {
  constructor(start, socket) {
    this.docs = new Map(start.docs);
    this.last = start.position.offset;
    this.attached = false;
    this.ledger = { attached: 0, received: 0, lost: 0, doubled: 0, recovered: 0, unrecovered: 0, reloads: 0, disconnects: {}, unsubscribed: {} };
    this.ready = new Promise((resolve) => (this.subscribed = resolve));
    this.loading = Promise.resolve();
    this.client = new Centrifuge(ws, {
      websocket: socket,
      token: args.token,
      minReconnectDelay: 20,
      maxReconnectDelay: 500,
      timeout: 10_000,
    });
    const count = (where, code) => (where[code] = (where[code] ?? 0) + 1);
    this.client.on('connecting', ({ code }) => count(this.ledger.disconnects, code));
    // Code 0 is our own goodbye at the end.
    this.client.on('disconnected', ({ code }) => code && say({ event: 'gone', code }));
    this.subscription = this.client.newSubscription(`entities.${args.kind}`, { since: start.position, minResubscribeDelay: 20, maxResubscribeDelay: 500 });
    this.subscription.on('subscribed', (context) => this.onSubscribed(context));
    this.subscription.on('subscribing', ({ code }) => count(this.ledger.unsubscribed, code));
    // One that was ended for good would stand still without a word.
    this.subscription.on('unsubscribed', ({ code, reason }) => code && say({ event: 'gone', code, reason }));
    this.subscription.on('publication', (publication) => this.onPublication(publication));
    this.subscription.subscribe();
    this.client.connect();
  }

  onSubscribed({ wasRecovering, recovered, streamPosition }) {
    if (wasRecovering && recovered) {
      // From the list's position for the first time: no reconnection, and counted as none.
      this.ledger[this.attached ? 'recovered' : 'attached'] += 1;
    } else {
      this.ledger.unrecovered += 1;
      this.last = streamPosition.offset;
      this.reload();
    }
    this.attached = true;
    this.subscribed();
  }

  reload() {
    this.ledger.reloads += 1;
    this.loading = this.loading.then(load).then(({ docs }) => {
      for (const [id, row] of docs) this.take(id, row);
    });
  }

  onPublication({ offset, data }) {
    this.ledger.received += 1;
    if (offset <= this.last) this.ledger.doubled += 1;
    else this.ledger.lost += offset - this.last - 1;
    this.last = Math.max(this.last, offset);
    this.take(data.id, { revision: data.revision, doc: data.ref ? undefined : data.doc });
  }

  take(id, row) {
    const known = this.docs.get(id);
    if (!known || row.revision > known.revision) this.docs.set(id, row);
  }

  async differences(truth) {
    await this.loading;
    // An id that only one side has is wrong whichever side that is: each counts, so that none makes up for another.
    let wrong = [...this.docs.keys()].filter((id) => !truth.has(id)).length;
    for (const [id, row] of truth) {
      const mine = this.docs.get(id);
      // A reference names the revision; its document is what REST shows, which is what the truth was read from.
      const same = mine?.revision === row.revision && (mine.doc === undefined || JSON.stringify(mine.doc) === JSON.stringify(row.doc));
      if (!same) wrong += 1;
    }
    return wrong;
  }
}

/** A socket that swallows the Nth publication (of an operation) that it would have handed on. */
function swallowing(nth, op) {
  let seen = 0;
  const counts = (line) => line.includes('"pub":') && (!op || line.includes(`"op":"${op}"`));
  return class extends WebSocket {
    set onmessage(handler) {
      super.onmessage = (event) => {
        const kept = event.data.split('\n').filter((line) => !(counts(line) && (seen += 1) === nth));
        if (kept.length) handler({ data: kept.join('\n') });
      };
    }
  };
}

const start = await load();
const followers = Array.from(
  { length: Number(args.clients) },
  (_, index) => new Follower(start, index === 0 && Number(args.drop) ? swallowing(Number(args.drop), args.op) : WebSocket),
);
await Promise.all(followers.map(({ ready }) => ready));
say({ event: 'ready', clients: followers.length, offset: start.position.offset });

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  if (command.ask === 'progress') {
    say({ event: 'progress', last: followers.map(({ last }) => last) });
  } else if (command.ask === 'finish') {
    const deadline = Date.now() + command.patience_ms;
    let truth;
    const behind = () => followers.filter(({ last }) => last < truth.position.offset);
    // What is committed after the truth was read is no difference: then it is read again.
    do {
      truth = await load();
      while (behind().length && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 20));
    } while (followers.some(({ last }) => last > truth.position.offset) && Date.now() < deadline);
    const report = { event: 'report', clients: followers.length, behind: behind().length, differences: 0 };
    for (const follower of followers) {
      report.differences += await follower.differences(truth.docs);
      for (const [key, value] of Object.entries(follower.ledger)) {
        if (typeof value === 'number') report[key] = (report[key] ?? 0) + value;
        else for (const [code, n] of Object.entries(value)) ((report[key] ??= {})[code] = (report[key][code] ?? 0) + n);
      }
      follower.client.disconnect();
    }
    say({ ...report, entities: truth.docs.size, offset: truth.position.offset });
    process.exit(0);
  }
}
