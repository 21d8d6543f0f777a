import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import shared_ballots
from ballots import Ballots, Round, Unavailable, opened
from shared_ballots import SharedBallots

from tests.support.redis import RedisServer, free_port


@pytest.fixture(params=["alone", "shared"])
def ballots(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ballots]:
    """Both kinds: in a file for one process, and in Redis for several."""
    if request.param == "alone":
        with opened(tmp_path / "votes.sqlite3") as ballots:
            yield ballots
    else:
        server = request.getfixturevalue("redis_server")
        with server.client() as admin:
            admin.flushdb()
        with closing(SharedBallots(server.url)) as shared:
            yield shared


def test_a_new_file_has_no_round(ballots: Ballots) -> None:
    assert ballots.current_round() is None


def test_the_round_opened_last_is_the_current_one(ballots: Ballots) -> None:
    ballots.open_round("start")
    opened_last = ballots.open_round("cave", "Go in", tossed=True, after=1)
    assert ballots.current_round() == opened_last == Round(2, "cave", "Go in", tossed=True)


def test_everybody_has_a_vote(ballots: Ballots) -> None:
    now = ballots.open_round("start").id
    for voter, option in (("ann", 0), ("bob", 2), ("cy", 2)):
        ballots.cast(now, voter, option)
    assert ballots.votes(now) == {"ann": 0, "bob": 2, "cy": 2}


def test_a_second_vote_replaces_the_first(ballots: Ballots) -> None:
    now = ballots.open_round("start").id
    ballots.cast(now, "ann", 0)
    ballots.cast(now, "ann", 1)
    assert ballots.votes(now) == {"ann": 1}


def test_each_round_is_voted_on_anew(ballots: Ballots) -> None:
    first = ballots.open_round("start").id
    ballots.cast(first, "ann", 0)
    second = ballots.open_round("start", "Back", after=first).id
    assert ballots.votes(second) == {}
    assert ballots.votes(first) == {"ann": 0}


def test_the_road_is_what_was_chosen_since_the_story_last_began(ballots: Ballots) -> None:
    ballots.open_round("start")
    ballots.open_round("cave", "Go in", after=1)
    ballots.open_round("start", after=2)
    assert ballots.road() == []
    ballots.open_round("shore", "Turn back", after=3)
    ballots.open_round("boat", "Row", after=4)
    assert ballots.road() == ["Turn back", "Row"]


def test_everything_is_there_again_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite3"
    with opened(path) as ballots:
        now = ballots.open_round("start")
        ballots.cast(now.id, "ann", 1)
        secret = ballots.secret("presenter")
    with opened(path) as ballots:
        assert ballots.current_round() == now
        assert ballots.votes(now.id) == {"ann": 1}
        assert ballots.secret("presenter") == secret


def test_secrets_are_long_and_differ(ballots: Ballots) -> None:
    assert ballots.secret("presenter") != ballots.secret("other")
    assert len(ballots.secret("presenter")) >= 22


def test_of_two_who_open_a_round_one_does(ballots: Ballots) -> None:
    ballots.open_round("start")
    assert ballots.open_round("cave", "Go in", after=1) == Round(2, "cave", "Go in", False)
    assert ballots.open_round("shore", "Turn back", after=1) is None
    assert ballots.current_round() == Round(2, "cave", "Go in", False)


def test_without_other_workers_those_who_are_present_are_present_here(tmp_path: Path) -> None:
    with opened(tmp_path / "votes.sqlite3") as ballots:
        assert ballots.present({"ann", "bob"}) == 2
        assert ballots.present(set()) == 0


def test_who_is_present_is_known_to_all_workers_and_forgotten_with_a_dead_one(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        closing(SharedBallots(redis_server.url)) as ballots,
        closing(SharedBallots(redis_server.url)) as other,
    ):
        assert ballots.present({"ann", "bob"}) == 2
        assert other.present({"bob", "cy"}) == 3
        assert ballots.present({"ann"}) == 2  # until the other one says again that Bob is there
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + shared_ballots.LEASE / 2)
        assert other.present({"bob", "cy"}) == 3
        monkeypatch.setattr(time, "time", lambda: now + shared_ballots.LEASE + 1)
        assert other.present({"bob", "cy"}) == 2


def test_without_redis_the_ballots_are_unavailable() -> None:
    with (
        closing(SharedBallots(f"redis://127.0.0.1:{free_port()}")) as ballots,
        pytest.raises(Unavailable, match="Redis does not answer"),
    ):
        ballots.current_round()
