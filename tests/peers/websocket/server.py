"""A WebSocket service: says every message again, and why it was closed.

Prints the port it listens on. The path is the first message; /reject answers 403.
"""
import asyncio
import http

import websockets


async def serve(socket):
    await socket.send("path " + socket.path)
    async for message in socket:
        await socket.send(message)
    print("closed", socket.close_code, flush=True)


async def check(path, headers):
    if path.endswith("/reject"):
        return http.HTTPStatus.FORBIDDEN, [], b"no\n"


async def main():
    options = {"process_request": check, "subprotocols": ["talk"], "max_size": None}
    async with websockets.serve(serve, "127.0.0.1", 0, **options) as server:
        print("listening", server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()


asyncio.run(main())
