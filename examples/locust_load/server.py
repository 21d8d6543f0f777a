"""The server that is tested: an echo, and a room in which everybody gets every message."""

from geventws import Broadcast

broadcast = Broadcast("memory://")


def app(environ, start_response):
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("400 Bad Request", [("Content-Type", "text/plain")])
        return [b"Expected a WebSocket request.\n"]
    if environ["PATH_INFO"] == "/echo":
        for message in ws:
            ws.send(message)
    else:
        with broadcast.subscribe("room", ws):
            for message in ws:
                broadcast.publish("room", message)
    return []
