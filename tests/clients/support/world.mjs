// What the browser test runs against: the mock, or a real hub named by DZVIN_URL and DZVIN_TOKEN with the sandbox behind it,
// whose control API DZVIN_SANDBOX names. Always through a proxy of ours, so that connections can be cut either way.
import { setTimeout as pause } from 'node:timers/promises';
import { startMock } from '../mock/hub.mjs';
import { startProxy } from './proxy.mjs';

const KIND = 'procedure';
/** How much of a time a version keeps. */
const MILLIS = '2026-01-01T00:00:00.000'.length;
const PATIENCE_MS = Number(process.env.DZVIN_TIMEOUT_MS ?? 15_000);

export async function startWorld() {
  const source = process.env.DZVIN_URL ? realHub() : await mockHub();
  const proxy = await startProxy(source.url);
  let changes = 0;
  return {
    ...source, kind: KIND, proxy,
    console: `${proxy.url}/console/`,
    /** Something changes at the source. */
    async change() {
      const { items } = await source.rest(`/entities/${KIND}?limit=20`);
      return source.patch(items[changes++ % items.length].id, { status: changes % 2 ? 'active_auction' : 'complete' });
    },
    async stop() {
      await proxy.stop();
      await source.mock?.stop();
    },
  };
}

async function mockHub() {
  const mock = await startMock();
  const { url, token, procedures } = mock;
  return {
    mock, url, token,
    rest: (path) => rest(url, token, path),
    patch: async (id, set) => procedures.patch(id, set),
    put: async (id, doc) => procedures.put(id, doc),
  };
}

function realHub() {
  const { DZVIN_URL: url, DZVIN_TOKEN: token, DZVIN_SANDBOX: sandbox } = process.env;
  if (!token || !sandbox) throw new Error('DZVIN_URL is given without DZVIN_TOKEN or DZVIN_SANDBOX');
  const objects = `collections/${KIND}/objects`;
  const control = async (method, path, body) => {
    const response = await fetch(`${sandbox}/${path}`, { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
    return response.json();
  };
  /** The entity as the hub shows it once it has what was written. */
  const arrived = async ({ id, last_modified: version }) => {
    for (const end = Date.now() + PATIENCE_MS; Date.now() < end; await pause(20)) {
      const entity = await rest(url, token, `/entities/${KIND}/${encodeURIComponent(id)}`);
      if (entity.version?.slice(0, MILLIS) >= version.slice(0, MILLIS)) return entity;
    }
    throw new Error(`the hub never got version ${version} of ${id}`);
  };
  return {
    url, token, control,
    rest: (path) => rest(url, token, path),
    patch: async (id, set) => arrived(await control('PATCH', `${objects}/${encodeURIComponent(id)}`, set)),
    put: async (id, doc) => arrived(await control('POST', objects, { _id: id, ...doc })),
  };
}

/** The hub's own answer, straight from it. */
async function rest(url, token, path) {
  const response = await fetch(`${url}/api/v1${path}`, { headers: { authorization: `Bearer ${token}` } });
  return response.json();
}
