"""``python -m tests.support.browser_site``: a site for scripts in browsers, with large messages."""

import json
import sys

from geventws import WebSocketServer

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


def cookies(environ, start_response):
    """Sets a cookie with the 101, and tells which the browser has sent."""
    ws = environ["wsgi.websocket"]
    ws.accept(headers=[("Set-Cookie", "socket=2; Path=/")])
    ws.send(environ.get("HTTP_COOKIE", ""))
    return []


def close(environ, start_response):
    """Closes with what the query says."""
    code, _, reason = environ["QUERY_STRING"].partition("-")
    environ["wsgi.websocket"].close(int(code), reason)
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
    "/": page,
    "/counts": counts,
    "/echo": echo,
    "/cookies": cookies,
    "/close": close,
    "/pour": pour,
}


def site(environ, start_response):
    view = VIEWS.get(environ["PATH_INFO"])
    if view is None:
        start_response("404 Not Found", [])
        return []
    return view(environ, start_response)


if __name__ == "__main__":
    server = WebSocketServer(("127.0.0.1", 0), site, max_message_size=32 << 20, send_timeout=60)
    server.start()
    print(f"listening on http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
    server.serve_forever()
