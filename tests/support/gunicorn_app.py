"""An application under gunicorn that shows what it gets; and a worker that accepts any origin."""

import gc
import json
import socket

from gevent import Timeout, getcurrent, sleep
from gevent.exceptions import ConcurrentObjectUseError
from gunicorn.glogging import Logger as GunicornLogger

import geventws


class Worker(geventws.Worker):
    websocket_options = {"allowed_origins": "*"}  # noqa: RUF012 - as users write it


class StreamServerWorker(Worker):
    """A worker with gevent's own server."""

    server_class = None


class HandlingWorker(Worker):
    """A worker that does something for each connection."""

    def handle(self, listener, client, addr):
        self.log.info("a connection from %s", addr[0])
        super().handle(listener, client, addr)


def describe(environ, start_response):
    """Answer with the environ: of objects, the types; and whether gunicorn has parsed it."""
    seen = {
        name: value if isinstance(value, (str, bool, tuple)) else type(value).__name__
        for name, value in environ.items()
        if name not in {"wsgi.early_hints", "wsgi.errors", "wsgi.websocket"}
    }
    seen["REMOTE_PORT"] = environ.get("REMOTE_PORT", "0").isdecimal()
    seen["read"] = environ["wsgi.input"].read().decode()
    hints = environ["wsgi.early_hints"]
    body = json.dumps({"parsed": not hasattr(hints, "__self__"), "environ": seen}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def answer(text, start_response):
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [text.encode()]


def hint(environ, start_response):
    environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload")])
    start_response("404 Not Found", [("Content-Length", "4"), ("X-Page", "a")])
    return [b"none"]


def fail(environ, start_response):
    raise LookupError("a fault of the view")


def fail_late(environ, start_response):
    start_response("200 OK", [("Content-Length", "4")])
    yield b"ha"
    raise LookupError("a late fault of the view")


def say(environ, start_response):
    ws = environ["wsgi.websocket"]
    ws.accept(headers=[("X-Said", "yes")])
    ws.send("hello")
    return []


def time_out(environ, start_response):
    environ["wsgi.websocket"].accept()
    raise Timeout(1)


def complain(environ, start_response):
    environ["wsgi.errors"].write("a complaint\n")
    start_response("200 OK", [("Content-Length", "0")])
    return []


def garbage(environ, start_response):
    """Answer with the number of objects that only the garbage collector can free."""
    gc.disable()
    return answer(str(gc.collect()), start_response)


def repeat(environ, start_response):
    ws = environ["wsgi.websocket"]
    for message in ws:
        ws.send(message)
    return []


running = []


def crowd(environ, start_response):
    """Take some time, and answer with the number of views that run at the same time."""
    running.append(environ)
    sleep(0.01)
    found = len(running)
    running.remove(environ)
    return answer(str(found), start_response)


def who(environ, start_response):
    return answer(repr(getcurrent()), start_response)


def patience(environ, start_response):
    """Answer with the timeout of the socket, and change the default for later ones."""
    found = environ["gunicorn.socket"].gettimeout()
    socket.setdefaulttimeout(0.1)
    return answer(str(found), start_response)


def read_too(environ, start_response):
    """Wait for the socket of an open WebSocket, and send the error."""
    ws = environ["wsgi.websocket"]
    ws.accept()
    try:
        environ["gunicorn.socket"].recv(1)
    except ConcurrentObjectUseError as problem:
        ws.send(type(problem).__name__)
    return []


_PAGES = (
    *(hint, fail, fail_late, say, time_out, complain, garbage, repeat, crowd),
    *(who, patience, read_too),
)
PAGES = {f"/{page.__name__}": page for page in _PAGES}


def application(environ, start_response):
    return PAGES.get(environ["PATH_INFO"], describe)(environ, start_response)


def pre_request(worker, request):
    worker.log.info("before %s", request.path)


def post_request(worker, request, environ, response):
    worker.log.info("after %s: %s", request.path, response.status)


class Logger(GunicornLogger):
    """A logger that needs gunicorn's own request and response."""

    def access(self, resp, req, environ, request_time):
        assert (req.path, resp.status[:3]) in {("/say", "101"), ("/plain", "200")}
        super().access(resp, req, environ, request_time)


class AtomsLogger(GunicornLogger):
    """A logger with another way to need them."""

    def atoms(self, resp, req, environ, request_time):
        assert (req.path, resp.status[:3]) in {("/say", "101"), ("/plain", "200")}
        return super().atoms(resp, req, environ, request_time)
