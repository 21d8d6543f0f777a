"""Connect to a host by whichever of its addresses answers first (Happy Eyeballs, RFC 8305)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import EAGAIN, EINPROGRESS, EWOULDBLOCK
from itertools import islice, zip_longest
from typing import Any

from gevent import get_hub
from gevent.queue import Empty, Queue
from gevent.socket import getaddrinfo
from gevent.socket import socket as gevent_socket
from gevent.timeout import Timeout

#: What getaddrinfo() returns of one address: family, type, protocol, name and address.
_Info = tuple[Any, ...]

#: Seconds between two attempts: the "Connection Attempt Delay" of RFC 8305 section 5.
_DELAY = 0.25
#: How many addresses of one host are tried. A hostile name server could send thousands.
_MAX_ADDRESSES = 32
_WRITE = 2
_IN_PROGRESS = {0, EINPROGRESS, EWOULDBLOCK, EAGAIN}


class Expired(Timeout):
    """The time limit of :func:`time_limit` is over.

    Not an :exc:`Exception`, so that no ``except OSError`` inside of the limit swallows it.
    """


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Limit the time that a block may take; None sets no limit.

    :raises TimeoutError: when the time is over.
    """
    timer = Expired(seconds)
    timer.start()
    try:
        yield
    except Expired as expired:
        if expired is not timer:
            raise
        raise TimeoutError(f"the connection is not open after {seconds} seconds") from None
    finally:
        timer.close()


def dial(host: str, port: int) -> Any:
    """Return a gevent socket that is connected to a host.

    Attempts start 250 ms after each other, or as soon as one has failed; the first that succeeds
    wins, and the others are closed. Blocks as long as the operating system does: set a
    :func:`time_limit`.

    :raises OSError: if all attempts fail; its text has the reason for each address.
    """
    race = _Race()
    try:
        for info in _in_order(getaddrinfo(host, port, 0, socket.SOCK_STREAM)):
            if race.start(info) and (winner := race.wait(_DELAY)):
                return winner
        while race.is_running:
            if winner := race.wait(None):
                return winner
        raise race.error(host, port)
    finally:
        race.close()


def _in_order(infos: Iterable[_Info]) -> Iterator[_Info]:
    """Alternate between the families, beginning with the preferred one, RFC 8305 section 4."""
    families: dict[Any, list[_Info]] = {}
    for info in dict.fromkeys(infos):
        families.setdefault(info[0], []).append(info)
    mixed = (info for group in zip_longest(*families.values()) for info in group if info)
    return islice(mixed, _MAX_ADDRESSES)


class _Race:
    """The attempts to connect that are under way, without a greenlet for any of them."""

    def __init__(self) -> None:
        #: The sockets that are being connected, with their addresses and watchers.
        self._runners: dict[Any, tuple[str, Any]] = {}
        #: The sockets whose attempts have ended, one way or the other.
        self._ended: Queue[Any] = Queue()
        #: By address.
        self._failures: list[tuple[str, int]] = []

    @property
    def is_running(self) -> bool:
        return bool(self._runners)

    def start(self, info: _Info) -> bool:
        """Begin to connect to an address; returns whether it has not failed at once."""
        family, kind, proto, _, address = info
        try:
            sock = gevent_socket(family, kind, proto)
        except OSError as problem:  # a family that the system does not have
            self._failures.append((address[0], problem.errno or 0))
            return False
        sock.setblocking(False)
        error = sock.connect_ex(address)
        if error not in _IN_PROGRESS:
            sock.close()
            self._failures.append((address[0], error))
            return False
        watcher = get_hub().loop.io(sock.fileno(), _WRITE)
        self._runners[sock] = address[0], watcher
        watcher.start(self._note_end, sock)
        return True

    def _note_end(self, sock: Any) -> None:
        """Wake :meth:`wait`; in the hub."""
        self._runners[sock][1].stop()
        self._ended.put_nowait(sock)

    def wait(self, seconds: float | None) -> Any:
        """Return the socket that has connected; None if one has failed or the time is over."""
        try:
            sock = self._ended.get(timeout=seconds)
        except Empty:
            return None
        address, watcher = self._runners.pop(sock)
        watcher.close()
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            sock.close()
            self._failures.append((address, error))
            return None
        sock.settimeout(None)
        return sock

    def error(self, host: str, port: int) -> OSError:
        """Tell why each of the addresses could not be connected to."""
        if not self._failures:
            return OSError(f"cannot connect to {host} port {port}: it has no address")
        reasons = [f"{address}: {os.strerror(error)}" for address, error in self._failures]
        _, error = self._failures[0]
        return OSError(error, f"cannot connect to {host} port {port}: {'; '.join(reasons)}")

    def close(self) -> None:
        """Give up what is still under way."""
        for sock, (_, watcher) in self._runners.items():
            watcher.close()
            sock.close()
        self._runners.clear()
