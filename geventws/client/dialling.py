"""Connect to a host through the first of its addresses that answers (Happy Eyeballs, RFC 8305)."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from errno import EAFNOSUPPORT, EAGAIN, EINPROGRESS, EWOULDBLOCK
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any, TypeAlias

from gevent import get_hub, sleep
from gevent.queue import Empty, Queue
from gevent.socket import getaddrinfo
from gevent.socket import socket as gevent_socket
from gevent.timeout import Timeout

from ..connection.tcp import HAS_UNIX_SOCKETS, NO_UNIX_SOCKETS, describe_error

if TYPE_CHECKING:
    from gevent._types import _IoWatcher

# Any: an address is a tuple that depends on the family.
#: One result of getaddrinfo(): family, type, protocol, canonical name and address.
_Info: TypeAlias = "tuple[int, int, int, str, tuple[Any, ...]]"

#: Seconds between two attempts, the "Connection Attempt Delay" of RFC 8305 section 5.
_DELAY = 0.25
#: Seconds between two attempts to enter the full queue of a unix socket.
_RETRY = 0.02
#: The maximum number of addresses that are tried. A hostile DNS server could send thousands.
_MAX_ADDRESSES = 32
#: The event of libev and libuv for a writable socket.
_WRITE = 2
_IN_PROGRESS = {0, EINPROGRESS, EWOULDBLOCK, EAGAIN}


class Expired(Timeout):
    """The timeout of a :func:`time_limit` block.

    It is not an :exc:`Exception`: no ``except OSError`` in the block can catch it.
    """


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Limit the time of a ``with`` block; ``None`` sets no limit.

    :raises TimeoutError: if the block takes longer.
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


def dial(host: str, port: int) -> gevent_socket:
    """Return a gevent socket that is connected to a host.

    An attempt for the next address starts after 250 ms, or as soon as one has failed. The first
    connection is returned, and the other sockets are closed. Blocks as long as the operating system
    tries to connect: use :func:`time_limit`.

    :raises OSError: if all attempts fail. The text has the reason for each address.
    """
    attempts = _Attempts()
    try:
        for info in _sort_addresses(getaddrinfo(host, port, 0, socket.SOCK_STREAM)):
            if attempts.start(info) and (connected := attempts.wait(_DELAY)):
                return connected
        while attempts.are_running:
            if connected := attempts.wait(None):
                return connected
        raise attempts.error(host, port)
    finally:
        attempts.close()


def dial_unix(path: str) -> gevent_socket:
    """Return a gevent socket that is connected to a unix socket. Blocks while its queue is full.

    :raises OSError: if nobody listens there, or there are no unix sockets.
    """
    if not HAS_UNIX_SOCKETS:
        raise OSError(EAFNOSUPPORT, f"cannot connect to {path}: {NO_UNIX_SOCKETS}")
    sock = gevent_socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while error := sock.connect_ex(path):
            if error not in _IN_PROGRESS:
                raise OSError(error, f"cannot connect to {path}: {describe_error(error)}")
            sleep(_RETRY)  # a unix socket never reports that the queue has a place again
        sock.settimeout(None)
    except BaseException:
        sock.close()
        raise
    return sock


def _sort_addresses(infos: Iterable[_Info]) -> Iterator[_Info]:
    """Alternate between the families, the preferred one first (RFC 8305 section 4)."""
    families: dict[int, list[_Info]] = {}
    for info in dict.fromkeys(infos):
        families.setdefault(info[0], []).append(info)
    mixed = (info for group in zip_longest(*families.values()) for info in group if info)
    return islice(mixed, _MAX_ADDRESSES)


class _Attempts:
    """The current attempts to connect. They do not need a greenlet each."""

    def __init__(self) -> None:
        #: The address and the watcher of each socket that is being connected.
        self._running: dict[gevent_socket, tuple[str, _IoWatcher]] = {}
        #: The sockets whose attempts have succeeded or failed.
        self._ended: Queue[gevent_socket] = Queue()
        #: The address and the errno of each failed attempt.
        self._failures: list[tuple[str, int]] = []

    @property
    def are_running(self) -> bool:
        return bool(self._running)

    def start(self, info: _Info) -> bool:
        """Start to connect to an address. Return ``False`` if the attempt fails immediately."""
        family, kind, proto, _, address = info
        try:
            sock = gevent_socket(family, kind, proto)
        except OSError as problem:  # the system does not support this family
            self._failures.append((address[0], problem.errno or 0))
            return False
        sock.setblocking(False)
        error = sock.connect_ex(address)
        if error not in _IN_PROGRESS:
            sock.close()
            self._failures.append((address[0], error))
            return False
        watcher = get_hub().loop.io(sock.fileno(), _WRITE)
        self._running[sock] = address[0], watcher
        watcher.start(self._note_end, sock)
        return True

    def _note_end(self, sock: gevent_socket) -> None:
        """Wake :meth:`wait`. Called in the hub."""
        self._running[sock][1].stop()
        self._ended.put_nowait(sock)

    def wait(self, seconds: float | None) -> gevent_socket | None:
        """Return a connected socket, or ``None`` after a failed attempt or the timeout."""
        try:
            sock = self._ended.get(timeout=seconds)
        except Empty:
            return None
        address, watcher = self._running.pop(sock)
        watcher.close()
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            sock.close()
            self._failures.append((address, error))
            return None
        sock.settimeout(None)
        return sock

    def error(self, host: str, port: int) -> OSError:
        """Return an exception with the reason for each address."""
        if not self._failures:
            return OSError(f"cannot connect to {host} port {port}: it has no address")
        reasons = [f"{address}: {describe_error(error)}" for address, error in self._failures]
        _, error = self._failures[0]
        return OSError(error, f"cannot connect to {host} port {port}: {'; '.join(reasons)}")

    def close(self) -> None:
        """Cancel the attempts that have not ended."""
        for sock, (_, watcher) in self._running.items():
            watcher.close()
            sock.close()
        self._running.clear()
