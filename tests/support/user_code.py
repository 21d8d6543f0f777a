"""Code of a user, for the type checker: `make lint` checks it with mypy's strict mode."""

import json

from bottle import Bottle
from flask import Blueprint, Flask, abort
from flask.typing import ResponseReturnValue

from geventws import Broadcast, HandshakeError, WebSocket, WebSocketServer, connect, js, reconnect
from geventws.bottle import websocket
from geventws.flask import Sock, Sockets, SockWebSocket
from geventws.testing import connect as connect_to
from geventws.typing import Application, Message

broadcast = Broadcast(history=10)

# Flask
app = Flask(__name__)
app.wsgi_app = js.serve(app.wsgi_app)  # type: ignore[method-assign] # as Flask documents it
talk = Blueprint("talk", __name__)
sockets = Sockets(app)
sock = Sock()


@sockets.route("/sums", bp=talk)
def sums(ws: WebSocket) -> None:
    numbers: list[int] = ws.receive_json(timeout=1)
    ws.send_json({"sum": sum(numbers)})


@sockets.route("/rooms/<room>")
def enter(ws: WebSocket, room: str) -> ResponseReturnValue | None:
    if not room:
        abort(403)
    if room == "closed":
        return "This room is closed.", 403
    with broadcast.subscribe(room, ws, since=""):
        broadcast.publish(room, "hello", exclude=ws)
        is_over: bool = ws.wait_closed(timeout=1.0)
        print(is_over)
    return None


@sock.route("/echo")
def echo(ws: SockWebSocket) -> None:
    message: Message | None = ws.receive(timeout=1)
    print(message)


def main() -> None:
    sockets.run(app, host="127.0.0.1", port=8000, debug=True)


# Bottle
site = Bottle()
site.mount("/geventws/", js.application)


@websocket
def bottle_view(ws: WebSocket, room: str) -> None:
    ws.detach(receive, keep_environ=True)


def receive(ws: WebSocket, message: str | bytes) -> None:
    ws.send_json([len(message)])


# Clients
def one(url: str) -> str | bytes | None:
    with connect(url, json=json) as ws:
        ws.send_json({"a": [1]})
        return ws.receive()


def follow(url: str) -> None:
    try:
        for ws in reconnect(url, max_delay=5, headers={"Cookie": "a=b"}):
            for message in ws:
                print(message)
            if ws.wait_closed(1.0):
                break
    except HandshakeError as refusal:
        status: int = refusal.status_code
        print(status)


def test(application: Application) -> None:
    with connect_to(application, "/rooms/kitchen", json=json) as ws:
        ws.send_json([])
        print([*ws], ws.wait_closed())


def serve(application: Application) -> WebSocketServer:
    return WebSocketServer(("", 0), js.serve(application), json=json)
