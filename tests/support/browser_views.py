"""The views for ``browser_checks.js``. The query has their arguments."""

import contextlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from socket import SHUT_RDWR
from urllib.parse import parse_qsl

from gevent.event import AsyncResult, Event

from geventws.protocol.server_handshake import accept_key

SECONDS = 10
#: With what code and reason each named WebSocket has ended.
ENDS: defaultdict[str, AsyncResult] = defaultdict(AsyncResult)
SIGNALS: defaultdict[str, Event] = defaultdict(Event)
#: How often each path was asked for.
REQUESTS: defaultdict[str, int] = defaultdict(int)


def query(environ) -> dict[str, str]:
    return dict(parse_qsl(environ["QUERY_STRING"], keep_blank_values=True))


def socket_of(environ):
    """Return the socket, as libraries find it that speak WebSocket themselves."""
    return environ["wsgi.input"].raw._sock


def answer(start_response, data: object) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
    return [json.dumps(data).encode()]


# ------------------------------------------------------------------------- plain requests


def frame(environ, start_response):
    """A page that opens a WebSocket and tells the page around it."""
    start_response("200 OK", [("Content-Type", "text/html")])
    path = json.dumps("/talk?" + environ["QUERY_STRING"])
    return [
        b"<!doctype html><script>const ws = new WebSocket(",
        path.encode(),
        b"); ws.onopen = ws.onerror = ({type}) => parent.postMessage(type, '*');</script>",
    ]


def end(environ, start_response):
    """Wait for the end of a WebSocket, and tell its code and reason."""
    return answer(start_response, ENDS[query(environ)["id"]].get(timeout=SECONDS))


def signal(environ, start_response):
    SIGNALS[query(environ)["id"]].set()
    return answer(start_response, None)


def requests(environ, start_response):
    return answer(start_response, REQUESTS)


# ----------------------------------------------------------------------------- WebSockets


def talk(environ, start_response):
    """Echo, and remember the end."""
    ws = environ["wsgi.websocket"]
    for message in ws:
        ws.send(message)
    ENDS[query(environ).get("id", "")].set([ws.close_code, ws.close_reason])
    return []


def plain_talk(environ, start_response):
    environ["wsgi.websocket"].accept(compression=False)
    return talk(environ, start_response)


def busy(environ, start_response):
    """Receive only after a signal; then tell how many bytes have come."""
    ws = environ["wsgi.websocket"]
    ws.accept(compression=False)
    SIGNALS[query(environ)["id"]].wait(SECONDS)
    size = 0
    for message in ws:
        if message == "how much?":
            ws.send(str(size))
        size += len(message)
    ENDS[query(environ)["id"]].set([ws.close_code, ws.close_reason])
    return []


def headers(environ, start_response):
    """Tell the request."""
    names = "HTTP_COOKIE", "HTTP_ORIGIN", "HTTP_REFERER", "HTTP_CACHE_CONTROL", "QUERY_STRING"
    ws = environ["wsgi.websocket"]
    ws.send(json.dumps({name: environ.get(name) for name in names}))
    return []


def cookies(environ, start_response):
    """Set cookies with the ``101``."""
    values = json.loads(query(environ)["set"])
    environ["wsgi.websocket"].accept(headers=[("Set-Cookie", value) for value in values])
    return talk(environ, start_response)


def subprotocol(environ, start_response):
    environ["wsgi.websocket"].accept(query(environ).get("choose"))
    return talk(environ, start_response)


def refuse(environ, start_response):
    """Answer with HTTP."""
    status = query(environ)["status"]
    extra = [("Location", "/talk")] if status.startswith("3") else []
    start_response(status, [*extra, ("Content-Length", "2")])
    return [b"no"]


def basic(environ, start_response):
    if environ.get("HTTP_AUTHORIZATION") != "Basic QW5uOnNlY3JldA==":
        start_response("401 Unauthorized", [("WWW-Authenticate", 'Basic realm="checks"')])
        return [b"Who are you?\n"]
    return talk(environ, start_response)


def close(environ, start_response):
    """Close with a code and a reason, as the RFC has it."""
    arguments = query(environ)
    environ["wsgi.websocket"].close(int(arguments["code"]), arguments.get("reason", ""))
    return []


def lose(environ, start_response):
    """End TCP without a Close frame."""
    sock = socket_of(environ)
    environ["wsgi.websocket"].accept()
    sock.shutdown(SHUT_RDWR)
    return []


def frames(environ, start_response):
    """Send bytes behind the ``101`` that no WebSocket of ours sends; remember the end."""
    ws = environ["wsgi.websocket"]
    ws.accept(compression=False)
    ws._send_frames(bytes.fromhex(query(environ)["hex"]))
    return talk(environ, start_response)


def head(environ, start_response):
    """Write another ``101`` than ours, and frames, on the socket itself."""
    sock = socket_of(environ)
    arguments = query(environ)
    key = arguments.get("accept") or accept_key(environ["HTTP_SEC_WEBSOCKET_KEY"])
    lines = (
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {key}",
        *filter(None, [arguments.get("more")]),
        "\r\n",
    )
    sock.sendall("\r\n".join(lines).encode() + bytes.fromhex(arguments.get("hex", "")))
    sock.recv(1024)  # the browser's Close frame, or the end
    with contextlib.suppress(OSError):  # the browser may have reset the connection
        sock.shutdown(SHUT_RDWR)
    start_response("200 OK", [("Content-Length", "0")])
    return []


Views = dict[str, Callable[..., Iterable[bytes]]]
VIEWS: Views = {
    f"/{view.__name__.replace('_', '-')}": view
    for view in (
        frame, end, signal, requests, talk, plain_talk, busy, headers, cookies, subprotocol,
        refuse, basic, close, lose, frames, head,
    )
}  # fmt: skip
