// The REST side of the hub. One place knows the base path, the bearer token and the time limits.
// Invariants: the token travels only in the Authorization header; every request ends (answer, timeout or abort);
// a 401 for which there is no newer token is reported to `onSignedOut`.
import type { Bearer } from '../login/bearer';
import { Problem, isAbort, problemFrom } from './problem';
import type { Entity, EntityList, Filter, HistoryPage, Kind, Mirror } from './types';

/** A list or a small answer. */
const TIMEOUT_MS = 15_000;
/** One document may have 7.5 MB and come over a telephone. */
const DOCUMENT_TIMEOUT_MS = 120_000;

export const PAGE_SIZE = 50;

export class Api {
  constructor(
    private readonly bearer: Bearer,
    private readonly onSignedOut: () => void,
    private readonly base = '/api/v1',
  ) {}

  kinds(signal?: AbortSignal): Promise<Kind[]> {
    return this.json<{ items: Kind[] }>('/kinds', signal).then((it) => it.items.map((kind) => ({ ...kind, fields: kind.fields ?? [] })));
  }

  mirrors(signal?: AbortSignal, timeout = TIMEOUT_MS): Promise<Mirror[]> {
    return this.json<{ items: Mirror[] }>('/mirrors', signal, timeout).then((it) => it.items);
  }

  async resumeMirror(name: string): Promise<void> {
    await this.send(`/mirrors/${encodeURIComponent(name)}/resume`, { method: 'POST' });
  }

  list(kind: string, filter: Filter, cursor: string | null, signal?: AbortSignal): Promise<EntityList> {
    // The board shows what is in the trash as such.
    const query = new URLSearchParams({ ...filter, limit: String(PAGE_SIZE), trash: 'include' });
    if (cursor) query.set('cursor', cursor);
    else query.set('total', 'true');
    return this.json<EntityList>(`/entities/${encodeURIComponent(kind)}?${query}`, signal);
  }

  /** Raw text: the document is shown as the hub keeps it, numbers never pass through a double. */
  entityText(kind: string, id: string, signal?: AbortSignal): Promise<string> {
    return this.send(entityPath(kind, id), { signal }, DOCUMENT_TIMEOUT_MS);
  }

  entity(kind: string, id: string, signal?: AbortSignal): Promise<Entity> {
    return this.json<Entity>(entityPath(kind, id), signal, DOCUMENT_TIMEOUT_MS);
  }

  history(kind: string, id: string, before: number | string | null, signal?: AbortSignal): Promise<HistoryPage> {
    const query = new URLSearchParams({ limit: '50' });
    if (before !== null) query.set('before', String(before));
    return this.json<HistoryPage>(`${entityPath(kind, id)}/history?${query}`, signal);
  }

  private async json<T>(path: string, signal?: AbortSignal, timeout = TIMEOUT_MS): Promise<T> {
    const text = await this.send(path, { signal }, timeout);
    try {
      return JSON.parse(text) as T;
    } catch {
      throw new Problem('answer', 0, '', '', '');
    }
  }

  private async send(path: string, init: RequestInit, timeout = TIMEOUT_MS): Promise<string> {
    const ask = (bearer: string) => {
      const headers = { Accept: 'application/json', Authorization: `Bearer ${bearer}` };
      return fetchText(this.base + path, { ...init, headers }, timeout);
    };
    const token = this.bearer.token.get();
    try {
      return await ask(token).catch(async (error) => {
        // Perhaps only the token is old.
        const newer = isSignedOut(error) ? await this.bearer.newer(token) : null;
        if (newer === null) throw error;
        return ask(newer);
      });
    } catch (error) {
      if (isSignedOut(error)) this.onSignedOut();
      throw error;
    }
  }
}

const isSignedOut = (error: unknown): boolean => error instanceof Problem && error.signedOut;

/** One request with a time limit and without cookies: the body of a success; else a `Problem`, or the caller's own abort. */
export async function fetchText(url: string, init: RequestInit, timeout = TIMEOUT_MS): Promise<string> {
  const limit = AbortSignal.timeout(timeout);
  const signal = init.signal ? AbortSignal.any([init.signal, limit]) : limit;
  try {
    const response = await fetch(url, { ...init, signal, cache: 'no-store', credentials: 'omit' });
    const body = await response.text();
    if (response.ok) return body;
    throw problemFrom(response.status, response.headers.get('content-type'), body);
  } catch (error) {
    if (error instanceof Problem || isAbort(error)) throw error;
    if (limit.aborted) throw new Problem('timeout', 0, '', '', '');
    throw new Problem('network', 0, '', '', '');
  }
}

const entityPath = (kind: string, id: string) => `/entities/${encodeURIComponent(kind)}/${encodeURIComponent(id)}`;
