"""The log: no peer can fill it, or forge a line."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from time import monotonic
from typing import Any

logger = logging.getLogger("geventws")
#: A line for each WebSocket that is opened, and for each that has ended. Nothing is logged until
#: somebody sets another level than this one: logs of INFO do not get longer without being asked.
connections = logging.getLogger("geventws.connections")
OFF = logging.INFO + 1
connections.setLevel(OFF)

#: Lines of one kind that may follow each other at once, and lines a second on average.
BURST = 10
RATE = 1.0


def printable(text: str, limit: int = 200) -> str:
    """The text on one line, without control characters, truncated to a length."""
    cut = text if len(text) <= limit else f"{text[:limit]}..."
    return cut if cut.isprintable() else cut.encode("unicode_escape").decode("ascii")


def name_of_peer(address: object, sock: Any = None) -> str:
    """The address of a peer; for the peer of a unix socket, which has none, the path of the socket.

    :param address: the IP address, or the address that ``accept()`` has returned.
    :param sock: the socket of the connection, if it is at hand.
    """
    if isinstance(address, tuple):
        address = address[0]
    if not address and sock is not None:
        try:
            address = f"unix:{os.fsdecode(sock.getsockname())}"
        except (OSError, TypeError):
            pass  # the socket is closed, or is none of a file
    return printable(str(address or "a unix socket"))


class Throttle:
    """Limits the lines of each kind. The next line reports how many were dropped before it."""

    def __init__(
        self, burst: int = BURST, rate: float = RATE, target: logging.Logger = logger
    ) -> None:
        self._target = target
        self._burst = burst
        self._rate = rate
        # By kind: how many lines may pass, at which time that was counted, how many were dropped.
        self._kinds: dict[str, tuple[float, float, int]] = {}

    def log(
        self,
        level: int,
        message: str,
        *arguments: object,
        extra: Mapping[str, object] | None = None,
        exc_info: bool | None = None,
    ) -> None:
        """Log a line, unless there were too many of its kind. The message without its arguments
        is the kind.

        :param extra: attributes of the log record.
        :param exc_info: whether to log the traceback of the handled exception.
        """
        if not self._target.isEnabledFor(level):
            return
        now = monotonic()
        left, since, held_back = self._kinds.get(message, (self._burst, now, 0))
        left = min(self._burst, left + (now - since) * self._rate)
        if left < 1:
            self._kinds[message] = left, now, held_back + 1
            return
        self._kinds[message] = left - 1, now, 0
        if held_back:
            message, arguments = f"{message} (and %d more)", (*arguments, held_back)
        self._target.log(level, message, *arguments, extra=extra, exc_info=exc_info)

    def reset(self) -> None:
        """Start to count again."""
        self._kinds.clear()


#: For faults of peers.
peers = Throttle()
