// The address bar as React state.
import { useSyncExternalStore } from 'react';
import { type Route, hrefOf, parseRoute } from './route';

let seen = '';
let route: Route = parseRoute('');

/** Kept by text, so the same address is the same object. */
function current(): Route {
  if (location.hash !== seen) {
    seen = location.hash;
    route = parseRoute(seen);
  }
  return route;
}

function subscribe(listener: () => void): () => void {
  window.addEventListener('hashchange', listener);
  return () => window.removeEventListener('hashchange', listener);
}

export const useRoute = (): Route => useSyncExternalStore(subscribe, current);

export const go = (to: Route): void => {
  location.hash = hrefOf(to);
};
