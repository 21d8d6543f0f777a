"""The current state of the show: the open step, its votes, and the connected pages."""

import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

import gevent
from ballots import Ballots, Round
from gevent.lock import RLock
from story import Step, Story

from geventws import ConnectionClosed

# The minimum number of seconds between two states for a page: a burst of votes from a
# thousand phones must not become a million messages. The first one after a quiet time is instant.
BETWEEN_STATES = 0.05
# A state is repeated after this long without news. Scripts cannot see WebSocket pings, and this
# is how a phone notices that it fell off the network (see scene.js).
SIGN_OF_LIFE = 20.0
CLOSED = "That vote is closed, the story has moved on."


class Refused(Exception):
    """A request is refused. The text tells the user the reason."""


class Page:
    """An open page, which is sent the newest state whenever there is news.

    Every state replaces the state before, so old states are not kept: only the fact that there is
    news. The state is read at the moment when it is sent, and contains all earlier changes. So
    ``notify()`` never waits, nothing grows, and a phone with a poor connection gets fewer states,
    none outdated, while all others get theirs at once. A greenlet runs only while there is news:
    a page that waits for the next vote has none.

    :param send: sends the newest state; may wait for the network.
    """

    __slots__ = ("_has_news", "_is_sending", "_send", "voter")

    def __init__(self, voter: str | None, send: Callable[["Page"], None]) -> None:
        self.voter = voter  # None for a page that cannot vote, such as the presenter's.
        self._send = send
        self._has_news = self._is_sending = False

    def notify(self) -> None:
        self._has_news = True
        if not self._is_sending:
            self._is_sending = True
            gevent.spawn(self._send_news)

    def _send_news(self) -> None:
        with suppress(ConnectionClosed):  # The page leaves the stage by itself.
            while self._has_news:
                self._has_news = False
                self._send(self)
                gevent.sleep(BETWEEN_STATES)
        self._is_sending = False


class Stage:
    """One worker's view of the show, which is in the ballots.

    :param announce: tells all workers, this one included, that something has changed, so that
        each calls `refresh`. By default this is the only one.
    """

    def __init__(
        self,
        story: Story,
        ballots: Ballots,
        toss: Callable[[Sequence[int]], int] = secrets.choice,
        announce: Callable[[], None] | None = None,
    ) -> None:
        self.story = story
        self._ballots = ballots
        self._toss = toss
        self._announce = announce or self.refresh
        self._pages: set[Page] = set()
        self._refreshing = RLock()  # Ballots may wait: an old result must not replace a new one.
        current = ballots.current_round()
        # The story may have been edited since: a step that is gone cannot be shown.
        if current is None or current.step not in story.steps:
            ballots.open_round(story.start, after=current.id if current else 0)
        self.refresh()

    def add(self, page: Page) -> None:
        """Tell ``page`` of all news from now on; the current state is the first."""
        self._pages.add(page)
        self._announce()

    def remove(self, page: Page) -> None:
        self._pages.remove(page)
        self._announce()

    def repeat(self) -> None:
        """Send the state again and again, also without any change."""
        while True:
            gevent.sleep(SIGN_OF_LIFE)
            self.refresh()

    def vote(self, voter: str, round_id: int, option: int) -> None:
        """Give the voter's one vote in this round to ``option``, wherever it was before."""
        current = self._open_round(round_id)
        if not 0 <= option < len(self._step(current).options):
            raise Refused("There is no such option.")
        self._ballots.cast(round_id, voter, option)
        self._announce()

    def advance(self, round_id: int) -> None:
        """Close the vote and open the step that won; among equals a coin decides."""
        current = self._open_round(round_id)
        step = self._step(current)
        if step.is_ending:
            raise Refused("The story has ended here. You can start it over.")
        leaders = leading(count(step, self._ballots.votes(round_id)))
        winner = step.options[self._toss(leaders)]
        self._open(current, winner.leads_to, winner.text, len(leaders) > 1)

    def restart(self, round_id: int) -> None:
        self._open(self._open_round(round_id), self.story.start)

    def state_for(self, voter: str | None) -> dict[str, object]:
        """Return the state for a page. It differs only in the choice of the voter."""
        mine = None if voter is None else self._votes.get(voter)
        return {**self._everyone_sees, "mine": mine}

    def refresh(self) -> None:
        """Read the ballots, once for all pages, and notify the pages."""
        with self._refreshing:
            current = self._ballots.current_round()
            if current is None or current.step not in self.story.steps:
                raise AssertionError("there is an open round from the beginning on")
            votes = self._ballots.votes(current.id)
            state = self._describe(current, votes)
            self._votes, self._everyone_sees = votes, state
        for page in self._pages:
            page.notify()

    def _open_round(self, round_id: int) -> Round:
        """Refuse requests for an earlier step, such as a late vote or a double click."""
        current = self._ballots.current_round()
        if current is None or round_id != current.id:
            raise Refused(CLOSED)
        return current

    def _open(
        self, current: Round, step: str, chosen: str | None = None, tossed: bool = False
    ) -> None:
        if self._ballots.open_round(step, chosen, tossed, after=current.id) is None:
            raise Refused(CLOSED)  # Another worker has opened the next step.
        self._announce()

    def _step(self, current: Round) -> Step:
        return self.story.steps[current.step]

    def _describe(self, current: Round, votes: dict[str, int]) -> dict[str, object]:
        step = self._step(current)
        return {
            "type": "state",
            "round": current.id,
            "heading": step.heading,
            "paragraphs": step.paragraphs,
            "options": [
                {"text": option.text, "votes": number}
                for option, number in zip(step.options, count(step, votes), strict=True)
            ],
            "chosen": current.chosen,
            "tossed": current.tossed,
            "road": self._ballots.road(),
            # Count browsers, not pages: a person with two tabs counts once.
            "people": self._ballots.present({page.voter for page in self._pages} - {None}),
        }


def count(step: Step, votes: dict[str, int]) -> list[int]:
    """How many votes each option has."""
    counts = Counter(votes.values())
    return [counts[option] for option in range(len(step.options))]


def leading(counts: list[int]) -> list[int]:
    """Return the options with the most votes; all options if there are no votes."""
    return [option for option, votes in enumerate(counts) if votes == max(counts)]
