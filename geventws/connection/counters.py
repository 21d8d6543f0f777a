"""Counters of connections that belong together."""

from __future__ import annotations

from collections import Counter

from .transport import Counters


class Totals(Counters):
    """Event counters of the connections that share this object. They never decrease."""

    __slots__ = (
        "broadcast_gaps",
        "closed",
        "opened",
        "pings_sent",
        "pongs_received",
        "refused",
        "slow_consumers_dropped",
    )

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0
        self.closed: Counter[int] = Counter()
        self.refused: Counter[int] = Counter()
        self.pings_sent = 0
        self.pongs_received = 0
        self.slow_consumers_dropped = 0
        self.broadcast_gaps = 0


#: For the connections that this process has opened as a client.
CLIENTS = Totals()
