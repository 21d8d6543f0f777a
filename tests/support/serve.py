"""``python -m tests.support.serve WAY [CERTIFICATE KEY]``: serve the tests' site through pywsgi."""

import ssl
import sys

from gevent.pywsgi import WSGIServer
from gevent.ssl import SSLContext
from werkzeug.middleware.profiler import ProfilerMiddleware

from geventws import WebSocketHandler, WebSocketMiddleware, WebSocketServer
from tests.support.apps import site

SERVERS = {
    "server": lambda **tls: WebSocketServer(("127.0.0.1", 0), site, **tls),
    "handler": lambda **tls: WSGIServer(
        ("127.0.0.1", 0), site, handler_class=WebSocketHandler, **tls
    ),
    "middleware": lambda **tls: WSGIServer(("127.0.0.1", 0), WebSocketMiddleware(site), **tls),
}

application = WebSocketMiddleware(site, subprotocols=["own"])


profiled = ProfilerMiddleware(application, stream=None)


class Unclosed:
    """The result of middleware that drops ``close()``, which violates PEP 3333."""

    def __init__(self, body) -> None:
        self._body = body

    def __iter__(self):
        return iter(self._body)


def wrapped(environ, start_response):
    """A middleware outside of ours, such as users have: it hides all that is the server's."""

    def start(status, headers, *exc_info):
        return start_response(status, [*headers, ("X-Wrapped", "yes")], *exc_info)

    return Unclosed(application(dict(environ), start))


class Copied:
    """A body that a middleware has put in the place of the server's."""

    def __init__(self, body) -> None:
        self.first = body.read(1)


def tasted(environ, start_response):
    """A middleware outside of ours that reads some of the body, and hides it and the rest."""
    if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
        if environ.get("HTTP_X_TASTE") == "hide":
            environ["wsgi.input"] = Copied(environ["wsgi.input"])
            return application(environ, start_response)
        environ["wsgi.input"].read(1)
    return wrapped(environ, start_response)


if __name__ == "__main__":
    tls = {}
    if sys.argv[2:]:
        tls["ssl_context"] = SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls["ssl_context"].load_cert_chain(*sys.argv[2:])
    server = SERVERS[sys.argv[1]](**tls)
    server.start()
    print(f"listening on http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
    server.serve_forever()
