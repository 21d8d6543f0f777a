"""gevent-websocket under gevent's server, with wsaccel, which it recommends."""

import sys

from gevent.pywsgi import WSGIServer
from geventwebsocket.handler import WebSocketHandler

subscribers = set()


def app(environ, start_response):
    ws = environ["wsgi.websocket"]
    if environ["PATH_INFO"] == "/broadcast":
        subscribers.add(ws)
        while (message := ws.receive()) is not None:
            for subscriber in list(subscribers):
                subscriber.send(message)
        subscribers.discard(ws)
    while not ws.closed and (message := ws.receive()) is not None:
        ws.send(message)
    return []


if __name__ == "__main__":
    address = ("127.0.0.1", int(sys.argv[1]))
    WSGIServer(address, app, handler_class=WebSocketHandler, log=None).serve_forever()
