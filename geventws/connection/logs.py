"""What goes into the log, such that no peer can fill it or forge a line of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import monotonic

logger = logging.getLogger("geventws")

#: How many lines of one kind may follow each other at once, and how many a second on average.
BURST = 10
RATE = 1.0


def printable(text: str, limit: int = 200) -> str:
    """The text on one line and without control characters, cut to a length."""
    cut = text if len(text) <= limit else f"{text[:limit]}..."
    return cut if cut.isprintable() else cut.encode("unicode_escape").decode("ascii")


class Throttle:
    """Passes so many lines of each kind on; the next one tells how many there were in between."""

    def __init__(
        self, burst: int = BURST, rate: float = RATE, target: logging.Logger = logger
    ) -> None:
        self._target = target
        self._burst = burst
        self._rate = rate
        # By kind: how many lines may pass, since when, and how many have not passed.
        self._kinds: dict[str, tuple[float, float, int]] = {}

    def log(
        self,
        level: int,
        message: str,
        *arguments: object,
        extra: Mapping[str, object] | None = None,
        exc_info: bool | None = None,
    ) -> None:
        """Log what a peer is to blame for; the message, without its arguments, is the kind.

        :param extra: attributes of the record, for logs that are more than text.
        :param exc_info: whether the traceback of the exception that is handled belongs to it.
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
        """Forget what was logged."""
        self._kinds.clear()


#: The one for the faults of peers.
peers = Throttle()
