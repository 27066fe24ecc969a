// Loads a list over REST, then follows every change of the kind without missing one: node follow.mjs HUB KIND TOKEN
// In a browser the imports come from your bundler, and WebSocket is there already.
import { createRequire } from 'node:module';

const require = createRequire(new URL('../../tests/clients/', import.meta.url));
const { Centrifuge } = require('centrifuge');
const WebSocket = require('ws');

const [hub, kind, token] = process.argv.slice(2);
const headers = { authorization: `Bearer ${token}` };
const rows = new Map();

/** Takes a row of the list or a publication, unless what we have is as new. */
function take({ id, revision, op, doc, ref, changed }) {
  if (revision <= (rows.get(id)?.revision ?? 0)) return;
  rows.set(id, { revision, doc });
  if (changed) console.log(op, id, `revision ${revision}:`, changed.join(', '), ref ? '(fetch it: too large)' : '');
}

/** The whole list, page by page; answers where to subscribe: the first page's position counts. */
async function load() {
  let first;
  let cursor = '';
  do {
    const answer = await fetch(`${hub}/api/v1/entities/${kind}?limit=200${cursor}`, { headers });
    if (!answer.ok) throw new Error((await answer.json()).detail);
    const page = await answer.json();
    first ??= page;
    page.items.forEach(take);
    cursor = page.next && `&cursor=${encodeURIComponent(page.next)}`;
  } while (cursor);
  console.log(`${rows.size} of ${kind}, at offset ${first.position.offset}`);
  return first;
}

const list = await load();
const client = new Centrifuge(`${hub.replace(/^http/, 'ws')}/connection/websocket`, { token, websocket: WebSocket });
const subscription = client.newSubscription(list.channel, { since: list.position });
subscription.on('publication', ({ data }) => take(data));
// After too long an absence the past is gone: load the list again, the subscription is live already.
subscription.on('subscribed', ({ wasRecovering, recovered }) => wasRecovering && !recovered && load());
subscription.on('error', ({ error }) => console.error(error.message));
client.on('error', ({ error }) => console.error(error.message));
subscription.subscribe();
client.connect();
