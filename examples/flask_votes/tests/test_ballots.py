from collections.abc import Iterator
from pathlib import Path

import pytest
from ballots import Ballots, Round, opened


@pytest.fixture
def ballots(tmp_path: Path) -> Iterator[Ballots]:
    with opened(tmp_path / "votes.sqlite3") as ballots:
        yield ballots


def test_a_new_file_has_no_round(ballots: Ballots) -> None:
    assert ballots.current_round() is None


def test_the_round_opened_last_is_the_current_one(ballots: Ballots) -> None:
    ballots.open_round("start")
    opened_last = ballots.open_round("cave", "Go in", tossed=True)
    assert ballots.current_round() == opened_last == Round(2, "cave", "Go in", tossed=True)


def test_votes_are_counted_by_option(ballots: Ballots) -> None:
    now = ballots.open_round("start").id
    for voter, option in (("ann", 0), ("bob", 2), ("cy", 2)):
        ballots.cast(now, voter, option)
    assert ballots.counts(now) == {0: 1, 2: 2}
    assert ballots.choice(now, "bob") == 2
    assert ballots.choice(now, "dan") is None


def test_a_second_vote_replaces_the_first(ballots: Ballots) -> None:
    now = ballots.open_round("start").id
    ballots.cast(now, "ann", 0)
    ballots.cast(now, "ann", 1)
    assert ballots.counts(now) == {1: 1}


def test_each_round_is_voted_on_anew(ballots: Ballots) -> None:
    first = ballots.open_round("start").id
    ballots.cast(first, "ann", 0)
    second = ballots.open_round("start", "Back").id
    assert ballots.counts(second) == {}
    assert ballots.counts(first) == {0: 1}


def test_the_road_is_what_was_chosen_since_the_story_last_began(ballots: Ballots) -> None:
    ballots.open_round("start")
    ballots.open_round("cave", "Go in")
    ballots.open_round("start")
    assert ballots.road() == []
    ballots.open_round("shore", "Turn back")
    ballots.open_round("boat", "Row")
    assert ballots.road() == ["Turn back", "Row"]


def test_everything_is_there_again_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite3"
    with opened(path) as ballots:
        now = ballots.open_round("start")
        ballots.cast(now.id, "ann", 1)
        secret = ballots.secret("presenter")
    with opened(path) as ballots:
        assert ballots.current_round() == now
        assert ballots.counts(now.id) == {1: 1}
        assert ballots.secret("presenter") == secret


def test_secrets_are_long_and_differ(ballots: Ballots) -> None:
    assert ballots.secret("presenter") != ballots.secret("other")
    assert len(ballots.secret("presenter")) >= 22
