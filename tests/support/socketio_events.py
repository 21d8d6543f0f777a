"""The events of a Socket.IO server that the JavaScript client of the tests knows."""

import sys

import socketio


def make_server(**options) -> socketio.Server:
    server = socketio.Server(async_mode="gevent", **options)

    @server.event
    def add(sid, a, b):
        return a + b

    @server.event
    def reverse(sid, data):
        return data[::-1]

    @server.event
    def join(sid, room):
        server.enter_room(sid, room)
        return True

    @server.event
    def say(sid, room, text):
        server.emit("said", text, room=room)

    @server.event
    def drop(sid):
        server.disconnect(sid)

    @server.event
    def disconnect(sid, reason):
        print("somebody has left:", reason, file=sys.stderr, flush=True)

    return server
