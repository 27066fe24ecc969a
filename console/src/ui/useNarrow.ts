// Whether the screen is a telephone's: there the opened entity covers the board.
import { useSyncExternalStore } from 'react';

const query = matchMedia('(max-width: 60rem)');

const subscribe = (listener: () => void) => {
  query.addEventListener('change', listener);
  return () => query.removeEventListener('change', listener);
};

export const useNarrow = (): boolean => useSyncExternalStore(subscribe, () => query.matches);
