// Follows changes with supabase-js as it is told, one JSON document a line, and tells what it hears, one a line.
//   {"do": "follow", "changes": [{"event": "INSERT", "schema": "flux", "table": "market_data"}], "cursor": "now"}
//   {"do": "token", "token": "…"}    the key from here on
//   {"do": "cut"}                    the socket is gone, as when the network is; it comes back with its last cursor
// → {"status"}, {"ready": true}, {"change": {"eventType", "table", "new", "old"}}, {"token": "set"}
import readline from 'node:readline';
import { createClient } from '@supabase/supabase-js';
import ws from 'ws';

const sockets = [];
class Socket extends ws {
  constructor(...args) {
    super(...args);
    sockets.push(this);
  }
}
const { FLUX_URL: url, FLUX_KEY: key } = process.env;
const flux = createClient(url, key, { auth: { persistSession: false }, realtime: { transport: Socket } });
const tell = (what) => process.stdout.write(JSON.stringify(what) + '\n');
let last;

function follow(changes, cursor) {
  const channel = flux.channel('fleet');
  for (const change of changes) {
    channel.on('postgres_changes', { ...change, cursor }, ({ eventType, table, new: now, old }) =>
      tell({ change: { eventType, table, new: now, old } }),
    );
  }
  channel.on('broadcast', { event: 'cursor' }, ({ payload }) => (last = payload.cursor));
  channel.on('system', {}, ({ status, message }) => tell(status === 'ok' ? { ready: true } : { refused: message }));
  let again = false;
  channel.subscribe(async (status, error) => {
    tell({ status, error: error?.message });
    if (status === 'CHANNEL_ERROR' && !again) {
      again = true;
      await flux.removeChannel(channel);
      follow(changes, last);
    }
  });
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  const told = JSON.parse(line);
  if (told.do === 'follow') follow(told.changes, told.cursor);
  if (told.do === 'cut') sockets.forEach((socket) => socket.terminate());
  if (told.do === 'token') {
    await flux.realtime.setAuth(told.token);
    tell({ token: 'set' });
  }
}
process.exit(0);
