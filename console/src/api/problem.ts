// What can go wrong with a request, as one type: an RFC 9457 problem from the hub, or a failure on the way to it, or to whoever
// renews the token that it needs.
// Invariant: nothing of a request (token, headers) is ever put into a problem, so a problem may be shown and copied.

export type ProblemOrigin = 'network' | 'timeout' | 'answer' | 'http' | 'issuer';

export class Problem extends Error {
  constructor(
    readonly origin: ProblemOrigin,
    readonly status: number,
    readonly code: string,
    readonly title: string,
    readonly detail: string,
  ) {
    super(detail || title || code || origin);
    this.name = 'Problem';
  }

  /** The token is not (or no longer) accepted: the only way on is the sign-in form. */
  get signedOut(): boolean {
    return this.status === 401;
  }
}

/** Reads the hub's answer; anything that is not a problem document (a proxy's HTML page) becomes one by its status. */
export function problemFrom(status: number, contentType: string | null, body: string): Problem {
  if (contentType?.includes('json')) {
    try {
      const it: unknown = JSON.parse(body);
      if (it && typeof it === 'object') {
        const text = (key: string) => {
          const value = (it as Record<string, unknown>)[key];
          return typeof value === 'string' ? value.slice(0, 500) : '';
        };
        return new Problem('http', status, text('code'), text('title'), text('detail'));
      }
    } catch {
      // Not JSON after all: the status speaks.
    }
  }
  return new Problem('http', status, '', '', '');
}

export const asProblem = (error: unknown): Problem =>
  error instanceof Problem ? error : new Problem('network', 0, '', '', '');

/** An abandoned request is nobody's problem. */
export const isAbort = (error: unknown): boolean => error instanceof DOMException && error.name === 'AbortError';
