"""bottle-websocket's way of writing, with nothing changed but the import."""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402 - patch first, as the documentation says

from bottle import get, run  # noqa: E402

from geventws.bottle import GeventWebSocketServer, websocket  # noqa: E402

GREETING = "hello"


@get("/greet", apply=[websocket])
def greet(ws):
    ws.send(GREETING)
    while True:
        message = ws.receive()
        if message is None:
            break
        ws.send(message)


run(
    host="127.0.0.1",
    port=int(sys.argv[1]),
    server=GeventWebSocketServer,
    reloader=sys.argv[2] == "reload",
    interval=0.1,
    max_message_size=10,
)
