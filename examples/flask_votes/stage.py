"""What is on stage: the open step, its count, and the pages that watch.

The methods need no lock: none of them waits for anything, so a greenlet that calls one has
finished it before another greenlet gets its turn.
"""
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ballots import Ballots
from gevent.event import Event
from story import Step, Story


class Refused(Exception):
    """A request that is not carried out; its text is for whoever made it."""


class Page:
    """An open page, and a mailbox with room for one notice: "there is news".

    Every state replaces the one before, so old ones need not be kept for anybody. The mailbox
    does not even hold the newest: the greenlet that sends to this page asks for it when it is
    ready to send. Whatever happened meanwhile is in that one state. So putting news into a mailbox
    never waits and never grows, and a phone with a poor connection gets fewer states, none
    outdated, while all others get theirs at once.
    """

    def __init__(self, voter: str | None = None) -> None:
        self.voter = voter  # None: a page that watches, as the presenter's does.
        self._news = Event()
        self._news.set()  # What just opened has seen nothing yet.

    def notify(self) -> None:
        self._news.set()

    def wait_for_news(self, timeout: float) -> None:
        """Return when there is news, or after ``timeout`` seconds without any."""
        self._news.wait(timeout)
        self._news.clear()


class Stage:
    def __init__(
        self,
        story: Story,
        ballots: Ballots,
        toss: Callable[[Sequence[int]], int] = secrets.choice,
    ) -> None:
        self.story = story
        self._ballots = ballots
        self._toss = toss
        self._pages: set[Page] = set()
        current = ballots.current_round()
        # The story may have been edited since: a step that is gone cannot be shown.
        if current is None or current.step not in story.steps:
            current = ballots.open_round(story.start)
        self._round = current
        self._everyone_sees = self._describe()

    @contextmanager
    def watched_by(self, page: Page) -> Iterator[None]:
        """Tell ``page`` of all news while the block runs."""
        self._pages.add(page)
        self._tell_everyone()
        try:
            yield
        finally:
            self._pages.remove(page)
            self._tell_everyone()

    def vote(self, voter: str, round_id: int, option: int) -> None:
        """Give the voter's one vote in this round to ``option``, wherever it was before."""
        self._check_open(round_id)
        if not 0 <= option < len(self._step.options):
            raise Refused("There is no such option.")
        self._ballots.cast(round_id, voter, option)
        self._tell_everyone()

    def advance(self, round_id: int) -> None:
        """Close the vote and open the step that won; among equals a coin decides."""
        self._check_open(round_id)
        if self._step.is_ending:
            raise Refused("The story has ended here. You can start it over.")
        leaders = self._leaders()
        winner = self._step.options[self._toss(leaders)]
        self._round = self._ballots.open_round(winner.leads_to, winner.text, len(leaders) > 1)
        self._tell_everyone()

    def restart(self, round_id: int) -> None:
        self._check_open(round_id)
        self._round = self._ballots.open_round(self.story.start)
        self._tell_everyone()

    def state_for(self, voter: str | None) -> str:
        """What a page shows, as JSON: the same for everyone, but for the voter's own choice."""
        mine = None if voter is None else self._ballots.choice(self._round.id, voter)
        return json.dumps({**self._everyone_sees, "mine": mine})

    @property
    def _step(self) -> Step:
        return self.story.steps[self._round.step]

    def _check_open(self, round_id: int) -> None:
        """Refuse what was meant for an earlier step: a late vote, the second of two clicks."""
        if round_id != self._round.id:
            raise Refused("That vote is closed, the story has moved on.")

    def _leaders(self) -> list[int]:
        """The options with the most votes, which is all of them when nobody voted."""
        counts = self._votes()
        return [option for option, votes in enumerate(counts) if votes == max(counts)]

    def _votes(self) -> list[int]:
        counts = self._ballots.counts(self._round.id)
        return [counts.get(option, 0) for option in range(len(self._step.options))]

    def _tell_everyone(self) -> None:
        self._everyone_sees = self._describe()  # Counted once, not once a page.
        for page in self._pages:
            page.notify()

    def _describe(self) -> dict[str, object]:
        step = self._step
        return {
            "type": "state",
            "round": self._round.id,
            "heading": step.heading,
            "paragraphs": step.paragraphs,
            "options": [
                {"text": option.text, "votes": votes}
                for option, votes in zip(step.options, self._votes(), strict=True)
            ],
            "chosen": self._round.chosen,
            "tossed": self._round.tossed,
            "road": self._ballots.road(),
            # Browsers, not pages: who opens a second tab is still one person.
            "people": len({page.voter for page in self._pages} - {None}),
        }
