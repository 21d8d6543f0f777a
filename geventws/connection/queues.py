"""The two buffers of a connection, both with a bound in bytes.

A connection has a buffer only while it is not empty: a ``deque`` takes 600 bytes.
"""

from __future__ import annotations

from collections import deque
from sys import getsizeof
from typing import TYPE_CHECKING, Any

from gevent.event import Event

from .tcp import HAS_SENDMSG, MAX_RECORD

if TYPE_CHECKING:
    from gevent._types import _IoWatcher

    from ..options import Options

#: Pieces of output below this size in bytes are joined: an object for each would take more than
#: its bytes.
_SMALL = 4 << 10
#: The maximum number of buffers for sendmsg(). IOV_MAX is at least 1024 where gevent runs.
_MAX_VECTOR = 64


class ReceiveQueue:
    """Messages that were parsed before the view asked for them."""

    __slots__ = ("_max_bytes", "_max_messages", "_messages", "size")

    def __init__(self, options: Options) -> None:
        self._messages: deque[str | bytes] = deque()
        self._max_messages = options.max_queued_messages
        self._max_bytes = options.max_queued_bytes
        #: In bytes of memory.
        self.size = 0

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def is_full(self) -> bool:
        """Whether reading from the peer must stop."""
        return len(self._messages) >= self._max_messages or self.size >= self._max_bytes

    def put(self, message: str | bytes) -> None:
        """Append a message."""
        self._messages.append(message)
        self.size += getsizeof(message)

    def take(self) -> str | bytes:
        """Remove the oldest message and return it."""
        message = self._messages.popleft()
        self.size -= getsizeof(message)
        return message


class SendBuffer:
    """Output that waits for room in the kernel."""

    __slots__ = ("_limit", "_pieces", "room", "size", "watcher")

    def __init__(self, limit: int, watcher: _IoWatcher) -> None:
        #: The loop's watcher, which calls when the kernel has room.
        self.watcher = watcher
        self._pieces: deque[bytes | bytearray | memoryview] = deque()
        self._limit = limit
        #: In bytes.
        self.size = 0
        #: Set when half of the buffer is free again.
        self.room = Event()

    @property
    def is_full(self) -> bool:
        """Whether ``send()`` must block."""
        return self.size >= self._limit

    def append(self, data: bytes | memoryview) -> None:
        """Add output; small pieces are copied into one."""
        last = self._pieces[-1] if self._pieces else None
        if len(data) >= _SMALL:
            self._pieces.append(data)
        elif isinstance(last, bytearray) and len(last) < _SMALL:
            last += data
        else:
            self._pieces.append(bytearray(data))
        self.size += len(data)

    def write_to(self, raw: Any, is_tls: bool) -> None:
        """Write as much as the socket takes.

        :raises OSError: as the socket does, also when it would block.
        """
        while self._pieces:
            if is_tls or not HAS_SENDMSG:
                # After a refusal, OpenSSL must get the same bytes again. For more than one
                # record, it does not report how many bytes it has sent.
                sent = raw.send(memoryview(self._pieces[0])[:MAX_RECORD])
            else:
                count = min(len(self._pieces), _MAX_VECTOR)
                sent = raw.sendmsg([self._pieces[i] for i in range(count)])
            if not sent:
                return  # gevent's TLS sockets return 0 when they would block
            self._remove(sent)

    def _remove(self, sent: int) -> None:
        """Remove ``sent`` bytes from the beginning."""
        self.size -= sent
        while sent:
            size = len(self._pieces[0])
            if sent < size:
                self._pieces[0] = memoryview(self._pieces[0])[sent:]
                return
            self._pieces.popleft()
            sent -= size
        if self.size <= self._limit // 2:
            self.room.set()


class LostOutput(SendBuffer):
    """Takes the place of the buffer when TCP takes no more output: always full, and empty."""

    __slots__ = ()

    def __init__(self) -> None:
        self.size = self._limit = 0

    def append(self, data: bytes | memoryview) -> None:
        """Discard output."""
