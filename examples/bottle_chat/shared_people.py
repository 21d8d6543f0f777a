"""The members of the rooms, for several workers, which share them through Redis."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import gevent
from people import People
from redis import Redis, RedisError

from geventws import BroadcastError

LEASE = 30.0  # seconds for which a worker vouches for its people; it renews this in good time


class SharedPeople(People):
    """The people of all workers: for each room a hash in Redis, by the names in lower case.

    A worker that is killed cannot say goodbye for its people. So every entry ends with a time, and
    a greenlet puts that off as long as the worker lives. It also looks for people whose time is
    over, and passes their room and name to ``tell_lost``.
    """

    def __init__(self, url: str, tell_lost: Callable[[str, str], object]) -> None:
        self._redis = Redis.from_url(url, decode_responses=True)
        self._tell_lost = tell_lost
        self._ours: dict[tuple[str, str], float] = {}  # when each of them came
        self._renewal: gevent.Greenlet | None = None  # starts in the worker, not in its parent

    def enter(self, room: str, name: str) -> bool:
        now = time.time()
        with _asking():
            if not self._redis.hsetnx(_key(room), name.casefold(), _entry(name, now)):
                return False
            self._redis.expire(_key(room), int(LEASE))
        self._ours[room, name] = now
        if self._renewal is None:
            self._renewal = gevent.spawn(self._look_after_them)
        return True

    def leave(self, room: str, name: str) -> None:
        del self._ours[room, name]
        with suppress(BroadcastError), _asking():  # Its time will be over anyway.
            self._redis.hdel(_key(room), name.casefold())

    def names(self, room: str) -> list[str]:
        return [entry["name"] for entry in sorted(self._entries(room), key=lambda e: e["since"])]

    def _entries(self, room: str) -> list[dict]:
        with _asking():
            return [json.loads(entry) for entry in self._redis.hgetall(_key(room)).values()]

    def _look_after_them(self) -> None:
        while True:
            gevent.sleep(LEASE / 3)
            with suppress(BroadcastError), _asking():  # It may be back next time.
                for (room, name), since in list(self._ours.items()):
                    self._redis.hset(_key(room), name.casefold(), _entry(name, since))
                for room in {room for room, _ in self._ours}:
                    self._redis.expire(_key(room), int(LEASE))
                    self._remove_lost(room)

    def _remove_lost(self, room: str) -> None:
        for entry in self._entries(room):
            is_over = entry["until"] < time.time()
            # Of several workers that notice, one gets to remove the entry.
            if is_over and self._redis.hdel(_key(room), entry["name"].casefold()):
                self._tell_lost(room, entry["name"])


def _key(room: str) -> str:
    return f"chat:people:{room}"


def _entry(name: str, since: float) -> str:
    return json.dumps({"name": name, "since": since, "until": time.time() + LEASE})


@contextmanager
def _asking() -> Iterator[None]:
    """If Redis is away, so is the broadcast: one exception for both."""
    try:
        yield
    except RedisError as problem:
        raise BroadcastError(f"Redis does not answer: {problem}") from problem
