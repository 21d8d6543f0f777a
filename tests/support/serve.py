"""``python -m tests.support.serve WAY``: serve the tests' site one of the ways pywsgi offers."""
import sys

from gevent.pywsgi import WSGIServer

from geventws import WebSocketHandler, WebSocketMiddleware, WebSocketServer
from tests.support.apps import site

SERVERS = {
    "server": lambda: WebSocketServer(("127.0.0.1", 0), site),
    "handler": lambda: WSGIServer(("127.0.0.1", 0), site, handler_class=WebSocketHandler),
    "middleware": lambda: WSGIServer(("127.0.0.1", 0), WebSocketMiddleware(site)),
}

application = WebSocketMiddleware(site, subprotocols=["own"])

if __name__ == "__main__":
    server = SERVERS[sys.argv[1]]()
    server.start()
    print(f"listening on http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
    server.serve_forever()
