"""geventws under its own server, with callbacks instead of blocking views."""

import sys

from geventws import Broadcast, WebSocketServer

broadcast = Broadcast("memory://")


def app(environ, start_response):
    ws = environ["wsgi.websocket"]
    if environ["PATH_INFO"] == "/broadcast":
        broadcast.subscribe("all", ws)
        ws.detach(publish)
    else:
        ws.detach(echo)
    return []


def publish(ws, message):
    broadcast.publish("all", message)


def echo(ws, message):
    ws.send(message)


if __name__ == "__main__":
    WebSocketServer(("127.0.0.1", int(sys.argv[1])), app, log=None).serve_forever()
