"""Reading the histories of many channels in few round trips.

:func:`read_histories` reads them with a pipeline. A :class:`HistoryReader` collects the requests of
many greenlets: those that wait for the same channel share one reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from gevent import Timeout, spawn
from gevent.event import AsyncResult

from ..exceptions import BroadcastError
from .backend import parse_id
from .redis_channel import Read
from .redis_messages import (
    Entry,
    decode_entry,
    key_of,
    latest_key_of,
    new_epoch,
    order_of,
)
from .redis_urls import TIMEOUT

#: The maximum number of channels in one pipeline, and of messages of each: redis-py decodes them
#: without a pause for other greenlets.
BATCH, _PAGE = 25, 50
#: The maximum number of pipelines at the same time.
_MAX_READERS = 4
#: Request the id of the latest message only.
LATEST = "latest"

#: The result of a reading, or what Redis has answered instead.
Result = Read | Exception


# Any: redis-py annotates most commands as either a result or an awaitable.
def read_histories(client: Any, starts: Mapping[str, str], ttl: int) -> dict[str, Result]:
    """Read what Redis has stored of some channels.

    :param starts: the ids from which on messages are wanted, by channel. All messages are read for
        an empty string, and if the id is not found; none for :data:`LATEST`.
    :param ttl: milliseconds for which the epoch of a channel without messages is stored.
    :raises redis.RedisError: if Redis does not answer. If it refuses to read a channel, the error
        is the result of this channel.
    """
    found = _read_from(client, starts)
    # Whoever only reads the history needs no position.
    new = [it.channel for it in found if it.problem is None and not it.latest and it.start]
    if new:
        _begin_epochs(client, new, ttl)
    again = [it.channel for it in found if it.problem is None and not it.is_sufficient and it.start]
    found = [it for it in found if it.channel not in again]
    if again:
        found += _read_from(client, dict.fromkeys(again, ""))
    return {it.channel: it.result() for it in found}


class _Reading:
    """What was read of a channel up to now."""

    def __init__(self, channel: str, start: str) -> None:
        self.channel = channel
        self.start = start
        self.latest = ""
        #: Messages that follow each other.
        self.entries: list[Entry] = []
        #: Where the next page begins; ``None`` after the last one.
        self.next: str | None = start or "-"
        #: The latest id when the first page was read. Later messages are not waited for: others may
        #: publish faster than this reads.
        self._end: tuple[int, int] | None = None
        self.problem: Exception | None = None

    def request(self, pipeline: Any) -> None:
        """Add the commands for the next page."""
        # In this order: if a message comes in between, it is among the entries.
        pipeline.get(latest_key_of(self.channel))
        if self.start == LATEST:
            pipeline.xrevrange(key_of(self.channel), count=1)
        else:
            pipeline.xrange(key_of(self.channel), self.next, "+", count=_PAGE)

    def add(self, latest: Any, stored: Any) -> None:
        """Add the answers to the commands."""
        self.next = None
        for answer in (latest, stored):
            if isinstance(answer, Exception):
                self.problem = answer
                return
        decoded = (decode_entry(self.channel, id_, fields) for id_, fields in stored)
        entries = [entry for entry in decoded if entry is not None]
        if entries and self.entries and entries[0].previous != self.entries[-1].id:
            self.entries = []  # the messages between the pages were deleted meanwhile
        self.entries += entries
        text = (latest or b"").decode("latin-1")
        self.latest = self.entries[-1].id if self.entries else text if parse_id(text) else ""
        if self._end is None:
            self._end = parse_id(text)
        if len(stored) == _PAGE and self.start != LATEST:
            last = stored[-1][0].decode()
            if self._end is None or order_of(last) < self._end:
                self.next = f"({last}"

    @property
    def is_sufficient(self) -> bool:
        """Whether no stored message between ``start`` and the entries is missing."""
        if self.start in {"", LATEST}:
            return bool(self.latest)
        if self.entries:
            return self.start in (self.entries[0].id, self.entries[0].previous)
        return self.start == self.latest

    def result(self) -> Result:
        if self.problem is not None:
            return self.problem
        entries = [] if self.start == LATEST else self.entries
        return Read(entries, not self.start, self.latest or "0-0")


def _read_from(client: Any, starts: Mapping[str, str]) -> list[_Reading]:
    """Read page by page, all channels together."""
    readings = [_Reading(channel, start) for channel, start in starts.items()]
    while waiting := [it for it in readings if it.next is not None]:
        pipeline = _pipeline(client)
        for reading in waiting:
            reading.request(pipeline)
        answers = pipeline.execute(raise_on_error=False)
        for reading, latest, stored in zip(waiting, answers[::2], answers[1::2], strict=True):
            reading.add(latest, stored)
    return readings


def _begin_epochs(client: Any, channels: list[str], ttl: int) -> None:
    """Give an epoch to channels that have none, so that their subscribers have a position."""
    pipeline = _pipeline(client)
    for channel in channels:
        pipeline.set(latest_key_of(channel), f"0-{new_epoch()}", px=ttl, nx=True)
    pipeline.execute(raise_on_error=False)


def _pipeline(client: Any) -> Any:
    return client.pipeline(transaction=False)


class _Request:
    """A reading of one channel that has not begun yet."""

    def __init__(self, start: str) -> None:
        self.start = start
        self.result: AsyncResult[Read] = AsyncResult()

    def extend(self, start: str) -> None:
        """Read from ``start`` on, too. All messages are read if an id is none."""
        self.start = min(self.start, start, key=order_of)


class HistoryReader:
    """Reads histories for many greenlets.

    :param read: a function that reads the histories of some channels from some ids on. Every
        message that it returns has been delivered. It may raise an exception for all of them.
    """

    def __init__(self, read: Callable[[Mapping[str, str]], Mapping[str, Result]]) -> None:
        self._read = read
        self._requests: dict[str, _Request] = {}
        self._running = 0

    def read(self, channel: str, start: str) -> Read:
        """Return the history of a channel, read after this call. Blocks for a bounded time.

        :param start: the id from which on messages are wanted, at least.
        :raises BroadcastError: after the time limit. Any exception of ``read``, too.
        """
        request = self._requests.get(channel)
        if request is None:
            request = self._requests[channel] = _Request(start)
            if self._running < _MAX_READERS:
                self._running += 1
                spawn(self._run)
        else:
            request.extend(start)
        with Timeout(3 * TIMEOUT, BroadcastError("the history was not read in time")):
            return cast("Read", request.result.get())

    def _run(self) -> None:
        try:
            while self._requests:
                batch = dict(list(self._requests.items())[:BATCH])
                for channel in batch:
                    del self._requests[channel]
                self._read_batch(batch)
        finally:
            self._running -= 1

    def _read_batch(self, batch: dict[str, _Request]) -> None:
        try:
            results = self._read({channel: request.start for channel, request in batch.items()})
        except Exception as problem:  # noqa: BLE001 - raised again for everybody who waits
            results = dict.fromkeys(batch, problem)
        for channel, request in batch.items():
            result = results[channel]
            if isinstance(result, Exception):
                request.result.set_exception(result)
            else:
                request.result.set(result)
