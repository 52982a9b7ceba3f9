"""Reads SPDY/3 header blocks with Python's zlib, one by one.

Usage: read_blocks.py DICTIONARY BLOCKS

BLOCKS holds the header blocks of one direction of a session, each behind its length (32 bits, big
endian). Prints one JSON line per block, before it looks at the next: a list of [name, value], both
in hexadecimal. All blocks share one inflater; whatever a block does not deliver by itself is an
error.
"""

import json
import struct
import sys
import zlib


def pairs(plain):
    def text(at):
        (size,) = struct.unpack_from(">I", plain, at)
        end = at + 4 + size
        if end > len(plain):
            raise ValueError("block not delivered whole")
        return plain[at + 4 : end], end

    (count,) = struct.unpack_from(">I", plain, 0)
    at = 4
    found = []
    for _ in range(count):
        name, at = text(at)
        value, at = text(at)
        found.append([name.hex(), value.hex()])
    if at != len(plain):
        raise ValueError("octets behind the last pair")
    return found


def main():
    with open(sys.argv[1], "rb") as file:
        inflater = zlib.decompressobj(zdict=file.read())
    with open(sys.argv[2], "rb") as file:
        while head := file.read(4):
            (size,) = struct.unpack(">I", head)
            block = file.read(size)
            if len(block) != size:
                raise ValueError("block cut short")
            plain = inflater.decompress(block)
            if inflater.eof or inflater.unconsumed_tail or inflater.unused_data:
                raise ValueError("the deflate stream ended")
            print(json.dumps(pairs(plain)), flush=True)


main()
