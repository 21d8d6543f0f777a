"""A Socket.IO application on the servers of geventws, which does not call ``install()``.

``python -m tests.support.socketio_servers PORT HOW``; nothing is hidden: python-engineio finds
simple-websocket, or what has the name of gevent-websocket.
"""

import sys

import socketio
from gevent.pywsgi import WSGIServer

from geventws import WebSocketHandler, WebSocketMiddleware, WebSocketServer
from tests.support.socketio_events import make_server

app = socketio.WSGIApp(make_server(max_http_buffer_size=4 << 20))

if __name__ == "__main__":
    address, how = ("127.0.0.1", int(sys.argv[1])), sys.argv[2]
    print(f"http://127.0.0.1:{address[1]}", file=sys.stderr, flush=True)
    if how == "server":
        WebSocketServer(address, app).serve_forever()
    elif how == "handler":
        WSGIServer(address, app, handler_class=WebSocketHandler).serve_forever()
    elif how == "middleware":
        WSGIServer(address, WebSocketMiddleware(app)).serve_forever()
    else:
        import geventws.compat

        geventws.compat.install_as_geventwebsocket()
        from geventwebsocket.handler import WebSocketHandler as OldHandler

        WSGIServer(address, app, handler_class=OldHandler).serve_forever()
