"""The applications of Socket.IO on the servers of geventws, without a call of ``install()``.

``python -m tests.support.socketio_servers HOW``, or ``all`` for both applications on three servers.
Nothing is hidden: python-engineio finds simple-websocket, or what has the name of gevent-websocket.
"""

import sys

from gevent.pywsgi import WSGIServer

from geventws import WebSocketHandler, WebSocketMiddleware, WebSocketServer
from tests.support.socketio_apps import flask_app, plain_app

ADDRESS = ("127.0.0.1", 0)


def compat_server(app):
    from geventws.compat import install_as_geventwebsocket

    install_as_geventwebsocket()
    from geventwebsocket.handler import WebSocketHandler

    return WSGIServer(ADDRESS, app, handler_class=WebSocketHandler)


SERVERS = {
    "server": lambda app: WebSocketServer(ADDRESS, app),
    "handler": lambda app: WSGIServer(ADDRESS, app, handler_class=WebSocketHandler),
    "middleware": lambda app: WSGIServer(ADDRESS, WebSocketMiddleware(app)),
    "compat": compat_server,
}

if __name__ == "__main__":
    pairs = [(sys.argv[1], plain_app)]
    if sys.argv[1] == "all":
        pairs = [
            (how, app)
            for how in ("server", "handler", "middleware")
            for app in (plain_app, flask_app)
        ]
    for how, app in pairs:
        server = SERVERS[how](app)
        server.start()
        print(f"http://127.0.0.1:{server.server_port}", file=sys.stderr)
    print("ready", file=sys.stderr, flush=True)
    server.serve_forever()
