// Just enough of the Centrifuge JSON protocol: connect, subscribe with recovery, unsubscribe, ping.
import { WebSocketServer } from 'ws';

export function sessions(world) {
  const wss = new WebSocketServer({ noServer: true });
  wss.on('connection', (socket) => {
    const subscribed = new Set();
    const send = (it) => socket.send(JSON.stringify(it));
    const listeners = [];
    const pinging = setInterval(() => send({}), 5000);
    socket.on('close', () => {
      clearInterval(pinging);
      for (const [kind, listener] of listeners) kind.listeners.delete(listener);
    });
    for (const kind of world.kinds) {
      const listener = ({ offset, data }) => {
        if (subscribed.has(kind.channel)) send({ push: { channel: kind.channel, pub: { data, offset } } });
      };
      kind.listeners.add(listener);
      listeners.push([kind, listener]);
    }
    socket.on('message', (raw) => {
      for (const line of String(raw).split('\n')) if (line.trim()) answer(JSON.parse(line));
    });
    const answer = (command) => {
      const { id } = command;
      if (command.connect) {
        if (command.connect.token !== world.token) return socket.close(3500, 'invalid token');
        return send({ id, connect: { client: 'mock', version: 'mock', ping: 5, pong: true } });
      }
      if (command.subscribe) {
        const { channel, recover, epoch = '', offset = 0 } = command.subscribe;
        const kind = world.kinds.find((it) => it.channel === channel);
        if (!kind || world.refused.has(channel)) return send({ id, error: { code: 103, message: 'permission denied' } });
        const missed = recover ? kind.since({ epoch, offset: Number(offset) }) : null;
        subscribed.add(channel);
        const position = { recoverable: true, positioned: true, epoch: kind.epoch };
        if (missed) {
          const publications = missed.map((it) => ({ data: it.data, offset: it.offset }));
          return send({ id, subscribe: { ...position, offset: Number(offset), publications, recovered: true, was_recovering: true } });
        }
        return send({ id, subscribe: { ...position, offset: kind.top, was_recovering: Boolean(recover) } });
      }
      if (command.unsubscribe) {
        subscribed.delete(command.unsubscribe.channel);
        return send({ id, unsubscribe: {} });
      }
    };
  });
  return wss;
}
