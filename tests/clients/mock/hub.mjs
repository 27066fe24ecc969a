// A mock hub for the page's own tests: the REST surface, the realtime endpoint and the page under the hub's strict CSP.
// It is small and obedient: what it cannot do (kill -9, real recovery limits) is tested against the real hub.
import { createReadStream, existsSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Entities } from './entities.mjs';
import { sessions } from './sessions.mjs';

const DIST = fileURLToPath(new URL('../../../console/dist/', import.meta.url));
const CSP =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'";
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' };

export async function startMock({ port = 0, token = 'header.eyJzdWIiOiJvcGVyYXRvciJ9.signature', count = 120 } = {}) {
  const procedures = new Entities('procedure', ['status', 'sellingMethod']);
  const empty = new Entities('customer', ['segment']);
  procedures.seed(count);
  const world = { token, kinds: [procedures, empty], refused: new Set(), mirrors: mirrors(procedures), mayOperate: false };
  const wss = sessions(world);
  const server = createServer((request, response) => route(world, request, response));
  server.on('upgrade', (request, socket, head) => {
    if (new URL(request.url, 'http://x').pathname !== '/connection/websocket') return socket.destroy();
    wss.handleUpgrade(request, socket, head, (ws) => wss.emit('connection', ws, request));
  });
  await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`, token, world, procedures, empty,
    async stop() {
      for (const client of wss.clients) client.terminate();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function route(world, request, response) {
  const url = new URL(request.url, 'http://x');
  const path = url.pathname.split('/').slice(1).map(decodeURIComponent);
  if (url.pathname === '/console/login.json') return json(response, { login: null });
  if (path[0] === 'console') return page(url.pathname, response);
  if (path[0] !== 'api') return problem(response, 404, 'not_found');
  if (request.headers.authorization !== `Bearer ${world.token}`) return problem(response, 401, 'unauthenticated');
  const [, , room, name, id, what] = path;
  if (room === 'kinds') {
    const items = world.kinds.map((it) => ({ kind: it.kind, source: 'mirrored', mirror: it.kind, fields: it.fields, channel: it.channel, readable: true }));
    return json(response, { items: [...items, { kind: 'call', source: 'local', fields: [], channel: 'entities.call', readable: false }] });
  }
  if (room === 'mirrors' && id === 'resume') return resume(world, name, response);
  if (room === 'mirrors') return json(response, { items: world.mirrors() });
  const kind = world.kinds.find((it) => it.kind === name);
  if (room !== 'entities' || !kind) return problem(response, 404, 'unknown_kind');
  if (!id) return json(response, kind.list(url.searchParams));
  const item = kind.all.get(id);
  if (!item) return problem(response, 404, 'unknown_entity', `${name} ${id}`);
  const { history, ...entity } = item;
  if (what !== 'history') return json(response, entity);
  const before = Number(url.searchParams.get('before') ?? Infinity);
  const limit = Number(url.searchParams.get('limit') ?? 50);
  const rest = history.filter((it) => it.revision < before);
  return json(response, { items: rest.slice(0, limit), next: rest.length > limit ? rest[limit - 1].revision : null });
}

function resume(world, name, response) {
  if (!world.mayOperate) return problem(response, 403, 'forbidden', 'mirrors:operate:* is needed');
  world.resumed = name;
  response.writeHead(204).end();
}

function page(path, response) {
  const file = join(DIST, normalize(path.replace(/^\/console\/?/, '') || 'index.html'));
  if (!file.startsWith(DIST) || !existsSync(file)) return problem(response, 404, 'not_found');
  response.writeHead(200, { 'content-type': TYPES[extname(file)] ?? 'application/octet-stream', 'content-security-policy': CSP, 'x-content-type-options': 'nosniff' });
  createReadStream(file).pipe(response);
}

function json(response, body) {
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

function problem(response, status, code, detail = '') {
  response.writeHead(status, { 'content-type': 'application/problem+json' }).end(JSON.stringify({ type: 'about:blank', title: code, status, detail, code }));
}

const mirrors = (kind) => () => {
  const one = (name, state, extra = {}) => ({
    name, kind: name, state, reason: null, since: new Date(Date.now() - 60_000).toISOString(), lag_ms: 8 + (Date.now() % 20), cursor: '[1764000000, 3]',
    newest_version: '2026-11-20T09:15:49.086000Z', objects: kind.all.size, applied: kind.top, unchanged: 10, stale: 0, quarantined: 0, reconnects: 2,
    last_error: null, last_frame_at: new Date().toISOString(), owner: 'node-1', here: true, max_message_bytes: 16_777_216, ...extra,
  });
  return [
    one('procedure', 'live'),
    one('registry', 'forbidden', { lag_ms: null, reason: 'The Mirror answered 403 at the handshake: waiting for an operator.', last_error: '403 Forbidden', quarantined: 3, applied: 0, objects: 0 }),
  ];
};
