"""Reading the histories of many channels in few round trips.

:func:`read_histories` reads them with a pipeline. A :class:`HistoryReader` collects the requests of
many greenlets: those that wait for the same channel share one reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from gevent import Timeout, spawn
from gevent.event import AsyncResult

from ..exceptions import BroadcastError
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

#: The maximum number of channels in one pipeline, and of pipelines at the same time.
BATCH = 100
_MAX_READERS = 4

#: The result of a reading, or what Redis has answered instead.
Result = Read | Exception


# Any: redis-py annotates most commands as either a result or an awaitable.
def read_histories(client: Any, starts: Mapping[str, str], ttl: int) -> dict[str, Result]:
    """Read what Redis has stored of some channels.

    :param starts: the ids from which on messages are wanted, by channel. All messages are read for
        an empty string, and if the id is not found.
    :param ttl: milliseconds for which the epoch of a channel without messages is stored.
    :raises redis.RedisError: if Redis does not answer. If it refuses to read a channel, the error
        is the result of this channel.
    """
    results: dict[str, Result] = {}
    again = []
    for channel, stored in _read_from(client, starts).items():
        start = starts[channel]
        if isinstance(stored, Exception):
            results[channel] = stored
        elif not stored.latest:
            again.append(channel)
        elif stored.begins_at(start):
            results[channel] = Read(stored.entries, not start, stored.latest)
        else:
            again.append(channel)
    if again:
        _begin_epochs(client, again, ttl)
        for channel, stored in _read_from(client, dict.fromkeys(again, "")).items():
            if isinstance(stored, Exception):
                results[channel] = stored
            else:
                results[channel] = Read(stored.entries, True, stored.latest or "0-0")
    return results


class _Stored(NamedTuple):
    """What Redis has answered."""

    entries: list[Entry]
    latest: str

    def begins_at(self, start: str) -> bool:
        """Whether no stored message between ``start`` and the entries is missing."""
        if not start:
            return True
        if self.entries:
            return start in (self.entries[0].id, self.entries[0].previous)
        return start == self.latest


def _read_from(client: Any, starts: Mapping[str, str]) -> dict[str, _Stored | Exception]:
    pipeline = _pipeline(client)
    for channel, start in starts.items():
        # In this order: if a message comes in between, it is among the entries.
        pipeline.get(latest_key_of(channel))
        pipeline.xrange(key_of(channel), start or "-", "+")
    answers = pipeline.execute(raise_on_error=False)
    return {
        channel: _decode(channel, latest, stored)
        for channel, latest, stored in zip(starts, answers[::2], answers[1::2], strict=True)
    }


def _decode(channel: str, latest: Any, stored: Any) -> _Stored | Exception:
    for answer in (latest, stored):
        if isinstance(answer, Exception):
            return answer
    decoded = (decode_entry(channel, id_, fields) for id_, fields in stored)
    entries = [entry for entry in decoded if entry is not None]
    if entries:
        return _Stored(entries, entries[-1].id)
    return _Stored(entries, (latest or b"").decode("latin-1"))


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
