// A client that says nothing but what it must: connects, answers the hub's pings, and tells about each on stdout. With it
// a test sees how long a silent connection lives behind a proxy.
import WebSocket from 'ws';

const [url, token] = process.argv.slice(2);
const say = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);
const socket = new WebSocket(url);
socket.on('open', () => socket.send(JSON.stringify({ id: 1, connect: { token } })));
socket.on('message', (data) => {
  for (const line of data.toString().split('\n').filter(Boolean)) {
    if (line === '{}') {
      socket.send('{}');
      say({ event: 'ping' });
    } else {
      say({ event: 'reply', ...JSON.parse(line) });
    }
  }
});
socket.on('error', (error) => say({ event: 'error', text: error.message }));
socket.on('close', (code) => say({ event: 'closed', code }));
