// What every scenario of `pusher-js` begins with: its arguments, its clients, its patience, and the report at its end.
import { parseArgs } from 'node:util';
import Client from 'pusher-js';

/** The arguments that all have, and those of this one. */
export function readArguments(...own) {
  const named = ['url', 'token', 'apikey', 'key', 'secret', ...own].map((name) => [name, { type: 'string' }]);
  return parseArgs({ options: { ...Object.fromEntries(named), timeout: { type: 'string', default: '15000' } } }).values;
}

/** An unmodified client of the application with this key at this address: a WebSocket without TLS, and nothing else. */
export function clientAt(url, key, more = {}) {
  const { hostname: wsHost, port: wsPort } = new URL(url);
  return new Client(key, { cluster: '', wsHost, wsPort, forceTLS: false, enabledTransports: ['ws'], disableStats: true, ...more });
}

/** Looks until it holds, and answers what it is then; for so many milliseconds. */
export async function untilWithin(timeout, what, holds) {
  for (const end = Date.now() + Number(timeout); Date.now() < end; ) {
    const value = await holds();
    if (value) return value;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new Error(`never: ${what}`);
}

/** Publishes to a channel as the application's server does over the hub's own API, as an event of this name. */
export async function publishAt({ url, apikey }, channel, name, data) {
  const response = await fetch(`${url}/api/publish`, {
    method: 'POST',
    headers: { 'x-api-key': apikey, 'content-type': 'application/json' },
    body: JSON.stringify({ channel, data, tags: { event: name } }),
  });
  const answer = await response.json();
  if (answer.error || !response.ok) throw new Error(`publish: ${JSON.stringify(answer)}`);
}

/** The report, and with it the end. */
export function finish(report) {
  process.stdout.write(`${JSON.stringify(report)}\n`, () => process.exit(0));
}
