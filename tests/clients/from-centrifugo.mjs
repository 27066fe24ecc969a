// The boxes of docs/FROM-CENTRIFUGO.md as they stand there, but for the addresses: the page's client is subscribed, and hears what the
// page's curl publishes, once. node from-centrifugo.mjs --url HUB --signing SECRET. Prints one JSON report; the Rust test that
// starts it, on a hub with the page's configuration, judges.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';
import { args, sign, until } from './support/kit.mjs';

const page = readFileSync(new URL('../../docs/FROM-CENTRIFUGO.md', import.meta.url), 'utf8');
const here = (code) => code.replace('wss://hub.example', args.url.replace(/^http/, 'ws')).replace('https://hub.example', args.url);
const [forClient, forServer] = ['js', 'sh'].map((language) => here(page.match(new RegExp(`\`\`\`${language}\\n([^]*?)\`\`\``))[1]));

const getToken = async () => sign({ sub: 'olha' });
// A browser has one by itself.
globalThis.WebSocket = WebSocket;
const [centrifuge, subscription] = new Function('Centrifuge', 'getToken', `${forClient}; return [centrifuge, subscription];`)(Centrifuge, getToken);
const heard = [];
subscription.on('publication', ({ data, offset }) => heard.push([data, offset]));
subscription.subscribe();
centrifuge.connect();
await subscription.ready();
const published = () => JSON.parse(execFileSync('sh', ['-c', forServer], { encoding: 'utf8' }));
const answers = [published(), published()];
// What clients may do by the page.
await subscription.publish({ text: 'і вам' });
await until('both', () => heard.length === 2);
const { clients } = await subscription.presence();
const history = await subscription.history({ limit: 10 });
centrifuge.disconnect();
const report = {
  heard, published: answers.map(({ result }) => result?.offset), users: Object.values(clients).map(({ user }) => user), history: history.publications.length,
  delta: subscription.deltaStats().numPublications,
};
process.stdout.write(`${JSON.stringify(report)}\n`, () => process.exit(0));
