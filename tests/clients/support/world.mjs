// What the browser test runs against: the mock, or a real hub named by DZVIN_URL and DZVIN_TOKEN. Always through a
// proxy of ours, so that connections can be cut either way.
import { startMock } from '../mock/hub.mjs';
import { startProxy } from './proxy.mjs';

export async function startWorld() {
  const mock = process.env.DZVIN_URL ? null : await startMock();
  const hub = process.env.DZVIN_URL ?? mock.url;
  const token = process.env.DZVIN_TOKEN ?? mock?.token;
  if (!token) throw new Error('DZVIN_URL is given without DZVIN_TOKEN');
  const kind = process.env.DZVIN_KIND ?? 'procedure';
  const proxy = await startProxy(hub);
  let changes = 0;
  return {
    mock, kind, token, proxy,
    console: `${proxy.url}/console/`,
    /** Something changes at the source. A real hub changes by itself, or when DZVIN_CHANGE_URL is posted to. */
    async change() {
      if (mock) return mock.procedures.patch([...mock.procedures.all.keys()][changes++ % 20], { status: changes % 2 ? 'active_auction' : 'complete' });
      if (process.env.DZVIN_CHANGE_URL) await fetch(process.env.DZVIN_CHANGE_URL, { method: 'POST' });
    },
    /** The hub's own answer, straight from it. */
    async rest(path) {
      const response = await fetch(`${hub}/api/v1${path}`, { headers: { authorization: `Bearer ${token}` } });
      return response.json();
    },
    async stop() {
      await proxy.stop();
      await mock?.stop();
    },
  };
}
