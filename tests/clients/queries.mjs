// Unmodified `centrifuge` clients of both forms, one for each query: each asks over REST, takes the pages of rows, subscribes
// from the first page's position, and from then on goes by what the channel brings: `enter` and `change` put, `leave` removes,
// and only what is newer than what it has. A test drives them over stdin and reads their report from stdout.
//
// The checker: offsets grow; only what concerns the query comes, with a document where there is one; at the end every client
// has exactly the rows that REST shows. `--swallow leave` makes the first client's socket swallow every `leave`: the report
// must then be bad, which is how the checker itself is tested.
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { Centrifuge } from 'centrifuge';
import { Centrifuge as Protobuf } from 'centrifuge/build/protobuf';
import WebSocket from 'ws';

const { values: args } = parseArgs({
  options: {
    url: { type: 'string' },
    token: { type: 'string' },
    kind: { type: 'string' },
    // A JSON list.
    filters: { type: 'string' },
    swallow: { type: 'string', default: '' },
  },
});
const say = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Asks until answered: while a hub is being killed, the door behind which it stands refuses. */
async function rest(method, path, body) {
  for (;;) {
    try {
      const response = await fetch(`${args.url}/api/v1/queries${path}`, {
        method,
        headers: { authorization: `Bearer ${args.token}`, 'content-type': 'application/json' },
        body: body && JSON.stringify(body),
        signal: AbortSignal.timeout(10_000),
      });
      if (response.ok) return await response.json();
      if (response.status < 500) throw new Refused(`${method} ${path}: ${response.status} ${await response.text()}`);
    } catch (error) {
      if (error instanceof Refused) throw error;
    }
    await pause(50);
  }
}
class Refused extends Error {}

class Follower {
  constructor(filter, n) {
    this.filter = filter;
    this.rows = new Map();
    // Of everything that was ever here the newest revision, so that what has left does not come back with old news.
    this.revisions = new Map();
    this.waiting = null;
    this.last = 0;
    this.ledger = { enter: 0, change: 0, leave: 0, doubled: 0, wrong: 0, unplaced: 0, recovered: 0, unrecovered: 0, reloads: 0 };
    this.binary = n % 2 === 1;
    this.socket = args.swallow && n === 0 ? swallowing(args.swallow) : WebSocket;
  }

  async start() {
    const first = await rest('POST', '', { kind: args.kind, filter: this.filter, limit: 3 });
    this.id = first.id;
    await this.load(first);
    this.last = first.position.offset;
    const url = `${args.url.replace(/^http/, 'ws')}/connection/websocket`;
    this.client = new (this.binary ? Protobuf : Centrifuge)(url, {
      websocket: this.socket, token: args.token, minReconnectDelay: 20, maxReconnectDelay: 300, timeout: 10_000,
    });
    this.client.on('disconnected', ({ code }) => code && say({ event: 'gone', code }));
    this.subscription = this.client.newSubscription(first.channel, { since: first.position, minResubscribeDelay: 20, maxResubscribeDelay: 300 });
    this.subscription.on('subscribed', ({ wasRecovering, recovered }) => {
      if (wasRecovering && recovered) this.ledger.recovered += 1;
      else this.reload();
    });
    this.subscription.on('unsubscribed', ({ code }) => say({ event: 'gone', unsubscribed: code }));
    this.subscription.on('publication', (publication) => (this.waiting ? this.waiting.push(publication) : this.take(publication)));
    this.subscription.subscribe();
    this.client.connect();
    await this.subscription.ready(10_000);
  }

  async load(page) {
    for (;;) {
      for (const item of page.items) this.put(item);
      if (!page.next) return;
      page = await rest('GET', `/${this.id}?limit=5&cursor=${encodeURIComponent(page.next)}`);
    }
  }

  put({ id, revision, doc }) {
    this.revisions.set(id, revision);
    this.rows.set(id, { revision, doc });
  }

  async reload() {
    this.ledger.unrecovered += 1;
    if (this.waiting) return;
    this.waiting = [];
    const page = await rest('GET', `/${this.id}?limit=200`);
    this.rows.clear();
    this.last = 0;
    await this.load(page);
    this.ledger.reloads += 1;
    const missed = this.waiting;
    this.waiting = null;
    missed.forEach((publication) => this.take(publication));
  }

  take({ data, offset }) {
    const told = data instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(data)) : data;
    // Of a conflated kind what goes out before others that stand for changes before it has none.
    if (!offset) this.ledger.unplaced += 1;
    else if (offset <= this.last) this.ledger.doubled += 1;
    this.last = Math.max(this.last, offset ?? 0);
    const form = told.query === 'leave' ? !('doc' in told) && !('ref' in told) : 'doc' in told || told.ref;
    if (!(told.query in this.ledger) || !form || (offset && told.offset !== offset)) this.ledger.wrong += 1;
    this.ledger[told.query] += 1;
    if (told.revision <= (this.revisions.get(told.id) ?? 0)) return;
    this.revisions.set(told.id, told.revision);
    if (told.query === 'leave') this.rows.delete(told.id);
    else this.put(told);
  }

  /** Rows that are not what REST shows now. */
  async differences() {
    const truth = new Map();
    let page = await rest('GET', `/${this.id}?limit=200`);
    for (;;) {
      for (const item of page.items) truth.set(item.id, item);
      if (!page.next) break;
      page = await rest('GET', `/${this.id}?limit=200&cursor=${encodeURIComponent(page.next)}`);
    }
    this.truth = truth.size;
    const ids = new Set([...truth.keys(), ...this.rows.keys()]);
    return [...ids].filter((id) => {
      const [theirs, mine] = [truth.get(id), this.rows.get(id)];
      const same = mine && theirs && mine.revision === theirs.revision;
      // A reference names the revision alone.
      return !same || (mine.doc !== undefined && theirs.doc !== undefined && JSON.stringify(mine.doc) !== JSON.stringify(theirs.doc));
    }).length;
  }
}

/** A socket that hands on no publication with this word. */
function swallowing(word) {
  return class extends WebSocket {
    set onmessage(handler) {
      super.onmessage = (event) => {
        const kept = event.data.split('\n').filter((line) => !(line.includes('"pub":') && line.includes(`"query":"${word}"`)));
        if (kept.length) handler({ data: kept.join('\n') });
      };
    }
  };
}

const followers = JSON.parse(args.filters).map((filter, n) => new Follower(filter, n));
await Promise.all(followers.map((one) => one.start()));
say({ event: 'ready' });

for await (const line of createInterface({ input: process.stdin })) {
  const { ask, patience_ms: patience } = JSON.parse(line);
  const deadline = Date.now() + patience;
  const settled = async (one) => {
    for (;;) {
      const differences = one.waiting ? 1 : await one.differences();
      if (!differences || Date.now() > deadline) return differences;
      await pause(20);
    }
  };
  const report = { event: 'report', differences: 0, each: [] };
  for (const one of followers) {
    report.differences += await settled(one);
    report.each.push({ filter: one.filter, rows: one.rows.size, ...one.ledger });
    for (const [key, value] of Object.entries(one.ledger)) report[key] = (report[key] ?? 0) + value;
  }
  say(report);
  if (ask === 'finish') process.exit(0);
}
