// What unmodified `centrifuge` clients do at every code with which the hub ends a connection or a subscription: those of the server
// API's `disconnect` on each transport, those of the framing and of the protocol by bytes that no client sends, those of tokens by
// time. `back`: it came again by itself, `gone`: it stays away. Needs `--experimental-eventsource`. Prints one JSON report; the Rust
// test that starts it judges by the tables of the protocol.
import { Centrifuge } from 'centrifuge';
import { Client, api, args, report, sign, until } from './support/kit.mjs';
import { frames, startMeddler } from './support/meddler.mjs';

const RUN = Date.now().toString(36);
const codes = (args.codes ?? '3001,3503').split(',').map(Number);
const never = new Promise(() => {});

/** Where a client is when it has heard of its end: the code, and whether it came back or never will. */
async function fate(said, client) {
  const end = await until('an end', () => said.find(({ name, code }) => name === 'disconnected' || (name === 'connecting' && code)));
  if (end.name === 'disconnected') return { code: end.code, reason: end.reason, gone: client.state === 'disconnected' };
  await until('it comes back', () => said.filter(({ name }) => name === 'connected').length > 1);
  return { code: end.code, reason: end.reason, back: true };
}

/** On a transport of one direction. */
function streaming(transport, token) {
  const it = { said: [] };
  it.client = new Centrifuge([{ transport, endpoint: `${args.url}/connection/${transport}` }], {
    emulationEndpoint: `${args.url}/emulation`, token, minReconnectDelay: 10, maxReconnectDelay: 100,
  });
  for (const name of ['connecting', 'connected', 'disconnected']) it.client.on(name, ({ code, reason }) => it.said.push({ name, code, reason }));
  it.client.connect();
  it.close = () => it.client.disconnect();
  return it;
}

/** Every code of the server API on this transport. */
async function ordered(transport) {
  const fates = {};
  await Promise.all([...codes, 4000, 4499, 4500, 4999].map(async (code) => {
    const user = `u-${transport}-${code}-${RUN}`;
    const token = sign({ sub: user });
    const it = ['json', 'protobuf'].includes(transport) ? new Client(transport, { token }) : streaming(transport, token);
    it.client.connect();
    await until(`connected for ${code}`, () => it.client.state === 'connected');
    await api('disconnect', { user, disconnect: { code, reason: 'the application says so' } });
    fates[code] = await fate(it.said, it.client);
    it.close();
  }));
  return fates;
}

const sections = {
  json: () => ordered('json'),
  protobuf: () => ordered('protobuf'),
  http_stream: () => ordered('http_stream'),
  sse: () => ordered('sse'),

  /** Codes and reasons that the API must not take: nothing is sent. */
  async refused() {
    const answers = {};
    for (const [code, reason] of [[3000, ''], [2999, ''], [3002, 'x'], [3510, 'x'], [5000, 'x'], [4000, 'true'], [4000, '{"reconnect":true}'], [4000, 'x'.repeat(124)], [4000, ' 1 ']]) {
      answers[`${code} ${reason.slice(0, 20)}`] = await api('disconnect', { user: `nobody-${RUN}`, disconnect: { code, reason } }).then(() => 0, (error) => error.code);
    }
    return answers;
  },

  /** What no client says. */
  async framing() {
    const fates = {};
    const between = await startMeddler(args.url);
    for (const [what, frame] of Object.entries(frames)) {
      const it = new Client('json', { token: sign({ sub: 'm' }) }, `ws://127.0.0.1:${between.port}/connection/websocket`);
      await it.connected();
      between.say(frame);
      fates[what] = await fate(it.said, it.client);
      it.close();
    }
    between.stop();
    return fates;
  },

  async connecting() {
    const fates = {};
    const tokens = { rubbish: 'rubbish', 'of a subscription': sign({ sub: 'a', channel: 'chat.1' }), 'signed by nobody': `${sign({ sub: 'a' }).slice(0, -4)}AAAA`, none: '' };
    for (const [why, token] of Object.entries(tokens)) {
      const it = new Client('json', { token });
      it.client.connect();
      fates[why] = await fate(it.said, it.client);
    }
    // A revoked one: at once on the living connection, and the same at the next.
    const jti = `j-${RUN}`;
    const token = sign({ sub: 'r', jti });
    const it = await new Client('json', { token }).connected();
    const response = await fetch(`${args.url}/api/v1/revocations`, {
      method: 'POST', headers: { authorization: `Bearer ${sign({ sub: 'admin', roles: ['admin'] })}`, 'content-type': 'application/json' }, body: JSON.stringify({ token: jti }),
    });
    if (!response.ok) throw new Error(await response.text());
    fates.revoked = await fate(it.said, it.client);
    const again = new Client('json', { token });
    again.client.connect();
    fates['revoked before'] = await fate(again.said, again.client);
    return fates;
  },

  /** The ends of one subscription. */
  async unsubscribed() {
    const sub = `e-${RUN}`;
    const it = await new Client('json', { token: sign({ sub }) }).connected();
    const of = async (channel, cause, options) => {
      const { subscription, heard } = it.subscribe(channel, options);
      await subscription.ready();
      await cause();
      await until(`an end of ${channel}`, () => heard.unsubscribed.length || heard.subscribing.filter(Boolean).length);
      if (!heard.unsubscribed.length) await until('subscribed again', () => heard.subscribed.length > 1);
      return { code: heard.unsubscribed[0] ?? heard.subscribing.find(Boolean), back: heard.subscribed.length > 1, state: subscription.state };
    };
    const ordered = await of(`chat.ends-${RUN}`, () => api('unsubscribe', { user: sub, channel: `chat.ends-${RUN}` }));
    // Other rights by a renewal: what the user sees is another thing now.
    const roles = [['viewer'], ['clerk']];
    const other = new Client('json', { getToken: async () => sign({ sub, roles: roles.shift() ?? ['clerk'] }, 2) });
    await other.connected();
    const { heard } = other.subscribe('entities.procedure');
    await until('it begins anew', () => heard.subscribed.length > 1);
    const seen = { codes: heard.subscribing.filter(Boolean), recovered: heard.subscribed[1].recovered, ended: heard.unsubscribed };
    it.close();
    other.close();
    return { ordered, seen };
  },

  /** Tokens that nobody renews, until their grace has passed: each is asked for anew. Takes half a minute, in which nothing happens. */
  async expired() {
    const channel = `closed.${RUN}`;
    let asked = 0;
    const it = await new Client('json', { token: sign({ sub: 'a' }) }).connected();
    const getToken = () => ((asked += 1) === 2 ? never : Promise.resolve(sign({ sub: 'a', channel }, asked > 2 ? 3600 : 1)));
    const subscription = it.subscribe(channel, { getToken });
    let logins = 0;
    const own = new Client('json', { getToken: () => ((logins += 1) === 2 ? never : Promise.resolve(sign({ sub: 'a' }, logins > 2 ? 3600 : 1))) });
    await own.connected();
    const { heard } = subscription;
    const long = (what, holds) => until(what, holds, 60_000);
    await Promise.all([
      long('subscribed again', () => heard.subscribed.length > 1),
      long('connected again', () => own.said.filter(({ name }) => name === 'connected').length > 1),
    ]);
    const result = { subscription: heard.subscribing.filter(Boolean), connection: (await fate(own.said, own.client)).code, recovered: heard.subscribed[1].recovered };
    it.close();
    own.close();
    return result;
  },
};

// The slow one beside the others.
const expired = sections.expired().catch((error) => ({ error: `${error.stack}` }));
report({ ...sections, expired: () => expired });
