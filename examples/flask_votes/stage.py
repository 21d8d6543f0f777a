"""The current state of the show: the open step, its votes, and the connected pages."""

import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ballots import Ballots, Round
from gevent.event import Event
from gevent.lock import RLock
from story import Step, Story

CLOSED = "That vote is closed, the story has moved on."


class Refused(Exception):
    """A request is refused. The text tells the user the reason."""


class Page:
    """An open page, and a mailbox with room for one notice: "there is news".

    Every state replaces the state before, so old states are not kept. The mailbox
    does not hold the newest state either: the greenlet of the page reads the state when it is
    ready to send. This one state contains all earlier changes. So putting news into a mailbox
    never waits and never grows, and a phone with a poor connection gets fewer states, none
    outdated, while all others get theirs at once.
    """

    def __init__(self, voter: str | None = None) -> None:
        self.voter = voter  # None for a page that cannot vote, such as the presenter's.
        self._news = Event()
        self._news.set()  # A new page has no state yet.

    def notify(self) -> None:
        self._news.set()

    def wait_for_news(self, timeout: float) -> None:
        """Return when there is news, or after ``timeout`` seconds without any."""
        self._news.wait(timeout)
        self._news.clear()


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

    @contextmanager
    def watched_by(self, page: Page) -> Iterator[None]:
        """Tell ``page`` of all news while the block runs."""
        self._pages.add(page)
        self._announce()
        try:
            yield
        finally:
            self._pages.remove(page)
            self._announce()

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

    def state_for(self, voter: str | None) -> str:
        """Return the state for a page, as JSON. It differs only in the choice of the voter."""
        mine = None if voter is None else self._votes.get(voter)
        return json.dumps({**self._everyone_sees, "mine": mine})

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
