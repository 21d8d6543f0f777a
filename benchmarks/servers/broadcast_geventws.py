"""A broadcast to all who are connected, in any number of processes: see ../broadcast.py."""

import os

from geventws import Broadcast

broadcast = Broadcast(os.environ["BROADCAST_URL"])


def app(environ, start_response):
    ws = environ["wsgi.websocket"]
    with broadcast.subscribe(environ["PATH_INFO"], ws):
        for message in ws:
            broadcast.publish(environ["PATH_INFO"], message)
    return []
