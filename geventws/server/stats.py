"""What the WebSockets of a server, or of a process, have done so far."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from ..connection.counters import Totals


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The WebSockets of a server, or of a process, at one moment.

    For JSON: ``json.dumps(dataclasses.asdict(stats))``.

    All but the first and the last four only grow as long as the process lives.
    """

    #: WebSockets that are open.
    connections: int = 0
    #: WebSockets that have been opened.
    connections_opened: int = 0
    #: WebSockets that have ended, by close code; 1006 for those that were lost.
    connections_closed: dict[int, int] = dataclasses.field(default_factory=dict)
    #: Requests for a WebSocket that were answered otherwise, by HTTP status.
    connections_refused: dict[int, int] = dataclasses.field(default_factory=dict)
    #: Messages that were handed to a view, or wait for it.
    messages_received: int = 0
    #: Messages that were handed to the kernel, or wait for it to have room.
    messages_sent: int = 0
    #: Bytes of these messages and of control frames, with their headers and as compressed as they
    #: come, without TLS.
    bytes_received: int = 0
    bytes_sent: int = 0
    #: Pings that were sent, by keepalive and by views, and Pongs that came in answer to one.
    pings_sent: int = 0
    pongs_received: int = 0
    #: Peers that were dropped because they did not read what they were sent, whether after
    #: ``send_timeout`` or by a :class:`~geventws.Broadcast`.
    slow_consumers_dropped: int = 0
    #: Received messages that wait for their views, and the bytes of memory that they take.
    receive_queue: int = 0
    receive_queue_size: int = 0
    #: Bytes that wait for their peers to read, and the most of them that wait for one peer.
    send_buffer_size: int = 0
    send_buffer_size_max: int = 0

    @classmethod
    def of(cls, totals: Totals) -> Stats:
        """The counters of the past; nothing is open."""
        return cls(
            connections_opened=totals.opened,
            connections_closed=dict(totals.closed),
            connections_refused=dict(totals.refused),
            messages_received=totals.messages_received,
            messages_sent=totals.messages_sent,
            bytes_received=totals.bytes_received,
            bytes_sent=totals.bytes_sent,
            pings_sent=totals.pings_sent,
            pongs_received=totals.pongs_received,
            slow_consumers_dropped=totals.slow_consumers_dropped,
        )

    def __add__(self, other: Stats) -> Stats:
        """The sum of both."""
        values = {
            field.name: _sum(getattr(self, field.name), getattr(other, field.name))
            for field in dataclasses.fields(self)
        }
        values["send_buffer_size_max"] = max(self.send_buffer_size_max, other.send_buffer_size_max)
        return Stats(**values)


def _sum(one: Any, other: Any) -> Any:
    """Two numbers, or two dictionaries of numbers, added up."""
    return dict(Counter(one) + Counter(other)) if isinstance(one, dict) else one + other
