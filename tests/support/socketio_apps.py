"""The same Socket.IO events with python-socketio and with Flask-SocketIO."""

import sys

import flask
import flask_socketio
import socketio

from tests.support.socketio_events import make_server

MEBIBYTES = 4 << 20  # more than the default max_message_size of geventws

server = make_server(max_http_buffer_size=MEBIBYTES)
plain_app = socketio.WSGIApp(server)

flask_app = flask.Flask(__name__)
flask_socketio_ = flask_socketio.SocketIO(
    flask_app, async_mode="gevent", max_http_buffer_size=MEBIBYTES
)
on = flask_socketio_.on


@flask_app.route("/page")
def page():
    return "a page"


@on("add")
def flask_add(a, b):
    return a + b


@on("reverse")
def flask_reverse(data):
    return data[::-1]


@on("join")
def flask_join(room):
    flask_socketio.join_room(room)
    return True


@on("say")
def flask_say(room, text):
    flask_socketio.emit("said", text, to=room)


@on("drop")
def flask_drop():
    flask_socketio.disconnect()


@on("disconnect")
def flask_disconnect(reason):
    print("somebody has left:", reason, file=sys.stderr, flush=True)
