"""The memory of the show for several workers, in Redis instead of SQLite: `ballots.py` explains it.

Calls wait for Redis, and other greenlets run meanwhile. Therefore each atomic change is one
command or one script.
"""

import json
import secrets
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager

from ballots import Round, Unavailable
from redis import Redis, RedisError

# Key: the rounds, a list. Then how many there must be, and one more.
_OPEN_ROUND = """
if redis.call('LLEN', KEYS[1]) ~= tonumber(ARGV[1]) then return 0 end
return redis.call('RPUSH', KEYS[1], ARGV[2])
"""
# A page that is open is vouched for by its worker, again and again, as long as that lives.
LEASE = 30.0  # seconds


class SharedBallots:
    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url, decode_responses=True)
        self._vouched_for: Set[str] = set()
        self._vouched_at = 0.0

    def close(self) -> None:
        self._redis.close()

    def secret(self, name: str) -> str:
        """A random text, made on first use and the same ever after, for all workers."""
        with _asking():
            self._redis.hsetnx("votes:secrets", name, secrets.token_urlsafe(16))
            return str(self._redis.hget("votes:secrets", name))

    def current_round(self) -> Round | None:
        with _asking():
            # One command for both, or another worker may open a round in between.
            rounds = self._redis.lrange("votes:rounds", 0, -1)
        return _round(len(rounds), rounds[-1]) if rounds else None

    def open_round(
        self, step: str, chosen: str | None = None, tossed: bool = False, *, after: int = 0
    ) -> Round | None:
        """Open ``step`` for votes, unless another worker was quicker: then None."""
        described = json.dumps({"step": step, "chosen": chosen, "tossed": tossed})
        with _asking():
            number = self._redis.eval(_OPEN_ROUND, 1, "votes:rounds", after, described)
        return _round(number, described) if number else None

    def cast(self, round_id: int, voter: str, option: int) -> None:
        with _asking():
            self._redis.hset(f"votes:round:{round_id}", voter, option)

    def votes(self, round_id: int) -> dict[str, int]:
        """Which option each voter has chosen."""
        with _asking():
            votes = self._redis.hgetall(f"votes:round:{round_id}")
        return {voter: int(option) for voter, option in votes.items()}

    def road(self) -> list[str]:
        """Return the options that were chosen since the last start of the story."""
        with _asking():
            rounds = self._redis.lrange("votes:rounds", 0, -1)
        road: list[str] = []
        for described in rounds:
            chosen = json.loads(described)["chosen"]
            road = [] if chosen is None else [*road, chosen]
        return road

    def present(self, voters: Set[str]) -> int:
        """Note whose pages are open here; returns how many voters that is with all workers."""
        now = time.time()
        with _asking():
            if gone := self._vouched_for - voters:
                self._redis.zrem("votes:people", *gone)
            if voters and (voters != self._vouched_for or self._vouched_at < now - LEASE / 3):
                self._redis.zadd("votes:people", dict.fromkeys(voters, now + LEASE))
                self._vouched_at = now
            self._vouched_for = frozenset(voters)
            self._redis.zremrangebyscore("votes:people", 0, now)
            return int(self._redis.zcard("votes:people"))


def _round(number: int, described: str) -> Round:
    return Round(number, **json.loads(described))


@contextmanager
def _asking() -> Iterator[None]:
    try:
        yield
    except RedisError as problem:
        raise Unavailable(f"Redis does not answer: {problem}") from problem
