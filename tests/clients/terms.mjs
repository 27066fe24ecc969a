// Everything that an unmodified `centrifuge` client may ask of a subscription or a connection, in both forms: who is there, joins
// and leaves, filters of tags, tokens of subscriptions and of connections that are renewed, subscriptions that the server makes,
// the latest publication alone, a state of the application's own, pages of history, calls. Prints one JSON report; the Rust test that starts it judges.
import { Client, api, args, report, sign, until } from './support/kit.mjs';

/** So that one hub can be asked twice. */
const RUN = Date.now().toString(36);
/** Of tokens that end soon: a client renews at the end, the hub looks away for 25 s more. */
const SHORT_S = 2;

const open = (form, sub, more = {}, seconds = 3600) => new Client(form, { token: sign({ sub, ...more }, seconds) }).connected();
const ended = ({ said }) => said.filter(({ name, code }) => name === 'disconnected' || (name === 'connecting' && code)).map(({ code }) => code);
const code = (promise) => promise.then(() => 0, (error) => error.code);

const sections = {
  async presence(form) {
    const channel = `room.${form}-${RUN}`;
    const [one, tab, two] = [await open(form, 'a', { info: { name: 'Їжак 😀' } }), await open(form, 'a'), await open(form, 'b')];
    const first = one.subscribe(channel, { joinLeave: true });
    await first.subscription.ready();
    const me = (await one.client.presence(channel)).clients;
    const others = () => first.heard.joins.filter(({ client }) => !(client in me));
    const seat = { token: sign({ sub: 'b', channel, info: { seat: 1 } }) };
    const all = [tab.subscribe(channel), two.subscribe(channel, seat)];
    await Promise.all(all.map(({ subscription }) => subscription.ready()));
    // Its own may be among them: it is told while it goes live.
    await until('two joins', () => others().length === 2);
    const { clients } = await two.client.presence(channel);
    const { numClients, numUsers } = await first.subscription.presenceStats();
    const stats = await two.client.presenceStats(channel);
    tab.close();
    all[1].subscription.unsubscribe();
    await until('two leaves', () => first.heard.leaves.length === 2);
    const left = Object.keys((await first.subscription.presence()).clients).length;
    const members = Object.values(clients).map((it) => ({ user: it.user, info: one.read(it.connInfo), seat: one.read(it.chanInfo) }));
    const users = (list) => list.map(({ user }) => user).sort();
    const result = {
      members: members.sort((a, b) => (a.user + !a.info).localeCompare(b.user + !b.info)),
      stats: [numClients, numUsers, stats.numClients, stats.numUsers], keys: Object.entries(clients).every(([id, it]) => id === it.client),
      joins: users(others()), leaves: users(first.heard.leaves), left,
      // Nobody who did not ask is told, and a namespace without presence has none.
      untold: all[0].heard.joins.length + all[1].heard.joins.length, none: await code(one.client.presence('chat.1')), stranger: await code(one.client.presenceStats('chat.1')),
    };
    [one, two].forEach((it) => it.close());
    return result;
  },

  async filter(form) {
    const channel = `chat.tags-${form}-${RUN}`;
    const it = await open(form, 'a');
    const tagsFilter = { op: 'or', nodes: [
      { op: 'and', nodes: [{ key: 'місто', cmp: 'in', vals: ['Київ', 'Львів'] }, { key: 'price', cmp: 'gte', val: '10' }] },
      { op: 'not', nodes: [{ key: 'kind', cmp: 'ex' }] },
    ] };
    const { subscription, heard } = it.subscribe(channel, { tagsFilter });
    await subscription.ready();
    const publish = (data, tags) => api('publish', { channel, data, tags });
    await publish(1, { kind: 'x', місто: 'Київ', price: '10' });
    await publish(2, { kind: 'x', місто: 'Одеса', price: '99' });
    await publish(3, { kind: 'x', місто: 'Львів', price: '9' });
    await publish(4, {});
    await until('what it asked for', () => heard.publications.length === 2);
    // What is filtered out is no gap, and is not brought by recovery either.
    it.client.disconnect();
    await publish(5, { kind: 'x', місто: 'Київ', price: '100' });
    await publish(6, { kind: 'x' });
    it.client.connect();
    await until('what it missed', () => heard.publications.length === 3);
    await publish(7, { місто: 'Київ' });
    await until('the last', () => heard.publications.length === 4);
    const bad = it.subscribe(`chat.bad-${form}`, { tagsFilter: { op: 'xor', nodes: [] } });
    await until('a refusal', () => bad.heard.unsubscribed.length);
    const result = {
      heard: heard.publications.map(({ data, offset }) => [data, offset]), recovered: heard.subscribed.at(-1).recovered,
      ended: ended(it).filter(Boolean), bad: bad.heard.unsubscribed, gaps: heard.subscribing.filter((why) => why >= 2500),
    };
    it.close();
    return result;
  },

  /** A channel that no permission opens, but a token of its own; it ends every two seconds. */
  async subscription(form) {
    const channel = `closed.${form}-${RUN}`;
    const it = await open(form, 'a');
    let asked = 0;
    const getToken = async (ctx) => {
      asked += 1;
      if (ctx.channel !== channel) throw new Error('another channel');
      return sign({ sub: 'a', channel, info: { seat: asked } }, SHORT_S);
    };
    const { subscription, heard } = it.subscribe(channel, { getToken });
    await subscription.ready();
    await until('two renewals', () => asked >= 3);
    await api('publish', { channel, data: 'after' });
    await until('a publication', () => heard.publications.length === 1);
    const outcomes = {};
    for (const [why, options] of Object.entries({
      none: {}, 'of another channel': { token: sign({ sub: 'a', channel: 'closed.2' }) }, 'of another user': { token: sign({ sub: 'b', channel: `closed.x-${RUN}` }) },
      'of a connection': { token: sign({ sub: 'a' }) }, rubbish: { token: 'rubbish' },
    })) {
      const refused = it.subscribe(`closed.x-${RUN}`, options);
      await until(`a refusal with a token: ${why}`, () => refused.heard.unsubscribed.length);
      outcomes[why] = refused.heard.unsubscribed;
      it.client.removeSubscription(refused.subscription);
    }
    // The first token has ended, so the client asks for another.
    let times = 0;
    const late = it.subscribe(`closed.late-${RUN}`, { token: sign({ sub: 'a', channel: `closed.late-${RUN}` }, -60), getToken: async () => ((times += 1), sign({ sub: 'a', channel: `closed.late-${RUN}` })) });
    await late.subscription.ready();
    // Whoever is given no token leaves; a token of another user in a renewal is refused and the subscription ends.
    let given = sign({ sub: 'a', channel: `closed.lose-${RUN}` }, SHORT_S);
    const lose = it.subscribe(`closed.lose-${RUN}`, { token: given, getToken: async () => sign({ sub: 'b', channel: `closed.lose-${RUN}` }) });
    await until('the end of a subscription', () => lose.heard.unsubscribed.length);
    const result = {
      asked, once: heard.subscribed.length, faults: [...heard.errors, ...heard.unsubscribed, ...ended(it)].filter(Boolean), heard: heard.publications.map(({ data }) => data),
      outcomes, late: [late.heard.errors, times], lost: lose.heard.unsubscribed,
    };
    it.close();
    return result;
  },

  /** A connection whose token ends every two seconds. */
  async connection(form) {
    let asked = 0;
    const it = new Client(form, { getToken: async () => ((asked += 1), sign({ sub: 'a' }, SHORT_S)) });
    await it.connected();
    const { subscription, heard } = it.subscribe(`chat.refresh-${form}-${RUN}`);
    await subscription.ready();
    await until('two renewals', () => asked >= 3);
    await api('publish', { channel: subscription.channel, data: 1 });
    await until('a publication', () => heard.publications.length === 1);
    const result = { asked, connects: it.said.filter(({ name }) => name === 'connected').length, once: heard.subscribed.length, faults: ended(it).filter(Boolean) };
    it.close();
    // A token that had ended already: the client asks for another, and comes.
    const late = new Client(form, { token: sign({ sub: 'a' }, -60), getToken: async () => sign({ sub: 'a' }) });
    await late.connected();
    late.close();
    // A token of another user in a renewal: away for good.
    const thief = new Client(form, { token: sign({ sub: 'a' }, SHORT_S), getToken: async () => sign({ sub: 'b' }) });
    await thief.connected();
    await until('the thief is gone', () => thief.client.state === 'disconnected');
    return { ...result, late: late.said.some(({ name }) => name === 'connected'), thief: thief.said.at(-1).code };
  },

  /** What the token names, and what the application's server orders later. */
  async server(form) {
    const [news, own, later] = ['news', 'own', 'later'].map((name) => `closed.${name}-${form}-${RUN}`);
    const claims = { sub: `s-${form}-${RUN}`, channels: [news], subs: { [own]: { data: { hello: 'їжак' }, info: { seat: 1 } } } };
    const it = new Client(form, { token: sign(claims) });
    const [heard, subscribed, unsubscribed] = [[], [], []];
    it.client.on('publication', ({ channel, data, offset }) => heard.push([channel === news ? 'news' : channel === own ? 'own' : 'later', it.read(data), offset]));
    it.client.on('subscribed', ({ channel, data, wasRecovering, recovered }) => subscribed.push([channel, data === undefined || data === null ? null : it.read(data) ?? null, wasRecovering, recovered]));
    it.client.on('unsubscribed', ({ channel }) => unsubscribed.push(channel));
    await it.connected();
    await until('two subscriptions', () => subscribed.length === 2);
    await api('publish', { channel: news, data: 1 });
    await until('news', () => heard.length === 1);
    const socket = it.socket;
    it.cut();
    await api('publish', { channel: news, data: 2 });
    await api('publish', { channel: own, data: 'мій' });
    await until('what it missed', () => heard.length === 3 && it.socket !== socket);
    const recovered = subscribed.slice(2).map(([, , was, did]) => was && did);
    await api('subscribe', { user: claims.sub, channel: later });
    await until('a third', () => subscribed.some(([channel]) => channel === later));
    await api('publish', { channel: later, data: 3 });
    await until('its publication', () => heard.length === 4);
    await api('unsubscribe', { user: claims.sub, channel: later });
    await until('its end', () => unsubscribed.includes(later));
    const result = {
      heard: heard.sort(([a, x], [b, y]) => `${a}${x}`.localeCompare(`${b}${y}`)), data: subscribed.find(([channel]) => channel === own)[1], recovered, unsubscribed: unsubscribed.length,
      ended: ended(it).filter((why) => why >= 3000),
    };
    it.close();
    return result;
  },

  async latest(form) {
    const channel = `last.${form}-${RUN}`;
    for (let n = 1; n <= 3; n += 1) await api('publish', { channel, data: n });
    const it = await open(form, 'a');
    // Who says that it would recover has the latest at once.
    const { subscription, heard } = it.subscribe(channel, { since: { offset: 0, epoch: '' } });
    await subscription.ready();
    await until('the latest', () => heard.publications.length === 1);
    it.client.disconnect();
    for (let n = 4; n <= 9; n += 1) await api('publish', { channel, data: n });
    it.client.connect();
    await until('the latest again', () => heard.publications.length === 2);
    it.client.disconnect();
    it.client.connect();
    await until('here again', () => heard.subscribed.length === 3);
    await api('publish', { channel, data: 10 });
    await until('live', () => heard.publications.length === 3);
    const result = { heard: heard.publications.map(({ data, offset }) => [data, offset]), recovered: heard.subscribed.map((it) => it.recovered) };
    it.close();
    return result;
  },

  /** The application has its own state: its position first, then from there; and anew where the past is lost (error 112). */
  async state(form) {
    const channel = `chat.state-${form}-${RUN}`;
    for (let n = 1; n <= 3; n += 1) await api('publish', { channel, data: n });
    const it = await open(form, 'a');
    const loads = [];
    const getState = async () => {
      const { offset, epoch } = await api('history', { channel, limit: 0 });
      loads.push(offset);
      // Something happens between the load and the subscription.
      await api('publish', { channel, data: offset + 1 });
      return { offset, epoch };
    };
    const { subscription, heard } = it.subscribe(channel, { getState });
    await subscription.ready();
    await until('what came meanwhile', () => heard.publications.length === 1);
    it.client.disconnect();
    await api('publish', { channel, data: 5 });
    it.client.connect();
    await until('what it missed', () => heard.publications.length === 2);
    it.client.disconnect();
    await api('publish', { channel, data: 6 });
    await api('history_remove', { channel });
    it.client.connect();
    await until('it loads anew', () => loads.length === 2);
    await until('what came meanwhile', () => heard.publications.length === 3);
    const result = { loads, heard: heard.publications.map(({ offset }) => offset), errors: heard.errors, ended: heard.unsubscribed };
    it.close();
    return result;
  },

  async history(form) {
    const channel = `chat.history-${form}-${RUN}`;
    const it = await open(form, 'a');
    const { subscription } = it.subscribe(channel);
    await subscription.ready();
    for (let n = 1; n <= 7; n += 1) await api('publish', { channel, data: { n, їжак: '😀' }, tags: { n: `${n}` } });
    const { epoch, offset } = await subscription.history({ limit: 0 });
    const page = async (options) => (await subscription.history(options)).publications.map((it) => it.offset);
    const [whole] = (await it.client.history(channel, { limit: 1, reverse: true })).publications;
    const result = {
      top: offset, all: await page({ limit: -1 }), first: await page({ limit: 3 }), after: await page({ limit: 3, since: { offset: 3, epoch } }),
      back: await page({ limit: 2, reverse: true }), before: await page({ limit: 2, reverse: true, since: { offset: 4, epoch } }),
      other: await code(subscription.history({ limit: 1, since: { offset: 3, epoch: 'other' } })), whole: [it.read(whole.data), whole.tags], closed: await code(it.client.history('closed.1', { limit: 1 })),
    };
    it.close();
    return result;
  },

  async calls(form) {
    const it = await open(form, 'a');
    const result = { unknown: await code(it.client.rpc('no-such-method', it.write({}))), sent: await code(it.client.send(it.write({ hello: 1 }))), after: await code(it.client.history(`chat.unused-${RUN}`, { limit: 0 })) };
    it.close();
    return result;
  },
};

const { form } = args;
report(Object.fromEntries(Object.entries(sections).map(([name, run]) => [name, () => run(form)])));
