from gevent import monkey

monkey.patch_all()
from geventws.compat import install_as_geventwebsocket

install_as_geventwebsocket()

import sys

from bottle import get, run
from bottle.ext.websocket import GeventWebSocketServer, websocket


@get("/echo", apply=[websocket])
def echo(ws):
    while True:
        message = ws.receive()
        if message is None:
            break
        ws.send(message)
    print("the echo has ended", file=sys.stderr, flush=True)


print(f"http://127.0.0.1:{sys.argv[1]}", file=sys.stderr, flush=True)
run(host="127.0.0.1", port=int(sys.argv[1]), server=GeventWebSocketServer)
