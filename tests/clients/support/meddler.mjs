// A TCP proxy that changes what a client says: bytes put in between its own, or the first line of its request spelled otherwise.
import { connect, createServer } from 'node:net';

/** `spell` rewrites the request's head. */
export async function startMeddler(target, spell = (head) => head) {
  const { hostname, port } = new URL(target);
  let latest;
  const server = createServer((client) => {
    const upstream = connect(Number(port) || 80, hostname);
    latest = upstream;
    for (const [from, to] of [[client, upstream], [upstream, client]]) {
      from.on('error', () => to.destroy());
      from.on('close', () => to.destroy());
    }
    client.once('data', (head) => {
      upstream.write(spell(head.toString('latin1')), 'latin1');
      client.pipe(upstream);
    });
    upstream.pipe(client);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: server.address().port,
    /** Towards the hub, on the connection that came last. */
    say: (bytes) => latest.write(Buffer.from(bytes)),
    stop: () => server.close(),
  };
}

/** Frames that no client sends, each with a mask of zeros. */
export const frames = {
  'a reserved opcode': [0x83, 0x80, 0, 0, 0, 0],
  'text that is not UTF-8': [0x81, 0x81, 0, 0, 0, 0, 0xff],
  binary: [0x82, 0x81, 0, 0, 0, 0, 0x00],
  'above the limit': [0x81, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0],
  rubbish: [0x81, 0x81, 0, 0, 0, 0, 0x78],
  'a pong that nobody asked for': [0x81, 0x82, 0, 0, 0, 0, 0x7b, 0x7d],
};
