"""The show in four workers that share one Redis: all users see the same show."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from votes_support import PATIENCE, STORY, receive, send, votes
from websockets.sync.client import ClientConnection, connect

from tests.support.redis import RedisServer
from tests.support.servers import Process, serving

WORKERS = 4
PROGRAM = [
    "-m",
    "gunicorn",
    "-k",
    "geventws.Worker",
    "-w",
    str(WORKERS),
    "-b",
    "127.0.0.1:0",
    "--graceful-timeout",
    "2",
    "--chdir",
    "examples/flask_votes",
    "votes:worker()",
]
Enter = Callable[..., ClientConnection]


@pytest.fixture
def server(start_redis: Callable[..., RedisServer]) -> RedisServer:
    return start_redis("--appendonly", "yes")


@pytest.fixture
def show(server: RedisServer, tmp_path: Path) -> Iterator[Process]:
    story = tmp_path / "story.txt"
    story.write_text(STORY)
    settings = {"BROADCAST_URL": server.url, "STORY": str(story), "PRESENTER_TOKEN": "sesame"}
    with serving(PROGRAM, tmp_path / "log", **settings) as show:
        show.wait_for(f"(?s)(You present at .*){{{WORKERS}}}")
        yield show


@pytest.fixture
def enter(show: Process) -> Iterator[Enter]:
    """``enter("ann")``: a page of a browser, ``enter()``: the presenter's."""
    with ExitStack() as pages:

        def enter_(name: str = "") -> ClientConnection:
            path = "live" if name else "presenter/live"
            cookie = f"votes_voter={name:x<22}" if name else "votes_presenter=sesame"
            page = connect(
                f"ws://127.0.0.1:{show.address[1]}/{path}",
                proxy=None,
                additional_headers={"Cookie": cookie},
                close_timeout=PATIENCE,
                max_queue=None,
            )
            return pages.enter_context(page)

        yield enter_


def worker_of(show: Process, page: ClientConnection) -> int:
    """The process at the other end of a connection."""
    port = page.socket.getsockname()[1]
    return next(
        worker.pid
        for worker in psutil.Process(show.process.pid).children()
        if any(peer.raddr and peer.raddr.port == port for peer in worker.net_connections())
    )


def enter_everywhere(show: Process, enter: Enter) -> dict[str, ClientConnection]:
    """Browsers with a page each, in at least two of the workers."""
    pages: dict[str, ClientConnection] = {}
    while len({worker_of(show, page) for page in pages.values()}) < 2:
        name = f"voter{len(pages)}"
        pages[name] = enter(name)
    return pages


def test_all_workers_count_the_same_votes_and_open_the_same_step(show, enter):
    presenter, pages = enter(), enter_everywhere(show, enter)
    everyone = [presenter, *pages.values()]
    now = receive(presenter, lambda state: state["people"] == len(pages))["round"]
    for page in pages.values():
        send(page, do="vote", round=now, option=1)
    for page in everyone:
        receive(page, votes(0, len(pages)))
    one = next(iter(pages.values()))
    send(one, do="vote", round=now, option=0)
    for page in everyone:
        receive(page, votes(1, len(pages) - 1))

    send(presenter, do="restart", round=now)
    for page in everyone:
        assert receive(page, votes(0, 0))["round"] == now + 1
    send(one, do="vote", round=now, option=0)
    assert receive(one, lambda state: state["type"] == "refused")["reason"].startswith("That vote")


def test_of_two_presenters_who_click_at_once_one_opens_the_next_step(show, enter):
    presenters = [enter() for _ in range(4)]
    now = receive(presenters[0])["round"]
    for presenter in presenters:
        send(presenter, do="restart", round=now)
    rounds = {receive(page, lambda s: s.get("round", 0) > now)["round"] for page in presenters}
    assert rounds == {now + 1}


def test_the_show_goes_on_when_a_worker_is_killed(show, enter):
    pages = enter_everywhere(show, enter)
    first, *_, last = pages
    page, other = pages[first], pages[last]
    now = receive(page)["round"]
    send(page, do="vote", round=now, option=0)
    receive(other, votes(1, 0))
    os.kill(worker_of(show, page), signal.SIGKILL)
    back = enter(first)
    assert receive(back, votes(1, 0))["mine"] == 0
    send(back, do="vote", round=now, option=1)
    receive(other, votes(0, 1))


def test_without_redis_votes_are_refused_and_then_counted_again(server, show, enter):
    ann = enter("ann")
    now = receive(ann)["round"]
    server.kill()
    send(ann, do="vote", round=now, option=0)
    refused = receive(ann, lambda state: state["type"] == "refused")
    assert refused["reason"] == "Votes cannot be counted at the moment. Please try again."
    server.start()
    show.wait_for("works again")
    send(ann, do="vote", round=now, option=0)
    assert receive(ann, votes(1, 0))["mine"] == 0
    assert "Traceback" not in show.output
