"""geventws under its own server; GEVENTWS_PURE_PYTHON=1 chooses the plain core."""

import sys

from geventws import Broadcast, WebSocketServer

broadcast = Broadcast("memory://")


def app(environ, start_response):
    ws = environ["wsgi.websocket"]
    if environ["PATH_INFO"] == "/broadcast":
        broadcast.subscribe("all", ws)
        for message in ws:
            broadcast.publish("all", message)
    for message in ws:
        ws.send(message)
    return []


if __name__ == "__main__":
    WebSocketServer(("127.0.0.1", int(sys.argv[1])), app, log=None).serve_forever()
