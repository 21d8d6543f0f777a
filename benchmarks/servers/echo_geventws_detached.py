"""geventws under its own server, with callbacks instead of blocking views."""

import sys

from geventws import WebSocketServer


def app(environ, start_response):
    environ["wsgi.websocket"].detach(echo)
    return []


def echo(ws, message):
    ws.send(message)


if __name__ == "__main__":
    WebSocketServer(("127.0.0.1", int(sys.argv[1])), app, log=None).serve_forever()
