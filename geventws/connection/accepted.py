"""A gevent socket for a connection that has been accepted."""

from __future__ import annotations

import os
import socket
from typing import Any

from gevent import get_hub
from gevent.socket import socket as gevent_socket

from ._arrivals import DirectSocket


class AcceptedSocket(gevent_socket):
    """A gevent socket that creates its watchers when a greenlet has to wait, which is rare."""

    __slots__ = ("_reader", "_writer")

    timeout: float | None  # an attribute that the annotations of gevent's class do not have
    _sock: Any  # as a socket of the operating system

    # Like gevent's, which also creates the watchers, and makes the descriptor non-blocking.
    def __init__(self, sock: DirectSocket) -> None:
        self.hub = get_hub()
        self.timeout = socket.getdefaulttimeout()
        self._closed = False
        self._io_refs = 0
        self._sock = sock
        #: The watchers: ``False`` before they are created, ``None`` after close().
        self._reader: Any = False
        self._writer: Any = False

    def _watcher(self, events: int) -> Any:
        # gevent's handler closes _sock before this object.
        descriptor = self._sock.fileno()
        return None if descriptor < 0 else self.hub.loop.io(descriptor, events)

    @property
    def _read_event(self) -> Any:
        if self._reader is False:
            self._reader = self._watcher(1)
        return self._reader

    @_read_event.setter
    def _read_event(self, watcher: Any) -> None:
        self._reader = watcher

    @property
    def _write_event(self) -> Any:
        if self._writer is False:
            self._writer = self._watcher(2)
        return self._writer

    @_write_event.setter
    def _write_event(self, watcher: Any) -> None:
        self._writer = watcher

    # Any: passed on to gevent's method.
    def send(self, data: Any, *arguments: Any, **keywords: Any) -> int:
        sent = 0
        if type(data) is bytes and not arguments and not keywords and not self._closed:
            sent = self._sock.try_send(data)
        return sent or super().send(data, *arguments, **keywords)

    # Any: another class than gevent's annotation.
    def dup(self) -> Any:
        """Return a socket of gevent for a duplicate of the descriptor."""
        sock = gevent_socket(self.family, self.type, self.proto, os.dup(self.fileno()))
        sock.settimeout(self.timeout)
        return sock

    def disown(self) -> DirectSocket:
        """Return the socket of the operating system.

        From now on, ``close()`` has no effect, and no greenlet can wait for this socket.
        """
        self._io_refs += 1
        for watcher in (self._reader, self._writer):
            if watcher:
                watcher.close()
        self._reader = self._writer = None
        sock: DirectSocket = self._sock
        return sock
