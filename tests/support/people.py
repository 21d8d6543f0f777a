"""Clients of the application for tests of a broadcast across processes, and the application."""

import contextlib
from urllib.parse import urlencode

import gevent
import pytest

from tests.support.client import PING, PONG, TEXT, frame, request
from tests.support.servers import serving
from tests.support.tools import SECONDS

APP = "tests.support.broadcasting:app"


@pytest.fixture
def serve_broadcast(tmp_path):
    """``with serve_broadcast(url, workers=1)`` serves the tests' broadcasting application."""

    @contextlib.contextmanager
    def start(url, workers=0, history=0):
        arguments = ["-m", "geventws", APP, "--bind", "127.0.0.1:0"]
        if workers:
            arguments = [
                "-m",
                "gunicorn",
                "-k",
                "geventws.Worker",
                "-w",
                str(workers),
                APP,
                "-b",
                "127.0.0.1:0",
                "--graceful-timeout",
                "2",
            ]
        settings = {"BROADCAST_URL": url, "HISTORY": str(history)}
        with serving(arguments, tmp_path / "log", **settings) as process:
            process.people = []
            try:
                yield process
            finally:
                for person in process.people:
                    person.leave()

    return start


class Person:
    """A client that has subscribed."""

    def __init__(self, process, channel="room", since=None, **query):
        query["since"] = since
        query = urlencode({name: value for name, value in query.items() if value is not None})
        self.client = process.client().open(f"/{channel}?{query}")
        self.client.sock.settimeout(SECONDS)
        process.people.append(self)
        #: Messages that came before the word that it is subscribed: its history.
        self.heard = []
        while not (text := self.hear()).startswith("ready "):
            self.heard.append(text)
        _, self.pid, self.recovered, self.position = text.split(" ")

    def hear(self):
        first, payload = self.client.read_frame()
        while first == PING:  # on a busy machine, 20 seconds pass without a message
            self.client.send(frame(PONG, payload))
            first, payload = self.client.read_frame()
        assert first == TEXT, (first, payload)
        return payload.decode()

    def hear_data(self):
        """The next message, without its id."""
        return self.hear().split(" ", 1)[1]

    def say(self, text):
        self.client.send(frame(TEXT, text))

    def leave(self):
        self.client.sock.close()


def join_everywhere(process, workers, channel="room"):
    """Someone in each of the workers."""
    people = {}
    with gevent.Timeout(SECONDS):
        while len(people) < workers:
            person = Person(process, channel)
            if people.setdefault(person.pid, person) is not person:
                person.leave()
    return list(people.values())


def get(process, path):
    with process.client() as client:
        client.sock.settimeout(SECONDS)
        client.send(request(path, without="Upgrade"))
        return client.read_response()[1].decode()


def check_fork(process, channel):
    """A forked child publishes, and its parent goes on: a client hears both."""
    person = Person(process, channel)
    forking = gevent.spawn(get, process, f"/fork/{channel}")
    heard = [person.hear_data()]
    while heard[-1] != "last":
        heard.append(person.hear_data())
    assert forking.get(timeout=SECONDS) == "forked"
    for name in ("child", "parent"):
        own = [text for text in heard if text.startswith(name)]
        assert own == [f"{name} {number}" for number in range(20)]
    assert len(heard) == 41
    assert "does not work" not in process.output
