// What agent.js and proxy.js share: flags, one JSON line per event, and the handshake's HTTP.
// SPDY itself is npm's spdy-transport, found through NODE_PATH.
'use strict'

const crypto = require('node:crypto')
const transport = require('spdy-transport')

// Flags as [name, value] pairs, in order: operations keep the order they were given in.
exports.flags = function flags () {
  const words = process.argv.slice(2)
  const found = []
  while (words.length > 0) {
    const name = words.shift()
    if (!name.startsWith('--') || words.length === 0) throw new Error(`bad argument ${name}`)
    found.push([name.slice(2), words.shift()])
  }
  return found
}

exports.address = function address (text) {
  const colon = text.lastIndexOf(':')
  return { host: text.slice(0, colon), port: Number(text.slice(colon + 1)) }
}

exports.print = function print (line) {
  process.stdout.write(JSON.stringify(line) + '\n')
}

// Any trouble that nobody expects ends the process, so that the test sees it.
exports.fail = function fail (error) {
  process.stderr.write(`${error.stack || error}\n`)
  process.exit(1)
}

exports.digest = function digest (stream) {
  return new Promise((resolve, reject) => {
    const hash = crypto.createHash('sha256')
    let length = 0
    stream.on('data', (piece) => {
      hash.update(piece)
      length += piece.length
    })
    stream.on('end', () => resolve({ length, sha256: hash.digest('hex') }))
    // A finished spdy-transport answers the last WINDOW_UPDATE with RST INVALID_STREAM. Behind the
    // FIN that is no fault: all data is here.
    stream.on('error', (error) => { if (!stream._readableState.ended) reject(error) })
    stream.on('close', (error) => { if (error && !stream._readableState.ended) reject(error) })
  })
}

// Reads one HTTP message with a Content-Length and gives back its head; what follows it stays in
// the socket.
exports.readMessage = function readMessage (socket) {
  return new Promise((resolve, reject) => {
    let held = Buffer.alloc(0)
    function read (piece) {
      held = Buffer.concat([held, piece])
      const end = held.indexOf('\r\n\r\n')
      if (end < 0) return
      const head = held.toString('latin1', 0, end)
      const length = /^content-length: *(\d+)/im.exec(head)
      const size = end + 4 + (length ? Number(length[1]) : 0)
      if (held.length < size) return
      socket.removeListener('data', read)
      socket.removeListener('end', ended)
      socket.pause()
      if (held.length > size) socket.unshift(held.subarray(size))
      resolve({ head, body: held.toString('latin1', end + 4, size) })
    }
    function ended () {
      reject(new Error('connection ended in the handshake'))
    }
    socket.on('data', read)
    socket.on('end', ended)
  })
}

// A SPDY/3.1 session over a socket whose handshake is done.
exports.session = function session (socket, isServer, options) {
  const connection = transport.connection.create(socket, {
    protocol: 'spdy',
    isServer,
    windowSize: options.window,
    maxChunk: options.chunk
  })
  connection.start(3.1)
  return connection
}
