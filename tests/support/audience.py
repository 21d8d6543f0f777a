"""Clients of the application in :mod:`tests.support.broadcasting`."""

from tests.support.client import PING, PONG, TEXT, frame, request

SECONDS = 15  # nothing that they wait for takes so long


class Subscriber:
    """A client that has subscribed."""

    def __init__(self, process, channel="room", since=None):
        query = "" if since is None else f"?since={since}"
        self.client = process.client().open(f"/{channel}{query}")
        self.client.sock.settimeout(SECONDS)
        process.subscribers.append(self)  # the test closes it at the end
        #: The messages before the word that it is subscribed: its history.
        self.replayed = []
        while not (text := self.receive()).startswith("ready "):
            self.replayed.append(text)
        _, self.pid, self.recovered = text.split(" ")

    def read_frame(self):
        first, payload = self.client.read_frame()
        while first == PING:  # on a busy machine, 20 seconds pass without a message
            self.client.send(frame(PONG, payload))
            first, payload = self.client.read_frame()
        return first, payload

    def receive(self):
        """The next message, with its id."""
        first, payload = self.read_frame()
        assert first == TEXT, (first, payload)
        return payload.decode()

    def receive_data(self):
        """The next message, without its id."""
        return self.receive().split(" ", 1)[1]

    def send(self, text):
        self.client.send(frame(TEXT, text))

    def close(self):
        self.client.sock.close()


def get(process, path):
    """The body of the response to a plain request."""
    with process.client() as client:
        client.send(request(path, without="Upgrade"))
        return client.read_response()[1].decode()
