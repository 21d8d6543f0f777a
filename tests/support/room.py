"""A room: a server whose sockets subscribe to a Broadcast within the test's process."""

from urllib.parse import parse_qs

import pytest

from geventws import Broadcast
from tests.support.client import TEXT
from tests.support.tools import wait_until


class Room:
    """A server whose sockets subscribe to the channels that their path names."""

    def __init__(self, serve, broadcast, **options):
        self.broadcast = broadcast
        self.subscriptions = []
        self.clients = []
        self.server = serve(self.view, **options)
        #: What a view does with a message.
        self.react = lambda ws, channel, message: broadcast.publish(channel, message)

    def view(self, environ, start_response):
        ws = environ["wsgi.websocket"]
        channel = environ["PATH_INFO"][1:]
        since = parse_qs(environ["QUERY_STRING"]).get("since", [None])[0]
        with self.broadcast.subscribe(channel, ws, since) as subscription:
            self.subscriptions.append(subscription)
            for message in ws:
                self.react(ws, channel, message)
        self.subscriptions.remove(subscription)
        return []

    def join(self, channel="room", since=None, headers=(), **options):
        """A client that is subscribed."""
        count = len(self.subscriptions)
        query = "" if since is None else f"?since={since}"
        client = self.server.client(**options).open(f"/{channel}{query}", headers)
        self.clients.append(client)
        wait_until(lambda: len(self.subscriptions) > count)
        return client


@pytest.fixture
def make_room(serve):
    rooms = []

    def make(broadcast=None, **options):
        room = Room(serve, broadcast or Broadcast(), **options)
        rooms.append(room)
        return room

    yield make
    for room in rooms:
        for client in room.clients:
            client.sock.close()


def texts(client, count):
    """The next messages, which are text."""
    frames = [client.read_frame() for _ in range(count)]
    assert {first for first, _ in frames} <= {TEXT}
    return [payload.decode() for _, payload in frames]
