"""The stored state of the show, in SQLite: the opened steps, the votes, and two secrets.

There is one connection and no lock. SQLite calls do not switch greenlets, so each one is finished
before any other greenlet runs; the price is that they stop the whole program meanwhile. That is
fine for these: single statements on small indexed tables take some ten microseconds.
"""

import secrets
import sqlite3
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SCHEMA = """
CREATE TABLE IF NOT EXISTS secret (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS round (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    step TEXT NOT NULL,
    chosen TEXT,               -- the option that led here; NULL begins the story
    tossed INTEGER NOT NULL    -- 1 when a tie made a coin choose it
);
CREATE TABLE IF NOT EXISTS vote (
    round INTEGER NOT NULL REFERENCES round,
    voter TEXT NOT NULL,
    option INTEGER NOT NULL,   -- its place in the step, from 0
    PRIMARY KEY (round, voter) -- one vote a browser and round: a second one replaces the first
) WITHOUT ROWID;
"""


class Unavailable(Exception):
    """The votes cannot be read or written at the moment."""


@dataclass(frozen=True)
class Round:
    """One round of votes for a step. A story may reach a step twice; each time is a new round."""

    id: int
    step: str
    chosen: str | None
    tossed: bool


class Ballots:
    """Every method is one statement, committed when it returns, so a crash loses nothing of it."""

    def __init__(self, path: Path) -> None:
        # Without an isolation level, each statement is committed automatically.
        self._db = sqlite3.connect(path, isolation_level=None)
        # A write-ahead log needs no fsync for each vote, which could hold up every page for
        # milliseconds. A killed process loses nothing; a power cut may lose the last votes.
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def secret(self, name: str) -> str:
        """A random text, made on first use and the same ever after."""
        self._db.execute(
            "INSERT INTO secret VALUES (?, ?) ON CONFLICT DO NOTHING",
            (name, secrets.token_urlsafe(16)),
        )
        row = self._db.execute("SELECT value FROM secret WHERE name = ?", (name,)).fetchone()
        return str(row[0])

    def current_round(self) -> Round | None:
        row = self._db.execute("SELECT * FROM round ORDER BY id DESC LIMIT 1").fetchone()
        return None if row is None else Round(row[0], row[1], row[2], bool(row[3]))

    def open_round(
        self, step: str, chosen: str | None = None, tossed: bool = False, *, after: int = 0
    ) -> Round | None:
        """Open ``step`` for votes; the round before stays as it was counted.

        Does nothing and returns None unless the round before is the one with the id ``after``.
        """
        cursor = self._db.execute(
            "INSERT INTO round (step, chosen, tossed) SELECT ?, ?, ?"
            " WHERE ? = (SELECT COALESCE(MAX(id), 0) FROM round) RETURNING id",
            (step, chosen, tossed, after),
        )
        row = cursor.fetchone()
        return None if row is None else Round(row[0], step, chosen, tossed)

    def cast(self, round_id: int, voter: str, option: int) -> None:
        self._db.execute(
            "INSERT INTO vote VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET option = excluded.option",
            (round_id, voter, option),
        )

    def votes(self, round_id: int) -> dict[str, int]:
        """Which option each voter has chosen."""
        rows = self._db.execute("SELECT voter, option FROM vote WHERE round = ?", (round_id,))
        return dict(rows.fetchall())

    def road(self) -> list[str]:
        """Return the options that were chosen since the last start of the story."""
        rows = self._db.execute(
            "SELECT chosen FROM round"
            " WHERE id > (SELECT MAX(id) FROM round WHERE chosen IS NULL) ORDER BY id"
        )
        return [chosen for (chosen,) in rows.fetchall()]

    def present(self, voters: Set[str]) -> int:
        """Note whose pages are open here; returns how many voters that is with all workers."""
        return len(voters)  # there are no others


@contextmanager
def opened(path: Path) -> Iterator[Ballots]:
    ballots = Ballots(path)
    try:
        yield ballots
    finally:
        ballots.close()
