"""websockets' asyncio server on uvloop."""

import sys

import uvloop
from websockets.asyncio.server import broadcast, serve

subscribers = set()


async def echo(ws):
    if ws.request.path == "/broadcast":
        subscribers.add(ws)
        async for message in ws:
            broadcast(subscribers, message)
        subscribers.discard(ws)
    async for message in ws:
        await ws.send(message)


async def main(port):
    async with serve(echo, "127.0.0.1", port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
