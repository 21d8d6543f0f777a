"""aiohttp on uvloop."""

import sys

import uvloop
from aiohttp import WSMsgType, web

subscribers = set()


async def broadcast(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    subscribers.add(ws)
    async for message in ws:
        for subscriber in list(subscribers):
            await subscriber.send_str(message.data)
    subscribers.discard(ws)
    return ws


async def echo(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        if message.type == WSMsgType.TEXT:
            await ws.send_str(message.data)
        elif message.type == WSMsgType.BINARY:
            await ws.send_bytes(message.data)
    return ws


if __name__ == "__main__":
    app = web.Application()
    app.router.add_get("/echo", echo)
    app.router.add_get("/broadcast", broadcast)
    port = int(sys.argv[1])
    loop = uvloop.new_event_loop()
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None, loop=loop)
