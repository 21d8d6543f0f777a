"""Sending a message to very many sockets, in slices: other greenlets run in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, cast

from gevent import sleep

from ..connection.greenlets import LightGreenlet
from ..connection.transport import SharedMessage, fan_out

if TYPE_CHECKING:
    from gevent import Greenlet

    from ..connection.connection import Connection
    from .subscribers import Channel, Subscription

#: What sending to one socket costs beside the bytes of the message, expressed in bytes.
_COST = 16 << 10
#: Messages that cost more, for all sockets together, are sent in slices: about 2 ms.
MAX_COST_AT_ONCE = 4 << 20
#: The cost of the part of a slice after which its time is checked.
_STEP_COST = 512 << 10
#: Seconds that a slice may take, and the pause after it: any time lets the event loop handle input
#: and timers.
_SLICE, _PAUSE = 0.002, 1e-6
#: Bytes of memory that messages may take which wait for their turn. Above it, the oldest ones are
#: sent at once.
_MAX_SIZE = 16 << 20


def is_large(sockets: int, length: int) -> bool:
    """Whether sending a message of this length to so many sockets takes too long at once."""
    return sockets * (length + _COST) > MAX_COST_AT_ONCE


class _Sending:
    """A message on its way to the sockets that were subscribed when it was published."""

    __slots__ = (
        "before",
        "channel",
        "entry",
        "excluded",
        "message",
        "number",
        "position",
        "size",
        "step",
        "subscriptions",
    )

    def __init__(
        self,
        channel: str,
        entry: Channel,
        subscriptions: list[Subscription],
        message: SharedMessage,
        length: int,
        before: str | None,
        excluded: str | None,
    ) -> None:
        self.channel = channel
        self.entry = entry
        self.message = message
        entry.number += 1
        self.number = entry.number
        self.before = before
        self.excluded = excluded
        self.subscriptions = subscriptions
        #: The number of sockets that had their turn.
        self.position = 0
        #: The number of sockets in one step.
        self.step = max(_STEP_COST // (length + _COST), 1)
        #: Bytes of memory: the data, at least one frame, and the list.
        self.size = 2 * length + 8 * len(self.subscriptions)


class SlicedSender:
    """Sends messages to large audiences, one after the other.

    :param handle_undelivered: called for each socket that did not get a message.
    """

    def __init__(self, handle_undelivered: Callable[[str, Connection], None]) -> None:
        self._handle_undelivered = handle_undelivered
        self._queue: deque[_Sending] = deque()
        self._size = 0
        self._greenlet: Greenlet[..., None] | None = None

    def send(
        self,
        channel: str,
        entry: Channel,
        subscriptions: list[Subscription],
        message: SharedMessage,
        length: int,
        before: str | None,
        excluded: str | None,
    ) -> None:
        """Send a message to sockets of a channel, in slices. Never blocks.

        Messages of one channel keep their order. A socket that leaves meanwhile does not get the
        rest, and a socket that joins does not get older messages.

        :param length: the length of the message, roughly in bytes.
        :param before: the id of the message before, the position of those who have not got it.
        :param excluded: the id of the socket that does not get it.
        """
        sending = _Sending(channel, entry, subscriptions, message, length, before, excluded)
        self._queue.append(sending)
        self._size += sending.size
        entry.sending.append(sending)
        while self._size > _MAX_SIZE and len(self._queue) > 1:
            self._send_step()
        if self._greenlet is None:
            self._greenlet = LightGreenlet.spawn(self._run)

    def clear(self) -> None:
        """Drop what was not sent."""
        self._queue.clear()
        self._size = 0

    def _run(self) -> None:
        try:
            while self._queue:
                end = monotonic() + _SLICE
                self._send_step()
                while self._queue and monotonic() < end:
                    self._send_step()
                sleep(_PAUSE)
        finally:
            self._greenlet = None

    def _send_step(self) -> None:
        """Send the oldest message to a few more sockets."""
        sending = self._queue[0]
        first, last = sending.position, sending.position + sending.step
        sending.position = last
        if last >= len(sending.subscriptions):
            self._queue.popleft()
            self._size -= sending.size
            sending.entry.sending.popleft()
        number = sending.number
        sockets = []
        for subscription in sending.subscriptions[first:last]:
            if subscription.live_in is not None:
                subscription.reached = number
                sockets.append(subscription.ws)
        excluded = sending.excluded
        if excluded is not None:
            sockets = [ws for ws in sockets if not ws._has_id(excluded)]
        for ws in cast("list[Connection]", fan_out(sockets, sending.message)):
            self._handle_undelivered(sending.channel, ws)
