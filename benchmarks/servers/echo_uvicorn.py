"""An ASGI application under uvicorn, in its quickest combination."""

import sys

import uvicorn

subscribers = set()


async def app(scope, receive, send):
    if scope["type"] != "websocket":
        return
    await receive()  # websocket.connect
    await send({"type": "websocket.accept"})
    if scope["path"] == "/broadcast":
        subscribers.add(send)
        while (event := await receive())["type"] == "websocket.receive":
            for subscriber in list(subscribers):
                await subscriber({"type": "websocket.send", "text": event["text"]})
        subscribers.discard(send)
        return
    while (event := await receive())["type"] == "websocket.receive":
        if event.get("text") is not None:
            await send({"type": "websocket.send", "text": event["text"]})
        else:
            await send({"type": "websocket.send", "bytes": event["bytes"]})


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        lifespan="off",
        log_level="critical",
        access_log=False,
    )
