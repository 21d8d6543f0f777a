"""An application whose sockets are members of a channel; ``BROADCAST_URL`` says through what.

``LEASE`` is the time in seconds until the members of a killed process have left.
"""

import os

from geventws import Broadcast
from geventws.broadcast import presence

presence.LEASE = float(os.environ["LEASE"])
presence.RENEWAL = presence.LEASE / 4
broadcast = Broadcast(os.environ["BROADCAST_URL"])


def app(environ, start_response):
    ws = environ["wsgi.websocket"]
    broadcast.subscribe("room", ws, member=os.getpid(), key=environ["PATH_INFO"][1:])
    ws.detach()
    return []
