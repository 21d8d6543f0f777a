"""``python -m tests.support.js_site PORT``: a site whose pages use ``geventws.js``."""

if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()  # for Redis

import json
import os
import sys
from urllib.parse import parse_qsl

import gevent

from geventws import Broadcast, WebSocketServer, js
from tests.support.servers import SECONDS

HISTORY = 3


def envelope(message, id_, channel):
    return json.dumps({"id": id_, "channel": channel, "text": message})


broadcast = Broadcast(
    os.environ.get("BROADCAST_URL", "memory://"), history=HISTORY, envelope=envelope
)
#: The open WebSockets of the rooms.
sockets = set()


def page(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html")])
    path = environ["PATH_INFO"]
    if path == "/classic":
        return [f'<!doctype html><script src="{js.url("geventws.classic.js")}"></script>'.encode()]
    return [f'<!doctype html><script type="module" src="{js.url()}"></script>'.encode()]


def publish(environ, start_response):
    broadcast.publish("room", dict(parse_qsl(environ["QUERY_STRING"]))["text"])
    start_response("204 No Content", [])
    return []


def kick(environ, start_response):
    for ws in list(sockets):
        ws.close(1012)
    start_response("204 No Content", [])
    return []


def left(environ, start_response):
    """Answer when all pages have left the room."""
    has_ended = all(ws.wait_closed(SECONDS) for ws in list(sockets))
    start_response("204 No Content" if has_ended else "503 Service Unavailable", [])
    return []


def room(environ, start_response):
    """Publish what the pages send."""
    ws = environ["wsgi.websocket"]
    query = dict(parse_qsl(environ["QUERY_STRING"], keep_blank_values=True))
    sockets.add(ws)
    try:
        with broadcast.subscribe("room", ws, query.get("since")) as subscription:
            ws.send(json.dumps({"id": subscription.position, "recovered": subscription.recovered}))
            for message in ws:
                broadcast.publish("room", message)
    finally:
        sockets.discard(ws)
    return []


def rooms(environ, start_response):
    """Subscribe to two channels; the query has an id for each."""
    ws = environ["wsgi.websocket"]
    since = dict(parse_qsl(environ["QUERY_STRING"], keep_blank_values=True))
    with broadcast.subscribe(["room", "other"], ws, since) as subscriptions:
        ids = subscriptions.positions
        ws.send(json.dumps({"id": ids, "recovered": subscriptions.recovered, "since": since}))
        for _ in ws:
            pass
    return []


def echo(environ, start_response):
    ws = environ["wsgi.websocket"]
    for message in ws:
        ws.send(message)
    return []


def close(environ, start_response):
    ws = environ["wsgi.websocket"]
    code, _, reason = environ["QUERY_STRING"].partition("&")
    ws.close(int(code), reason.replace("+", " ") or "the reason")
    return []


def refuse(environ, start_response):
    start_response("403 Forbidden", [("Content-Length", "0")])
    return []


def late(environ, start_response):
    """Answer nothing for longer than a page waits."""
    gevent.sleep(SECONDS)
    return refuse(environ, start_response)


def silent(environ, start_response):
    for _ in environ["wsgi.websocket"]:
        pass
    return []


VIEWS = {
    f"/{view.__name__}": view
    for view in (publish, kick, left, room, rooms, echo, close, refuse, late, silent)
}


def site(environ, start_response):
    return VIEWS.get(environ["PATH_INFO"], page)(environ, start_response)


if __name__ == "__main__":
    server = WebSocketServer(
        ("127.0.0.1", int(sys.argv[1])), js.serve(site), trusted_proxies=["127.0.0.1"]
    )
    server.start()
    print(f"listening on http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
    server.serve_forever()
