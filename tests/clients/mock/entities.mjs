// The mock's truth: one kind's entities with revisions, a change log, and offsets without gaps.
import { randomUUID } from 'node:crypto';

const INLINE_LIMIT = 32 * 1024;
const STATUSES = ['active_rectification', 'active_tendering', 'active_auction', 'active_qualification', 'complete'];
const TITLES = [
  ['Оренда нежитлових приміщень площею 52,4 кв. м на першому поверсі', 'Lease of non-residential premises, 52.4 sq. m, ground floor'],
  ['Земельна ділянка сільськогосподарського призначення, 12,7 га', 'Agricultural land plot, 12.7 ha'],
  ['Продаж автомобіля ЗІЛ-131, 1988 року випуску', 'Sale of a ZIL-131 lorry, built in 1988'],
  ['Єдиний майновий комплекс державного підприємства', 'Single property complex of a state enterprise'],
  ['Право вимоги за кредитними договорами', 'Claims under loan agreements'],
];

export class Entities {
  constructor(kind, fields, { log = 1000 } = {}) {
    Object.assign(this, { kind, fields, epoch: randomUUID().slice(0, 8), top: 0, all: new Map(), log: [], retention: log, listeners: new Set() });
  }

  get channel() {
    return `entities.${this.kind}`;
  }

  seed(count) {
    for (let n = 1; n <= count; n += 1) this.put(`LLE001-UA-20261120-${String(n).padStart(5, '0')}`, sample(n), 'create');
  }

  /** Commits one revision. */
  put(id, doc, op) {
    const before = this.all.get(id);
    const item = {
      kind: this.kind, id, revision: (before?.revision ?? 0) + 1, offset: (this.top += 1), op: op ?? (before ? 'update' : 'create'),
      at: new Date().toISOString(), by: `mirror:${this.kind}`, version: doc?.dateModified ?? null, trashed_at: null, missing_since: null,
      channel: `entity.${this.kind}.${id}`, doc,
    };
    const old = before?.doc ?? {};
    const names = new Set([...Object.keys(old), ...Object.keys(doc ?? {})]);
    const changed = [...names].filter((name) => JSON.stringify(old[name]) !== JSON.stringify(doc?.[name])).sort();
    if (op === 'trash') item.trashed_at = item.at;
    const declared = Object.fromEntries(this.fields.filter((f) => changed.includes(f) && before).map((f) => [f, old[f] ?? null]));
    item.history = [{ revision: item.revision, offset: item.offset, op: item.op, at: item.at, by: item.by, changed, before: declared, ref: false }, ...(before?.history ?? [])];
    this.all.set(id, item);
    const { revision, offset, at, by } = item;
    const data = { kind: this.kind, id, revision, offset, op: item.op, at, by, changed };
    if (JSON.stringify(doc ?? null).length > INLINE_LIMIT) data.ref = true;
    else if (item.op !== 'purge') data.doc = doc;
    this.log.push({ offset, data });
    if (this.log.length > this.retention) this.log.shift();
    for (const listener of this.listeners) listener({ offset, data });
    return item;
  }

  patch(id, part) {
    return this.put(id, { ...this.all.get(id).doc, ...part, dateModified: new Date().toISOString() });
  }

  /** The past is lost: a new epoch. */
  lose() {
    this.epoch = randomUUID().slice(0, 8);
    this.log = [];
  }

  since({ epoch, offset }) {
    if (epoch && epoch !== this.epoch) return null;
    if (offset === this.top) return [];
    const first = this.log[0]?.offset ?? Infinity;
    return offset < this.top && first <= offset + 1 ? this.log.filter((it) => it.offset > offset) : null;
  }

  list(query) {
    const limit = Number(query.get('limit') ?? 50);
    const before = Number(query.get('cursor') ?? Infinity);
    const matching = [...this.all.values()]
      .filter((it) => this.fields.every((f) => !query.has(f) || String(it.doc?.[f] ?? '') === query.get(f)))
      .sort((a, b) => b.offset - a.offset);
    const page = matching.filter((it) => it.offset < before);
    const items = page.slice(0, limit).map((it) => {
      const { history: _, doc, ...rest } = it;
      return JSON.stringify(doc ?? null).length > INLINE_LIMIT ? { ...rest, ref: true } : { ...rest, doc };
    });
    return {
      items, next: page.length > limit ? String(items.at(-1).offset) : null, position: { epoch: this.epoch, offset: this.top },
      channel: this.channel, ...(query.get('total') === 'true' ? { total: matching.length } : {}),
    };
  }
}

export function sample(n) {
  const [uk, en] = TITLES[n % TITLES.length];
  return {
    title: n % 7 === 0 ? `${uk}, лот ${n}` : { uk_UA: `${uk}, лот ${n}`, en_US: `${en}, lot ${n}` },
    status: STATUSES[n % STATUSES.length],
    sellingMethod: n % 3 ? 'landRental-english' : 'basicSell-dutch',
    value: { amount: 904.24 + n * 1000, currency: 'UAH', valueAddedTaxIncluded: true },
    dateModified: '2026-11-20T09:15:49.086000Z',
    auctionPeriod: { startDate: '2026-12-01T10:00:00.000000Z' },
    relatedOrganizations: { sellingEntity: { name: { uk_UA: 'Регіональне відділення Фонду державного майна' }, identifier: { scheme: 'UA-EDR', id: '22333618' } } },
    bids: null,
    items: [{ id: `item-${n}`, classification: { scheme: 'CAV', id: '04231000-8' }, quantity: 1, unit: { code: 'H87' } }],
  };
}
