"""The clients of a trial: some listen, some publish. Each of them is a greenlet."""

import contextlib
import json
import random
import struct
from urllib.parse import quote

import gevent
from gevent.event import Event

from tests.faults.ledger import Ledger, Publication, Received, Session, session_with
from tests.support.client import CLOSE, PING, PONG, TEXT, RawClient, close_frame, frame

#: What a connection to a server raises if the server or a fault ends it.
ENDED = (OSError, EOFError, AssertionError)
#: Seconds without any data until a client gives up a connection. The server sends Pings earlier.
SILENCE = 60


class Client:
    """A client that connects again and again, and records what it receives.

    :param is_restless: whether it leaves at random moments; otherwise, it stays connected.
    :param wants_history: whether its first session has an empty ``since``.
    """

    def __init__(
        self,
        name: str,
        channel: str,
        address: tuple[str, int],
        ledger: Ledger,
        chance: random.Random,
        *,
        is_restless: bool,
        wants_history: bool,
    ) -> None:
        self.name = name
        self.channel = channel
        self.address = address
        self.ledger = ledger
        self.chance = chance
        self.is_restless = is_restless
        self.since: str | None = "" if wants_history else None
        self.session = Session(channel, None)
        self.connection: RawClient | None = None

    def run(self) -> None:
        while True:
            self.session = Session(self.channel, self.since)
            self.ledger.add_session(self.name, self.session)
            try:
                with RawClient(self.address) as self.connection:
                    self.listen(self.connection, self.session)
            except ENDED:
                pass  # it connects again
            if self.session.received:
                self.since = self.session.received[-1].id
            elif not self.since:
                self.since = None  # an empty one is for the first session
            gevent.sleep(self.chance.uniform(0.02, 0.6))

    def listen(self, connection: RawClient, session: Session) -> None:
        query = "" if session.since is None else f"?since={quote(session.since)}"
        connection.open(f"/listen/{self.channel}{query}")
        connection.sock.settimeout(SILENCE)
        leaving = None
        if self.is_restless:
            leaving = gevent.spawn_later(self.chance.uniform(0.1, 2.5), self.leave, connection)
        try:
            while (message := next_message(connection, session)) is not None:
                if isinstance(message, list):
                    session.received.append(Received(*message))
                else:
                    session.recovered = message["recovered"]
        finally:
            if leaving is not None:
                leaving.kill()

    def leave(self, connection: RawClient) -> None:
        """End the connection in one of three ways, unless the client has to stay now."""
        if not self.is_restless:
            return
        with contextlib.suppress(OSError):
            self.chance.choice(
                [connection.vanish, connection.sock.close, lambda: connection.send(GOODBYE)]
            )()

    def stay(self) -> None:
        """Do not leave any more."""
        self.is_restless = False

    def has_received(self, text: str) -> bool:
        """Whether a session has a message, and its ``recovered`` is known."""
        session = session_with(reversed(self.ledger.sessions[self.name]), text)
        return session is not None and session.recovered is not None


GOODBYE = close_frame(1000)


def next_message(connection: RawClient, session: Session | None = None) -> object:
    """Return the next message of the server, from JSON; ``None`` after a Close frame."""
    while True:
        first, payload = connection.read_frame()
        if first == PING:
            connection.send(frame(PONG, payload))
        elif first == TEXT:
            return json.loads(payload)
        elif first == CLOSE:
            if session is not None and len(payload) >= 2:
                (session.close_code,) = struct.unpack("!H", payload[:2])
            with contextlib.suppress(OSError):
                connection.send(frame(CLOSE, payload[:2]))
            return None


class Publisher:
    """A client that publishes inside the workers, through its WebSocket. It never repeats a text.

    If it loses its connection before the answer, the outcome is unknown.
    """

    def __init__(
        self,
        name: str,
        channels: list[str],
        address: tuple[str, int],
        ledger: Ledger,
        chance: random.Random,
        pause: float,
    ) -> None:
        self.name = name
        self.channels = channels
        self.address = address
        self.ledger = ledger
        self.chance = chance
        self.pause = pause
        self.number = 0
        self.stopped = Event()

    def run(self) -> None:
        while not self.stopped.is_set():
            try:
                with RawClient(self.address) as connection:
                    connection.open("/publish")
                    connection.sock.settimeout(SILENCE)
                    while not self.stopped.is_set():
                        self.publish(connection)
                        self.stopped.wait(self.pause * self.chance.uniform(0, 2))
                    connection.send(GOODBYE)
            except ENDED:
                self.stopped.wait(0.1)

    def publish(self, connection: RawClient) -> None:
        self.number += 1
        channel = self.chance.choice(self.channels)
        text = f"{self.name}:{self.number}"
        publication = Publication(channel, self.name, self.number, text, None)
        self.ledger.add_publication(publication)
        connection.send(frame(TEXT, json.dumps([channel, text])))
        answer = next_message(connection)
        if answer is None:
            raise EOFError("the server has closed the connection")
        assert isinstance(answer, list)
        assert answer[0] == text
        publication.id = answer[1]
