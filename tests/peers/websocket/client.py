"""A WebSocket visitor: client.py URL. Messages of many sizes, both kinds, pings, a close."""
import asyncio
import hashlib
import os
import sys

import websockets


async def main(url):
    options = {"subprotocols": ["talk"], "max_size": None}
    async with websockets.connect(url, **options) as socket:
        print("subprotocol", socket.subprotocol)
        print(await socket.recv())
        for size in (0, 1, 125, 126, 65_535, 65_536, 3_000_000):
            message = os.urandom(size)
            await socket.send(message)
            assert await socket.recv() == message, size
        await socket.send("gr\u00fc\u00df dich")
        print(hashlib.sha256((await socket.recv()).encode()).hexdigest())
        # Many at once: answers come while questions still go out.
        count = 200
        sending = asyncio.ensure_future(send(socket, count))
        for number in range(count):
            assert await socket.recv() == str(number) * 1_000, number
        await sending
        await asyncio.wait_for(await socket.ping(), 20)
        print("echoed")
    print("close", socket.close_code)
    try:
        await websockets.connect(url + "/reject")
    except websockets.InvalidStatusCode as refused:
        print("rejected", refused.status_code)


async def send(socket, count):
    for number in range(count):
        await socket.send(str(number) * 1_000)


asyncio.run(main(sys.argv[1]))
