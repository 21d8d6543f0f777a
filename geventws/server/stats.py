"""Statistics of the WebSockets of a server or a process."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TypeVar

from ..connection.counters import Totals

Value = TypeVar("Value", int, dict[int, int])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Statistics of the WebSockets of a server, or of a process, at one moment.

    ``json.dumps(dataclasses.asdict(stats))`` converts them to JSON. ``connections``,
    ``callbacks_…``, ``receive_…`` and ``send_…`` describe open WebSockets. All other values count
    events, and never decrease.
    """

    #: The number of open WebSockets.
    connections: int = 0
    #: The number of WebSockets that were opened.
    connections_opened: int = 0
    #: The number of WebSockets that have ended, by close code. 1006 counts lost connections.
    connections_closed: dict[int, int] = dataclasses.field(default_factory=dict)
    #: The number of refused WebSocket requests, by HTTP status.
    connections_refused: dict[int, int] = dataclasses.field(default_factory=dict)
    #: The number of received messages, including those that wait for the view.
    messages_received: int = 0
    #: The number of sent messages, including those in the send buffer.
    messages_sent: int = 0
    #: Bytes of received and sent frames: messages and control frames, with their headers and after
    #: compression, without TLS.
    bytes_received: int = 0
    bytes_sent: int = 0
    #: The number of Pings that keepalive and views have sent, and of Pongs that answer a Ping.
    pings_sent: int = 0
    pongs_received: int = 0
    #: The number of connections that were dropped because the peer did not read: after
    #: ``send_timeout``, or by a :class:`~geventws.Broadcast`.
    slow_consumers_dropped: int = 0
    #: How often a WebSocket missed messages of a :class:`~geventws.Broadcast`, since more messages
    #: were lost to this process than the history keeps.
    broadcast_gaps: int = 0
    #: The number of detached WebSockets whose callbacks are running, and of those that wait since
    #: too many callbacks are running (``max_callbacks``).
    callbacks_running: int = 0
    callbacks_waiting: int = 0
    #: The number of received messages that wait for their views, and their bytes of memory.
    receive_queue: int = 0
    receive_queue_size: int = 0
    #: Bytes in all send buffers, and in the largest one.
    send_buffer_size: int = 0
    send_buffer_size_max: int = 0

    @classmethod
    def of(cls, totals: Totals) -> Stats:
        """Return the statistics of counters, without open WebSockets."""
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
            broadcast_gaps=totals.broadcast_gaps,
        )

    def __add__(self, other: Stats) -> Stats:
        """Return the sum of two statistics; the maximum for ``send_buffer_size_max``."""
        values = {
            field.name: _sum(getattr(self, field.name), getattr(other, field.name))
            for field in dataclasses.fields(self)
        }
        values["send_buffer_size_max"] = max(self.send_buffer_size_max, other.send_buffer_size_max)
        return Stats(**values)


def _sum(one: Value, other: Value) -> Value:
    """Add two numbers, or two dictionaries of numbers."""
    if isinstance(one, dict):
        return dict(Counter(one) + Counter(other))
    return one + other
