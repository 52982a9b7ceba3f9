// Reads SPDY/3 header blocks with Node's zlib, one by one.
//
// Usage: read_blocks.js DICTIONARY BLOCKS
//
// BLOCKS holds the header blocks of one direction of a session, each behind its length (32 bits,
// big endian). Prints one JSON line per block, before it looks at the next: a list of
// [name, value], both in hexadecimal. All blocks share one inflater; whatever a block does not
// deliver by itself is an error.
'use strict'

const fs = require('node:fs')
const zlib = require('node:zlib')

function pairs (plain) {
  let at = 0
  function word () {
    at += 4
    return plain.readUInt32BE(at - 4)
  }
  function text () {
    const size = word()
    const octets = plain.subarray(at, at + size)
    if (octets.length !== size) throw new Error('block not delivered whole')
    at += size
    return octets.toString('hex')
  }
  const found = []
  for (let left = word(); left > 0; left--) found.push([text(), text()])
  if (at !== plain.length) throw new Error('octets behind the last pair')
  return found
}

async function main () {
  const [dictionary, blocks] = process.argv.slice(2).map((name) => fs.readFileSync(name))
  const inflater = zlib.createInflate({ dictionary })
  inflater.on('error', (error) => { throw error })
  inflater.on('end', () => { throw new Error('the deflate stream ended') })
  const delivered = []
  inflater.on('data', (piece) => delivered.push(piece))
  for (let at = 0; at < blocks.length;) {
    const size = blocks.readUInt32BE(at)
    const block = blocks.subarray(at + 4, at + 4 + size)
    if (block.length !== size) throw new Error('block cut short')
    at += 4 + size
    // The callback comes once the block is consumed and what it gave has been emitted.
    await new Promise((resolve) => inflater.write(block, resolve))
    await new Promise((resolve) => setImmediate(resolve))
    process.stdout.write(JSON.stringify(pairs(Buffer.concat(delivered.splice(0)))) + '\n')
  }
}

main().catch((error) => { throw error })
