// A proxy over npm's spdy-transport: waits for an agent, then sends it all its requests at once.
//
// Usage: proxy.js --cert FILE --key FILE [--listen HOST:PORT] [--window OCTETS] [--chunk OCTETS]
//                 [--get PATH | --head PATH | --range FIRST-LAST:PATH | --put FILE:PATH]...
//
// Prints {"event":"listening","address":...}, then one JSON line per request, as they end: method,
// path, status, headers, length and sha256 of the answer. Exits with 0 when all have ended.
'use strict'

const fs = require('node:fs')
const tls = require('node:tls')
const link = require('./link')

const options = { window: 1 << 20, chunk: undefined, listen: link.address('127.0.0.1:0') }
const requests = []

function split (text) {
  const colon = text.indexOf(':')
  return [text.slice(0, colon), text.slice(colon + 1)]
}

for (const [name, value] of link.flags()) {
  if (name === 'listen') options.listen = link.address(value)
  else if (name === 'cert') options.cert = fs.readFileSync(value)
  else if (name === 'key') options.key = fs.readFileSync(value)
  else if (name === 'window') options.window = Number(value)
  else if (name === 'chunk') options.chunk = Number(value)
  else if (name === 'get') requests.push({ method: 'GET', path: value, headers: {} })
  else if (name === 'head') requests.push({ method: 'HEAD', path: value, headers: {} })
  else if (name === 'range') {
    const [range, path] = split(value)
    requests.push({ method: 'GET', path, headers: { range: `bytes=${range}` } })
  } else if (name === 'put') {
    const [file, path] = split(value)
    const headers = { 'content-length': String(fs.statSync(file).size) }
    requests.push({ method: 'PUT', path, headers, file })
  } else throw new Error(`unknown flag --${name}`)
}

async function exchange (session, { method, path, headers, file }) {
  const stream = session.request({ method, path, host: 'localhost', headers })
  // SYN_STREAM goes out here and now, so that the ids go up on the wire; a HEAD takes its FIN along.
  if (method === 'HEAD') stream.end()
  else stream.send()
  const answered = new Promise((resolve, reject) => {
    stream.once('response', (status, headers) => resolve({ status, headers }))
    stream.once('error', reject)
    stream.once('close', () => reject(new Error('closed without an answer')))
  })
  const body = link.digest(stream)
  body.catch(() => {})
  if (file) fs.createReadStream(file).on('error', link.fail).pipe(stream)
  const { status, headers: received } = await answered
  link.print(Object.assign({ method, path, status, headers: received }, await body))
}

async function serve (socket) {
  socket.on('error', link.fail)
  socket.setNoDelay(true)
  const { head, body } = await link.readMessage(socket)
  if (!/^PUT \/\S* HTTP\/1\.1\r\n/.test(head) || body !== 'Hello from C') throw new Error(head)
  socket.write('HTTP/1.1 200 Connection Established\r\nContent-Length: 12\r\n\r\nHello from P')
  const session = link.session(socket, false, options)
  session.on('error', link.fail)
  session.on('stream', () => link.fail(new Error('the agent opened a stream')))
  await Promise.all(requests.map((request) => exchange(session, request)))
  process.exit(0)
}

const server = tls.createServer({ cert: options.cert, key: options.key })
server.on('tlsClientError', link.fail)
server.once('secureConnection', (socket) => serve(socket).catch(link.fail))
server.listen(options.listen.port, options.listen.host, () => {
  const { address, port } = server.address()
  link.print({ event: 'listening', address: `${address}:${port}` })
})
