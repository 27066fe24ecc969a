// The mock by itself, for looking at the page: npm run mock [-- changes per second].
import { startMock } from './hub.mjs';

const rate = Number(process.argv[2] ?? 1);
const mock = await startMock({ port: Number(process.env.PORT ?? 8088), count: 600 });
console.log(`${mock.url}/console/#token=${mock.token}`);
const ids = [...mock.procedures.all.keys()];
const statuses = ['active_tendering', 'active_auction', 'active_qualification', 'complete'];
setInterval(() => {
  const id = ids[Math.floor(Math.random() * ids.length)];
  mock.procedures.patch(id, { status: statuses[Math.floor(Math.random() * statuses.length)] });
}, 1000 / rate);
