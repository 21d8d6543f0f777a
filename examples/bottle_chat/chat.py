"""A chat with rooms, made of Bottle and geventws: ``python chat.py``, then open the address.

A page connects to ``/ws/<room>?name=<name>``. From then on a WebSocket carries JSON both ways:
the page sends ``{"text": "…"}`` and gets the events that `rooms` makes. When it comes back, it adds
``since=<id>``, the id of the last message that it has, and gets the messages that it has missed.
"""

# The first thing of all is to make Python's blocking calls cooperative, hence imports below it:
# ruff: noqa: E402
from gevent import monkey

# Bottle keeps the current request in a `threading.local`. Here every request has a greenlet and
# all of them share a thread; patched, each greenlet has its own. The same line makes whatever you
# add later (a database, `requests`, `time.sleep`) stop one greenlet instead of the whole chat.
monkey.patch_all()

import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import gevent
from bottle import Bottle, HTTPResponse, request, response, static_file
from rooms import TEXT_LIMIT, CrowdedError, Member, RefusedError, Rooms, clean_text

from geventws import WebSocket, WebSocketError, WebSocketServer, js

STATIC = Path(__file__).parent / "static"

app = Bottle()
app.mount("/geventws/", js.application)  # the script with which the page connects
# With Redis any number of workers are one chat: BROADCAST_URL=redis://localhost
rooms = Rooms(os.environ.get("BROADCAST_URL", "memory://"))


@app.get("/")
def page() -> HTTPResponse:
    return static_file("index.html", root=STATIC)


@app.get("/static/<path:path>")
def static(path: str) -> HTTPResponse:
    return static_file(path, root=STATIC)


@app.get("/check/")
@app.get("/check/<room_name:path>")
def check(room_name: str = "") -> HTTPResponse:
    """Return whether a user may enter a room.

    A page asks before it connects: browsers hide from it why a WebSocket was refused.
    """
    try:
        rooms.check(room_name, request.query.name)
    except RefusedError as refusal:
        return refuse(refusal)
    return HTTPResponse(status=204)


@app.get("/ws/")
@app.get("/ws/<room_name:path>")
def chat(room_name: str = "") -> HTTPResponse | None:
    """Take one person through the chat, from joining to leaving: one greenlet each."""
    ws = request.environ.get("wsgi.websocket")
    if ws is None:
        return plain_text(426, "This address is for WebSockets.", Upgrade="websocket")
    # As long as nothing was done with `ws`, any HTTP response can still be the answer.
    try:
        member = rooms.check(room_name, request.query.name)
    except RefusedError as refusal:
        return refuse(refusal)
    with suppress(WebSocketError):  # Whoever leaves in the middle of a sentence is no error.
        converse(ws, member, request.query.since)
    return None


def converse(ws: WebSocket, member: Member, since: str) -> None:
    """Send the room's events to a page, and the page's messages to the room."""
    # This accepts the WebSocket.
    names = {"room": member.room, "name": member.name}
    limits = {"text_limit": TEXT_LIMIT, "keeps_messages": rooms.keep_messages}
    ws.send_json({"type": "welcome", **names, **limits})
    with member.join(ws, since) as subscription:  # First come the messages that it has missed.
        # False if some messages are no longer kept.
        recovered = subscription.recovered
        ws.send_json({"type": "recovered", "recovered": recovered, "id": subscription.position})
        while True:  # It ends when the connection does: receive_json() raises ConnectionClosed.
            try:
                member.say(clean_text(ws.receive_json()))
            except RefusedError as refusal:
                ws.send_json({"type": "refused", "reason": str(refusal)})


@app.hook("after_request")
def protect() -> None:
    """Allow pages to use only the files of this server, even after an injection of HTML."""
    response.set_header(
        "Content-Security-Policy",
        "; ".join(
            [
                "default-src 'none'",
                "script-src 'self'",
                "style-src 'self'",
                "img-src 'self'",
                "connect-src 'self'",
                "base-uri 'none'",
                "form-action 'none'",
                "frame-ancestors 'none'",
            ]
        ),
    )
    response.set_header("X-Content-Type-Options", "nosniff")
    response.set_header("Referrer-Policy", "no-referrer")
    response.set_header("Cache-Control", "no-cache")  # ask again, so that an edited file shows up


def refuse(refusal: RefusedError) -> HTTPResponse:
    return plain_text(503 if isinstance(refusal, CrowdedError) else 400, str(refusal))


def plain_text(status: int, text: str, **headers: str) -> HTTPResponse:
    return HTTPResponse(text + "\n", status, Content_Type="text/plain; charset=utf-8", **headers)


def main() -> None:
    port = int(os.environ.get("PORT", "8080"))
    server = WebSocketServer(("0.0.0.0", port), app)
    try:
        server.start()
    except OSError as error:
        reason = str(error.strerror).partition(":")[0]  # gevent appends the address
        sys.exit(f"Cannot listen on port {port} ({reason}). Set PORT to use another one.")
    port = server.server_port  # The system has selected it if PORT is 0.
    print(f"Chat on http://127.0.0.1:{port}/ (Ctrl-C stops it)")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # Sends nothing: it only makes the system pick a route.
        print(f"For phones in this network: http://{probe.getsockname()[0]}:{port}/")
    sys.stdout.flush()
    # Stopping closes every WebSocket with code 1001, "going away", upon which pages reconnect.
    # A plain KeyboardInterrupt would do the same, but hit whichever greenlet happens to run.
    for number in signal.SIGINT, signal.SIGTERM:
        gevent.signal_handler(number, server.stop)
    server.serve_forever()


if __name__ == "__main__":
    main()
