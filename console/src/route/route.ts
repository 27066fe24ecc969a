// Deep links: `#/{kind}?{field}={value}` is a board, `#/{kind}/{id}?...` is the same board with one entity open.
// Invariant: parsing never throws, whatever stands in the address bar.
import type { Filter } from '../api/types';

export interface Route {
  kind: string | null;
  id: string | null;
  filter: Filter;
}

const KIND = /^[a-z][a-z0-9-]{0,40}$/;
const decode = (text: string): string => {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
};

export function parseRoute(hash: string): Route {
  const [path = '', query = ''] = hash.replace(/^#\/?/, '').split(/\?(.*)/s);
  const [kind = '', ...rest] = path.split('/');
  const filter: Record<string, string> = {};
  for (const [field, value] of new URLSearchParams(query)) if (field && value && field !== 'token') filter[field] = value;
  return { kind: KIND.test(kind) ? kind : null, id: rest.length && rest.join('/') ? decode(rest.join('/')) : null, filter };
}

export function hrefOf({ kind, id, filter }: Route): string {
  const query = new URLSearchParams(filter).toString();
  return `#/${kind ?? ''}${id ? `/${encodeURIComponent(id)}` : ''}${query ? `?${query}` : ''}`;
}
