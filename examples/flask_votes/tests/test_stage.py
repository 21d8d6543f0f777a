from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gevent
import pytest
from ballots import Ballots, opened
from gevent.event import Event
from stage import Page, Refused, Stage
from story import parse
from votes_support import PATIENCE, STORY


def last(options: Sequence[int]) -> int:
    """A coin that is not left to chance."""
    return options[-1]


@pytest.fixture
def ballots(tmp_path: Path) -> Iterator[Ballots]:
    with opened(tmp_path / "votes.sqlite3") as ballots:
        yield ballots


@pytest.fixture
def stage(ballots: Ballots) -> Stage:
    return Stage(parse(STORY), ballots, toss=last)


def state(stage: Stage, voter: str | None = None) -> dict[str, Any]:
    return stage.state_for(voter)


def counts(stage: Stage) -> list[int]:
    return [option["votes"] for option in state(stage)["options"]]


def test_a_story_begins_with_its_first_step(stage: Stage) -> None:
    assert state(stage)["heading"] == "Two <b>doors</b>"
    assert state(stage)["chosen"] is None


def test_a_vote_is_counted_and_its_voter_is_told_which_it_was(stage: Stage) -> None:
    stage.vote("ann", 1, 1)
    assert counts(stage) == [0, 1]
    assert state(stage, "ann")["mine"] == 1
    assert state(stage, "bob")["mine"] is None


@pytest.mark.parametrize("option", [-1, 2])
def test_a_vote_for_an_option_that_does_not_exist_is_refused(stage: Stage, option: int) -> None:
    with pytest.raises(Refused, match="no such option"):
        stage.vote("ann", 1, option)


def test_the_option_with_the_most_votes_opens_its_step(stage: Stage) -> None:
    stage.vote("ann", 1, 0)
    stage.advance(1)
    assert state(stage)["heading"] == "The red room"
    assert state(stage)["chosen"] == "Take <u>the red</u> door"
    assert state(stage)["tossed"] is False


@pytest.mark.parametrize("voters", [[], [("ann", 0), ("bob", 1)]])
def test_among_equals_a_coin_decides_and_everybody_hears_of_it(
    stage: Stage, voters: list[tuple[str, int]]
) -> None:
    for voter, option in voters:
        stage.vote(voter, 1, option)
    stage.advance(1)
    assert state(stage)["heading"] == "The blue room"
    assert state(stage)["tossed"] is True


def test_only_the_leaders_take_part_in_the_toss(ballots: Ballots) -> None:
    three = "title: T\n[a] A\nText\n* X -> a\n* Y -> a\n* Z -> a"
    offered: list[list[int]] = []

    def toss(options: Sequence[int]) -> int:
        offered.append([*options])
        return options[0]

    stage = Stage(parse(three), ballots, toss)
    stage.vote("ann", 1, 0)
    stage.vote("bob", 1, 2)
    stage.advance(1)
    assert offered == [[0, 2]]


def test_a_vote_that_comes_after_the_vote_was_closed_is_refused(stage: Stage) -> None:
    stage.vote("ann", 1, 0)
    stage.advance(1)
    with pytest.raises(Refused, match="closed"):
        stage.vote("bob", 1, 0)


def test_the_second_of_two_quick_clicks_closes_nothing(stage: Stage) -> None:
    stage.vote("ann", 1, 0)
    stage.advance(1)
    with pytest.raises(Refused, match="closed"):
        stage.advance(1)
    assert state(stage)["heading"] == "The red room"


def test_there_is_no_way_on_from_an_ending_but_over_again(stage: Stage) -> None:
    stage.vote("ann", 1, 1)
    stage.advance(1)
    with pytest.raises(Refused, match="ended"):
        stage.advance(2)
    stage.restart(2)
    assert state(stage)["heading"] == "Two <b>doors</b>"
    assert counts(stage) == [0, 0]
    assert state(stage)["road"] == []


def test_a_stage_goes_on_where_the_last_one_stopped(stage: Stage, ballots: Ballots) -> None:
    stage.vote("ann", 1, 0)
    stage.advance(1)
    stage.vote("ann", 2, 0)
    again = Stage(parse(STORY), ballots)
    assert state(again, "ann") == state(stage, "ann")
    assert counts(again) == [1]


def test_a_step_that_was_edited_away_sends_the_show_back_to_the_start(
    stage: Stage, ballots: Ballots
) -> None:
    stage.vote("ann", 1, 0)
    stage.advance(1)
    other = Stage(parse("title: T\n[start] Something else\nText"), ballots)
    assert state(other)["heading"] == "Something else"


def test_two_pages_of_one_browser_are_one_person_and_the_presenter_is_none(stage: Stage) -> None:
    pages = [Page(voter, lambda _: None) for voter in ("ann", "ann", "bob", None)]
    for page in pages:
        stage.add(page)
    assert state(stage)["people"] == 2
    for page in pages:
        stage.remove(page)
    assert state(stage)["people"] == 0


class StuckSocket:
    """A peer whose network takes nothing until it is freed."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.free = Event()
        self.got: list[dict[str, Any]] = []

    def send(self, page: Page) -> None:
        message = self.stage.state_for(page.voter)
        assert self.free.wait(PATIENCE)
        self.got.append(message)

    def wait_for_votes(self, number: int) -> None:
        with gevent.Timeout(PATIENCE):
            while not self.got or self.got[-1]["options"][0]["votes"] != number:
                gevent.sleep(0)  # Lets the other greenlets run.


def test_a_stuck_page_holds_up_nobody_and_later_gets_the_newest_state_only(stage: Stage) -> None:
    stuck, well = StuckSocket(stage), StuckSocket(stage)
    well.free.set()
    stage.add(Page("ann", stuck.send))
    stage.add(Page("bob", well.send))
    for number in range(1, 21):
        stage.vote(f"voter {number}", 1, 0)
        well.wait_for_votes(number)
    assert stuck.got == []
    stuck.free.set()
    stuck.wait_for_votes(20)
    # The one that was on its way when the network got stuck, and the newest.
    assert len(stuck.got) == 2


def test_the_state_is_repeated_while_nothing_happens(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stage.SIGN_OF_LIFE", 0.01)
    page = StuckSocket(stage)
    page.free.set()
    stage.add(Page("ann", page.send))
    repeating = gevent.spawn(stage.repeat)
    with gevent.Timeout(PATIENCE):
        while len(page.got) < 3:
            gevent.sleep(0.01)
    repeating.kill()
