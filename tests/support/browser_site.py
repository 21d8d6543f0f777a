"""``python -m tests.support.browser_site``: a site for scripts in browsers, with large messages."""

import json
import sys

from geventws import WebSocketServer
from tests.support import browser_views

#: What the views that tell it count.
COUNTS = {"sent": 0, "open": 0, "left": []}
CHUNK = b"x" * (1 << 20)
CHUNKS = 64


def page(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html"), ("Set-Cookie", "page=1; Path=/")])
    return [b"<!doctype html><title>Scripts run here</title>"]


def counts(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(COUNTS).encode()]


def echo(environ, start_response):
    ws = environ["wsgi.websocket"]
    ws.accept()
    COUNTS["open"] += 1
    for message in ws:
        ws.send(message)
    COUNTS["open"] -= 1
    COUNTS["left"].append(ws.close_code)
    return []


def pour(environ, start_response):
    """Sends more than any buffer holds, as fast as the browser takes it."""
    ws = environ["wsgi.websocket"]
    COUNTS["sent"] = 0
    for _ in range(CHUNKS):
        ws.send(CHUNK, compress=False)
        COUNTS["sent"] += 1
    return []


VIEWS = {
    **browser_views.VIEWS,
    "/": page,
    "/counts": counts,
    "/echo": echo,
    "/pour": pour,
}


def site(environ, start_response):
    browser_views.REQUESTS[environ["PATH_INFO"]] += 1
    view = VIEWS.get(environ["PATH_INFO"])
    if view is None:
        start_response("404 Not Found", [])
        return []
    return view(environ, start_response)


if __name__ == "__main__":
    certificate, key = sys.argv[1:]
    for tls in {}, {"certfile": certificate, "keyfile": key}:
        server = WebSocketServer(
            ("127.0.0.1", 0), site, max_message_size=32 << 20, send_timeout=60, **tls
        )
        server.start()
        scheme = "https" if tls else "http"
        print(
            f"listening on {scheme}://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True
        )
    server.serve_forever()
