// Makes the calls that it is told of, one JSON document a line, and answers each with one line of JSON.
//   {"client": "supabase-js", "calls": [["from", "sites"], ["select", "*"]]}  →  {"data", "error", "count", "status"}
// FLUX_URL and FLUX_KEY say where and as whom. It ends when its input does.
import readline from 'node:readline';
import { PostgrestClient } from '@supabase/postgrest-js';
import { createClient } from '@supabase/supabase-js';
import ws from 'ws';

const { FLUX_URL: url, FLUX_KEY: key } = process.env;
const clients = {
  'supabase-js': createClient(url, key, { auth: { persistSession: false }, realtime: { transport: ws } }),
  'postgrest-js': new PostgrestClient(`${url}/rest/v1`, {
    headers: { apikey: key, Authorization: `Bearer ${key}` },
  }),
};

async function answer({ client, calls }) {
  try {
    let builder = clients[client];
    for (const [method, ...args] of calls) builder = builder[method](...args);
    const { data, error, count, status } = await builder;
    return { data, error: error && { ...error, message: error.message }, count, status };
  } catch (thrown) {
    const { code, message, details, hint } = thrown;
    return { data: null, error: { code, message, details, hint, thrown: true }, count: null, status: null };
  }
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  process.stdout.write(JSON.stringify(await answer(JSON.parse(line))) + '\n');
}
process.exit(0);
