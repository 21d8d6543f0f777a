"""A TCP gateway between the workers and Redis, which fails on request."""

import contextlib
import random
import socket
from collections.abc import Callable, Iterator
from itertools import count

import gevent
from gevent import socket as gevent_socket
from gevent.event import Event
from gevent.server import StreamServer

TO_REDIS, TO_WORKERS = "to Redis", "to the workers"
#: Parts of commands that read the history. EVALSHA and FCALL call scripts.
HISTORY_COMMANDS = (b"XRANGE", b"XREVRANGE", b"EVALSHA", b"FCALL")


class Link:
    """One connection through the gateway."""

    def __init__(self, number: int, near: gevent_socket.socket, far: gevent_socket.socket) -> None:
        self.number = number
        self.near = near
        self.far = far
        #: Whether the connection has sent a SUBSCRIBE command.
        self.is_subscriber = False
        #: Whether the latest command reads the history.
        self.reads_history = False
        #: Directions in which all data is lost from now on.
        self.lost: set[str] = set()

    def note_command(self, data: bytes) -> None:
        if b"SUBSCRIBE" in data:
            self.is_subscriber = True
        is_script_of_publish = b"PUBLISH" in data
        self.reads_history = not is_script_of_publish and any(
            name in data for name in HISTORY_COMMANDS
        )

    def cut(self) -> None:
        """Close both ends. The greenlets that read from them end."""
        for end in (self.near, self.far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Gateway(StreamServer):
    """A TCP gateway to a port on this machine. All faults affect only its connections."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), self.connect)
        self.port = port
        self.links: set[Link] = set()
        #: A function that returns how many seconds a piece of data is delayed, in each direction.
        self.latency: Callable[[Link], float] | None = None
        self.is_open = True
        self._numbers = count(1)
        #: Cleared while replies of Redis are held back.
        self.passes_replies = Event()
        self.passes_replies.set()
        #: Which replies cut their connection: a function of a link and the data, and how often.
        self._cut_before: Callable[[Link, bytes], bool] | None = None
        self._cut_after: Callable[[Link, bytes], bool] | None = None
        self._cuts_left = 0
        #: How many connections the faults affected. A trial without any proves nothing.
        self.affected = 0

    # ----------------------------------------------------------------- faults

    def cut(self, chance: random.Random | None = None, *, only_subscribers: bool = False) -> None:
        """Cut all connections, or one that ``chance`` chooses. New connections are accepted."""
        links = sorted(self.links, key=lambda link: link.number)
        links = [link for link in links if link.is_subscriber or not only_subscribers]
        if chance is not None:
            links = [chance.choice(links)] if links else []
        if self._cut_before is None and self._cut_after is None:
            self.affected += len(links)
        for link in links:
            link.cut()

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Cut all connections, and refuse new ones, in a ``with`` block."""
        self.is_open = False
        self.cut()
        try:
            yield
        finally:
            self.is_open = True

    @contextlib.contextmanager
    def holding_replies(self) -> Iterator[None]:
        """Hold back all data of Redis in a ``with`` block, and pass it on afterwards."""
        self.affected += len(self.links)
        self.passes_replies.clear()
        try:
            yield
        finally:
            self.passes_replies.set()

    def lose(self, direction: str, *, only_subscribers: bool = False) -> None:
        """Lose all further data of the present connections in one direction, without closing."""
        for link in self.links:
            if link.is_subscriber or not only_subscribers:
                link.lost.add(direction)
                self.affected += 1

    @contextlib.contextmanager
    def cutting(
        self, times: int, *, before: Callable | None = None, after: Callable | None = None
    ) -> Iterator[None]:
        """Cut connections before or after some replies, at most ``times`` times, in a block.

        :param before: a function of a link and data of Redis. If it returns true, the connection
            is cut, and the data is lost.
        :param after: the same, but the data is passed on.
        """
        self._cut_before, self._cut_after, self._cuts_left = before, after, times
        try:
            yield
        finally:
            self._cut_before = self._cut_after = None

    def _cuts(self, matches: Callable[[Link, bytes], bool] | None, link: Link, data: bytes) -> bool:
        if matches is None or not self._cuts_left or not matches(link, data):
            return False
        self._cuts_left -= 1
        self.affected += 1
        return True

    def close_all(self) -> None:
        """Stop the gateway."""
        self.is_open = False
        self.passes_replies.set()
        for link in list(self.links):
            link.cut()
        self.stop(1)

    # ------------------------------------------------------------ connections

    def connect(self, near: gevent_socket.socket, _: object) -> None:
        if not self.is_open:
            return
        try:
            far = gevent_socket.create_connection(("127.0.0.1", self.port))
        except OSError:
            return  # Redis is down; the end of this greenlet closes the other connection
        with far:
            link = Link(next(self._numbers), near, far)
            self.links.add(link)
            back = gevent.spawn(self.pass_replies, link)
            self.pass_commands(link)
            link.cut()
            back.join()
            self.links.discard(link)

    def pass_commands(self, link: Link) -> None:
        with contextlib.suppress(OSError):
            while data := link.near.recv(65536):
                link.note_command(data)
                if self.latency is not None:
                    gevent.sleep(self.latency(link))
                if TO_REDIS not in link.lost:
                    link.far.sendall(data)

    def pass_replies(self, link: Link) -> None:
        with contextlib.suppress(OSError):
            while data := link.far.recv(65536):
                if self.latency is not None:
                    gevent.sleep(self.latency(link))
                self.passes_replies.wait()
                if self._cuts(self._cut_before, link, data):
                    break
                if TO_WORKERS not in link.lost:
                    link.near.sendall(data)
                if self._cuts(self._cut_after, link, data):
                    break
        link.cut()


def reads_history(link: Link, _: bytes) -> bool:
    """Match the reply to a command that reads the history."""
    return link.reads_history


def confirms_subscription(_: Link, data: bytes) -> bool:
    """Match the confirmation of SUBSCRIBE."""
    return b"$9\r\nsubscribe\r\n" in data


def is_pong(link: Link, data: bytes) -> bool:
    """Match the answer to PING on a connection for subscriptions."""
    return link.is_subscriber and b"pong" in data.lower()
