// Unmodified `pusher-js` clients that watch each other, on two nodes: who is online at the sign-in, who comes, and who goes. Prints one
// JSON report; the Rust test that starts it judges.
import Server from 'pusher';
import { clientAt, finish, readArguments, untilWithin } from './support/pusher.mjs';

const args = readArguments('other');
const clients = [];
const server = new Server({ appId: 'main', key: args.key, secret: args.secret, host: '127.0.0.1' });

/** A client that signs in as this user, and writes down what it hears of its watchlist. */
function connect(url, id, watchlist) {
  const client = clientAt(url, args.key, {
    userAuthentication: {
      customHandler: ({ socketId }, done) => done(null, server.authenticateUser(socketId, { id, watchlist })),
    },
  });
  client.heard = [];
  for (const name of ['online', 'offline']) {
    client.user.watchlist.bind(name, (event) => client.heard.push({ [name]: event.user_ids.toSorted() }));
  }
  client.signin();
  clients.push(client);
  return client;
}

const until = (what, holds) => untilWithin(args.timeout, what, holds);

const report = {};
try {
  const ivan = connect(args.other, 'ivan', []);
  await until('ivan has signed in', () => ivan.user.user_data);
  const olha = connect(args.url, 'olha', ['ivan', 'petro']);
  await until('olha knows how it stands', () => olha.heard.length === 2);
  const petro = connect(args.other, 'petro', ['olha']);
  await until('petro is online', () => olha.heard.length === 3 && petro.heard.length === 1);
  // A second tab is no news, nor is its end.
  const tab = connect(args.url, 'petro');
  await until('another tab', () => tab.user.user_data);
  tab.disconnect();
  petro.disconnect();
  await until('petro is offline', () => olha.heard.length === 4);
  ivan.disconnect();
  await until('ivan is offline', () => olha.heard.length === 5);
  report.olha = olha.heard;
  report.petro = petro.heard;
} catch (error) {
  report.olha = { error: `${error.stack}` };
} finally {
  clients.forEach((client) => client.disconnect());
}
finish(report);
