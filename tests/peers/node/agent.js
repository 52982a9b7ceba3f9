// An agent over npm's spdy-transport: dials the proxy, serves a folder, takes uploads.
//
// Usage: agent.js --proxy HOST:PORT --root DIR [--window OCTETS] [--chunk OCTETS]
//
// Answers PUT and POST with a JSON body: length and SHA-256 of what it received. Prints one JSON
// line per event: {"event":"connected"}, then {"event":"request",...} per request.
'use strict'

const fs = require('node:fs')
const path = require('node:path')
const tls = require('node:tls')
const link = require('./link')

const options = { window: 1 << 20, chunk: undefined }
for (const [name, value] of link.flags()) {
  if (name === 'proxy') options.proxy = link.address(value)
  else if (name === 'root') options.root = path.resolve(value)
  else if (name === 'window') options.window = Number(value)
  else if (name === 'chunk') options.chunk = Number(value)
  else throw new Error(`unknown flag --${name}`)
}

async function answer (stream) {
  const { method } = stream
  link.print({ event: 'request', method, path: stream.path, headers: stream.headers })
  if (method === 'PUT' || method === 'POST') {
    const body = JSON.stringify(await link.digest(stream))
    return reply(stream, 201, { 'content-type': 'application/json' }, body)
  }
  stream.resume()
  if (method !== 'GET' && method !== 'HEAD') return reply(stream, 405, { allow: 'GET, HEAD' }, '')
  let file
  try {
    file = path.join(options.root, path.normalize(decodeURIComponent(stream.path.split('?')[0])))
  } catch {
    return reply(stream, 400, {}, 'bad path\n')
  }
  let stat
  try {
    stat = fs.statSync(file)
  } catch {
    return reply(stream, 404, {}, 'not found\n')
  }
  if (stat.isDirectory()) {
    const cookies = { 'set-cookie': ['peer=node', 'role=agent'] }
    return reply(stream, 200, cookies, fs.readdirSync(file).join('\n') + '\n')
  }
  return sendFile(stream, file, stat)
}

function sendFile (stream, file, stat) {
  const headers = {
    'content-type': 'application/octet-stream',
    'content-length': String(stat.size),
    'last-modified': stat.mtime.toUTCString(),
    'accept-ranges': 'bytes'
  }
  let status = 200
  const range = {}
  const wanted = /^bytes=(\d+)-(\d*)$/.exec(stream.headers.range || '')
  if (wanted && stream.method === 'GET') {
    range.start = Number(wanted[1])
    range.end = Math.min(wanted[2] === '' ? Infinity : Number(wanted[2]), stat.size - 1)
    if (range.start > range.end) {
      return reply(stream, 416, { 'content-range': `bytes */${stat.size}` }, '')
    }
    status = 206
    headers['content-length'] = String(range.end - range.start + 1)
    headers['content-range'] = `bytes ${range.start}-${range.end}/${stat.size}`
  }
  stream.respond(status, headers)
  if (stream.method === 'HEAD') return stream.end()
  fs.createReadStream(file, range).on('error', link.fail).pipe(stream)
}

function reply (stream, status, headers, body) {
  const length = { 'content-length': String(Buffer.byteLength(body)) }
  stream.respond(status, Object.assign(length, headers))
  stream.end(stream.method === 'HEAD' ? '' : body)
}

async function run () {
  // An old, anonymous peer verifies nobody.
  const socket = tls.connect(Object.assign({ rejectUnauthorized: false }, options.proxy))
  socket.on('error', link.fail)
  socket.setNoDelay(true)
  await new Promise((resolve) => socket.once('secureConnect', resolve))
  socket.write('PUT / HTTP/1.1\r\nHost: localhost:1444\r\nContent-Length: 12\r\n\r\nHello from C')
  const { head, body } = await link.readMessage(socket)
  if (!/^HTTP\/1\.1 200 /.test(head) || body !== 'Hello from P') throw new Error(`refused: ${head}`)
  const session = link.session(socket, true, options)
  session.on('error', link.fail)
  session.on('stream', (stream) => {
    // A visitor who leaves resets his stream: that is no fault.
    stream.on('error', (error) => link.print({ event: 'aborted', why: error.message }))
    answer(stream).catch((error) => link.print({ event: 'aborted', why: error.message }))
  })
  session.on('close', () => process.exit(0))
  link.print({ event: 'connected' })
}

run().catch(link.fail)
