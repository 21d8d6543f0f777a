"""The chat in four workers that share one Redis: all users see the same chat."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import urlencode

import psutil
import pytest
from test_chat import PATIENCE, Person, close_code
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

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
    "examples/bottle_chat",
    "chat:app",
]


@pytest.fixture
def server(start_redis: Callable[..., RedisServer]) -> RedisServer:
    return start_redis("--appendonly", "yes")


@pytest.fixture
def chat(server: RedisServer, tmp_path) -> Iterator[Process]:
    with serving(PROGRAM, tmp_path / "log", BROADCAST_URL=server.url) as chat:
        chat.wait_for(f"(?s)(Booting worker.*){{{WORKERS}}}")
        yield chat


@pytest.fixture
def enter(chat: Process) -> Iterator[Callable[..., Person]]:
    """``enter(name, since="")``: a member that stays in the room until the test ends."""
    with ExitStack() as connections:

        def enter_(name: str, since: str = "") -> Person:
            query = urlencode({"name": name, "since": since})
            url = f"ws://127.0.0.1:{chat.address[1]}/ws/tea?{query}"
            ws = connect(url, proxy=None, close_timeout=PATIENCE, max_queue=None)
            return Person(connections.enter_context(ws))

        yield enter_


def processes_in_the_room(server: RedisServer) -> int:
    with server.client() as admin:
        return int(admin.pubsub_numsub("geventws:tea")[0][1])


def hear_texts(person: Person, count: int) -> list[str]:
    """The next messages, without the events about members that join or leave."""
    texts: list[str] = []
    while len(texts) < count:
        event = person.hear("message", "joined", "left")
        texts += [event["text"]] if event["type"] == "message" else []
    return texts


def test_all_workers_are_one_chat(server, chat, enter):
    people = [enter("Ada") for _ in range(8)]
    while processes_in_the_room(server) < 3:
        people.append(enter("Ada"))
    names = ["Ada", *(f"Ada {number}" for number in range(2, len(people) + 1))]
    assert [person.name for person in people] == names
    assert people[-1].members == names

    texts = [f"This is {person.name}" for person in people]
    for person, text in zip(people, texts, strict=True):
        person.say(text)
    heard = [hear_texts(person, len(people)) for person in people]

    assert sorted(heard[0]) == sorted(texts)
    assert heard == heard[:1] * len(people)


def test_nothing_is_missed_across_a_reconnect_even_if_the_worker_is_killed(server, chat, enter):
    people = [enter("Ada")]
    while processes_in_the_room(server) < 2:
        people.append(enter("Bob"))
    ada, bob = people[0], people[-1]
    ada.say("Before")
    assert hear_texts(bob, 1) == ["Before"]
    while (last := ada.hear("message", "joined"))["type"] != "message":
        pass

    os.kill(worker_of(chat, ada), signal.SIGKILL)
    bob.say("While you were away")
    assert hear_texts(bob, 1) == ["While you were away"]
    assert close_code(ada) == 1006
    back = enter("Ada", since=last["id"])

    assert [event["text"] for event in back.history] == ["While you were away"]
    assert back.recovered is True


def worker_of(chat: Process, person: Person) -> int:
    """The server process of a member's connection."""
    port = person.ws.socket.getsockname()[1]
    return next(
        worker.pid
        for worker in psutil.Process(chat.process.pid).children()
        if any(peer.raddr and peer.raddr.port == port for peer in worker.net_connections())
    )


def test_a_page_that_was_away_for_too_long_is_told_that_there_is_a_gap(chat, enter):
    ada = enter("Ada")
    ada.say("Hello")
    first = ada.hear("message")["id"]
    for number in range(60):
        ada.say(str(number))
        ada.hear("message")
    back = enter("Bob", since=first)
    assert [event["text"] for event in back.history] == [str(n) for n in range(10, 60)]
    assert back.recovered is False


def test_without_redis_newcomers_get_503_and_those_inside_are_told(server, chat, enter):
    ada = enter("Ada")
    server.kill()
    with pytest.raises(InvalidStatus) as refused:
        enter("Bob")
    assert refused.value.response.status_code == 503
    assert b"not available" in refused.value.response.body
    ada.say("Hello?")
    assert ada.hear("refused")["reason"] == "That could not be sent. Please try again later."

    server.start()
    chat.wait_for("works again")
    ada.say("Hello!")
    assert hear_texts(ada, 1) == ["Hello!"]
    assert "Traceback" not in chat.output
