"""An application of the library simple-websocket, which takes the socket and sends its own 101."""

import simple_websocket

from geventws import WebSocketMiddleware


def echo(environ, start_response):
    ws = simple_websocket.Server(environ)
    try:
        while True:
            ws.send(ws.receive())
    except simple_websocket.ConnectionClosed:
        print("the view has ended", flush=True)
    raise StopIteration  # as flask-sock does under gunicorn


app = WebSocketMiddleware(echo, accept_after=0.25)
