"""An application under gunicorn that shows what it gets; and a worker that accepts any origin."""

import json

from gunicorn.glogging import Logger as GunicornLogger

import geventws


class Worker(geventws.Worker):
    websocket_options = {"allowed_origins": "*"}  # noqa: RUF012 - as users write it


def describe(environ, start_response):
    """Answer with the environ: of objects, the types; and whether gunicorn has parsed it."""
    seen = {
        name: value if isinstance(value, (str, bool, tuple)) else type(value).__name__
        for name, value in environ.items()
        if name not in {"wsgi.early_hints", "wsgi.websocket"}
    }
    seen["REMOTE_PORT"] = environ.get("REMOTE_PORT", "0").isdecimal()
    seen["read"] = environ["wsgi.input"].read().decode()
    hints = environ["wsgi.early_hints"]
    body = json.dumps({"parsed": not hasattr(hints, "__self__"), "environ": seen}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


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


def application(environ, start_response):
    page = {"/hint": hint, "/fail": fail, "/fail_late": fail_late, "/say": say}
    return page.get(environ["PATH_INFO"], describe)(environ, start_response)


def pre_request(worker, request):
    worker.log.info("before %s", request.path)


def post_request(worker, request, environ, response):
    worker.log.info("after %s: %s", request.path, response.status)


class Logger(GunicornLogger):
    """A logger that needs gunicorn's own request and response."""

    def access(self, resp, req, environ, request_time):
        assert (req.path, resp.status[:3]) in {("/say", "101"), ("/plain", "200")}
        super().access(resp, req, environ, request_time)
