"""The pauses between two attempts to reach a server."""

from __future__ import annotations

from random import uniform

FIRST_DELAY, MAX_DELAY = 0.1, 2.0


class Backoff:
    """Pauses that double, up to ``MAX_DELAY`` seconds.

    They are random: clients that a server has lost together do not come back together.
    """

    def __init__(self) -> None:
        self._delay = FIRST_DELAY

    def next_pause(self) -> float:
        """Return the seconds to wait before the next attempt."""
        delay, self._delay = self._delay, min(2 * self._delay, MAX_DELAY)
        return delay * uniform(0.5, 1)  # noqa: S311 - not a secret

    def reset(self) -> None:
        """An attempt has succeeded: begin anew."""
        self._delay = FIRST_DELAY
