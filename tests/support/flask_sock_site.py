"""flask-sock as it is on PyPI: simple-websocket takes the socket, and sends its own 101.

``python -m tests.support.flask_sock_site``: the site on three servers, which print their addresses.
"""

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()

import sys

import flask
import flask_sock
from gevent.pywsgi import WSGIServer

from geventws import WebSocketHandler, WebSocketMiddleware, WebSocketServer

site = flask.Flask(__name__)
sock = flask_sock.Sock(site)


@sock.route("/echo")
def echo(ws):
    try:
        while True:
            ws.send(ws.receive())
    finally:
        print("the echo has ended", file=sys.stderr, flush=True)


@sock.route("/close")
def close(ws):
    ws.close(1001, "bye")


app = WebSocketMiddleware(site, accept_after=0.25)

if __name__ == "__main__":
    listener = ("127.0.0.1", 0)
    servers = [
        WebSocketServer(listener, app),
        WSGIServer(listener, app, handler_class=WebSocketHandler),
        WSGIServer(listener, app),
    ]
    for server in servers:
        server.start()
        print(f"http://127.0.0.1:{server.server_port}", file=sys.stderr)
    print("ready", file=sys.stderr, flush=True)
    server.serve_forever()
