// Unmodified `centrifuge` clients of both forms that ask for `delta: 'fossil'`: payloads of Cyrillic, emoji and marks that combine
// come out as they went in, live, after a cut, and by recovery, on the application's channels and on the hub's own; beside each a client without patches, who has to hear the same.
// Prints one JSON report; the Rust test that starts it judges.
import { Client, api, args, report, sign, until } from './support/kit.mjs';

const PUBLICATIONS = 240;
/** Of entities. */
const CHANGES = 20;
const RUN = Date.now().toString(36);
/** The sockets are cut before these. */
const CUTS = [60, 180];
/** And between these they are away. */
const AWAY = { from: 100, to: 140 };
const STATES = ['чернетка', 'активна', 'завершена 🎉', 'скасована', 'é', 'è', 'e\u0301', '😀', '😁'];
const document = (n) => ({
  n, id: 'ТЕНДЕР-24-11', title: { uk: `Їжак №${n} у ґанку «Дзвін» 👩‍🚀`, en: 'Hedgehog' }, status: STATES[n % STATES.length],
  notes: 'щось довге, що не змінюється: "лапки", \\ і 🇺🇦. '.repeat(12), bids: Array.from({ length: n % 5 }, (_, at) => ({ at, хто: STATES[at] })),
  surrogate: n % 7 ? 'ні' : '\ud800', mark: ['д', 'ж', 'і', 'ї'][n % 4],
});

/** The text as it was sent: the hub must not have it through a parser of numbers or escapes of its own. */
const sent = [];
/** Half of a pair of surrogates is an escape on the wire, as `JSON.stringify` makes it. */
const publish = (channel, n) => {
  const text = JSON.stringify(document(n));
  sent.push(text);
  return api('publish', `{"channel":"${channel}","data":${text}}`);
};

async function of(form) {
  const channel = `chat.delta-${form}-${RUN}`;
  const [patched, whole] = [{ delta: 'fossil' }, {}].map((options, n) => {
    const it = new Client(form, { token: sign({ sub: `delta-${n}` }) });
    return { it, ...it.subscribe(channel, options) };
  });
  const both = [patched, whole];
  await Promise.all(both.map(({ it }) => it.connected()));
  await Promise.all(both.map(({ subscription }) => subscription.ready()));
  sent.length = 0;
  for (let n = 1; n <= PUBLICATIONS; n += 1) {
    if (CUTS.includes(n)) both.forEach(({ it }) => it.cut());
    // Nobody listens to these: they come by recovery alone.
    if (n === AWAY.from) both.forEach(({ it }) => it.close());
    if (n === AWAY.to) both.forEach(({ it }) => it.client.connect());
    await publish(channel, n);
  }
  await until('all of it', () => both.every(({ heard }) => heard.publications.length >= PUBLICATIONS));
  const judge = ({ heard, it, subscription }) => {
    const wrong = heard.publications.filter(({ data, offset }, n) => offset !== n + 1 || JSON.stringify(data) !== sent[n]);
    const again = heard.subscribed.slice(1);
    const { numDeltaPayloads: patches, compressionRatio: saved } = subscription.deltaStats();
    return {
      count: heard.publications.length, wrong: wrong.map(({ offset }) => offset).slice(0, 5),
      recovered: again.filter((it) => it.wasRecovering && it.recovered).length, unrecovered: again.filter((it) => !it.recovered).length,
      // Code 0 is this client's own word.
      faults: [...heard.errors, ...heard.unsubscribed, ...it.said.filter(({ name, code }) => name === 'disconnected' && code).map(({ code }) => code)],
      patches, saved,
    };
  };
  const result = { patched: judge(patched), whole: judge(whole) };
  both.forEach(({ it }) => it.close());
  return result;
}

/** The hub's own channel of a kind: objects change at the source, and both clients end with the same documents. */
async function entities(form) {
  const headers = { authorization: `Bearer ${sign({ sub: 'x', roles: ['viewer'] })}`, 'content-type': 'application/json' };
  const list = async () => (await fetch(`${args.url}/api/v1/entities/procedure?limit=2`, { headers })).json();
  await until('an entity', async () => (await list()).items.length);
  const { items, position } = await list();
  const both = [{ delta: 'fossil' }, {}].map((options) => {
    const it = new Client(form, { token: sign({ sub: 'x', roles: ['viewer'] }) });
    return { it, ...it.subscribe('entities.procedure', { since: position, ...options }) };
  });
  await Promise.all(both.map(({ it }) => it.connected()));
  await Promise.all(both.map(({ subscription }) => subscription.ready()));
  for (let n = 1; n <= CHANGES; n += 1) {
    const changed = { title: document(n).title, notes: document(n).notes, mark: `${RUN}${STATES[n % STATES.length]}${n}` };
    const response = await fetch(`${args.sandbox}/collections/procedure/objects/${items[n % items.length].id}`, { method: 'PATCH', headers, body: JSON.stringify(changed) });
    if (!response.ok) throw new Error(await response.text());
    if (n === CHANGES / 2) both.forEach(({ it }) => it.cut());
    // One by one, lest the source says two changes as one.
    await until(`change ${n}`, () => both.every(({ heard }) => heard.publications.some(({ data }) => data.doc?.mark === changed.mark)));
  }
  const [patched, whole] = both.map(({ heard }) => heard.publications.map(({ data, offset }) => [offset, data]));
  const result = { same: JSON.stringify(patched) === JSON.stringify(whole), enough: whole.length >= CHANGES, patches: both[0].subscription.deltaStats().numDeltaPayloads };
  both.forEach(({ it }) => it.close());
  return result;
}

const [json, protobuf] = ['json', 'protobuf'].map((form) => () => of(form));
report({ json, protobuf, json_entities: () => entities('json'), protobuf_entities: () => entities('protobuf') });
