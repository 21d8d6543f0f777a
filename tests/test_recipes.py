"""The recipes of docs/broadcast-recipes.md: each program runs in two processes, with Redis."""

import contextlib
import json
import re
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

import flask
import pytest
from flask.sessions import SecureCookieSessionInterface
from gevent import get_hub

from geventws import Broadcast, HandshakeError, connect
from tests.support.servers import ROOT, serving, wait_until
from tests.test_docs import snippets_of

PAGE = ROOT / "docs" / "broadcast-recipes.md"
RECIPES = {re.match(r"# (\w+)\.py\n", snippet)[1]: snippet for snippet in snippets_of(PAGE)}
SECONDS = 10


def cookie_of(user):
    """The header of a user who has logged in: a session with the key of the recipes."""
    app = flask.Flask("recipe")
    app.secret_key = "change me"
    session = SecureCookieSessionInterface().get_signing_serializer(app).dumps({"user": user})
    return {"Cookie": f"session={session}"}


class Server:
    """A process that runs a recipe."""

    def __init__(self, process, stack):
        self.address = "{}:{}".format(*process.address)
        self.process = process
        self.stack = stack

    def connect(self, path, user=None):
        headers = cookie_of(user) if user else {}
        ws = connect(f"ws://{self.address}{path}", headers=headers)
        return self.stack.enter_context(ws)

    def post(self, path, body="", user=None):
        headers = cookie_of(user) if user else {}
        request = Request(f"http://{self.address}{path}", body.encode(), headers)
        return get_hub().threadpool.apply(lambda: urlopen(request, timeout=SECONDS).read())


@pytest.fixture
def run_recipe(redis_server, tmp_path):
    """``run_recipe(name, *environments)`` serves a recipe in as many processes; by default two."""
    with contextlib.ExitStack() as stack, redis_server.client() as admin:
        admin.flushall()

        def run(name, *environments):
            program = RECIPES[name].replace("redis://localhost", redis_server.url)
            (tmp_path / f"{name}.py").write_text(program)
            arguments = ["-m", "geventws", f"{name}:app", "--bind", "127.0.0.1:0"]
            servers = []
            for number, environment in enumerate(environments or [{}, {}]):
                log = tmp_path / f"log{number}"
                process = serving(arguments, log, cwd=tmp_path, **environment)
                servers.append(Server(stack.enter_context(process), stack))
            return servers

        yield run


@pytest.fixture
def wait_for_subscribers(redis_server):
    """``wait_for_subscribers(channel, count)``: the subscriptions follow the 101."""
    broadcast = Broadcast(redis_server.url)
    yield lambda channel, count: wait_until(
        lambda: broadcast.subscribers(channel) == count, f"the number of subscribers is not {count}"
    )
    broadcast.close()


def receive(ws, count=1):
    return [ws.receive(timeout=SECONDS) for _ in range(count)]


def test_every_recipe_is_tested():
    source = (ROOT / "tests" / "test_recipes.py").read_text()
    assert len(RECIPES) == 9
    for name in RECIPES:
        assert f'run_recipe("{name}"' in source


def test_a_logout_ends_all_connections_of_the_user_in_all_processes(
    run_recipe, wait_for_subscribers
):
    one, two = run_recipe("logout")
    with pytest.raises(HandshakeError, match="401"):
        one.connect("/chat")
    ann = [one.connect("/chat", "ann"), one.connect("/chat", "ann"), two.connect("/chat", "ann")]
    bob = two.connect("/chat", "bob")
    wait_for_subscribers("chat", 4)
    bob.send("hello")
    for ws in (*ann, bob):
        assert receive(ws) == ["hello"]
    assert one.post("/logout", user="ann") == b"goodbye"
    for ws in ann:
        assert receive(ws) == [None]
        assert (ws.close_code, ws.close_reason) == (4401, "logged out")
    bob.send("still here")
    assert receive(bob) == ["still here"]


def test_who_is_no_member_of_a_room_gets_403(run_recipe, wait_for_subscribers):
    one, two = run_recipe("rooms")
    for room, user in (("office", "bob"), ("kitchen", None), ("cellar", "ann")):
        with pytest.raises(HandshakeError, match="403"):
            one.connect(f"/rooms/{room}", user)
    ann, bob = one.connect("/rooms/kitchen", "ann"), two.connect("/rooms/kitchen", "bob")
    office = two.connect("/rooms/office", "ann")
    wait_for_subscribers("room:kitchen", 2)
    ann.send("dinner")
    office.send("work")
    assert receive(ann) == receive(bob) == ["dinner"]
    assert receive(office) == ["work"]


def test_each_channel_of_a_dialogue_is_checked(run_recipe):
    one, two = run_recipe("dialogue")
    with pytest.raises(HandshakeError, match="401"):
        one.connect("/rooms")
    ann, bob = one.connect("/rooms", "ann"), two.connect("/rooms", "bob")
    for ws, room, answer in (
        (bob, "office", "refused"),
        (bob, "cellar", "refused"),
        (bob, "kitchen", "subscribed"),
        (ann, "kitchen", "subscribed"),
        (ann, "office", "subscribed"),
    ):
        ws.send_json({"subscribe": room})
        assert ws.receive_json(SECONDS) == {answer: room}
    ann.send_json({"subscribe": "office"})  # has no effect
    ann.send_json({"subscribe": "cellar"})
    assert ann.receive_json(SECONDS) == {"refused": "cellar"}


def test_who_sends_too_many_messages_is_closed_with_1008(run_recipe, wait_for_subscribers):
    one, two = run_recipe("rate")
    fast, slow = one.connect("/chat"), two.connect("/chat")
    wait_for_subscribers("chat", 2)
    for number in range(40):
        with contextlib.suppress(OSError):  # it may be closed already
            fast.send(str(number))
    for text in iter(fast.receive, None):
        assert int(text) < 20
    assert fast.close_code == 1008
    slow.send("slow")
    heard = list(iter(lambda: slow.receive(SECONDS), "slow"))
    assert heard == [str(number) for number in range(len(heard))]
    assert 10 <= len(heard) < 20  # some tokens may have been added on a slow machine


def test_a_message_reaches_all_devices_of_a_user(run_recipe, wait_for_subscribers):
    one, two = run_recipe("devices")
    ann = [
        one.connect("/notifications", "ann"),
        two.connect("/notifications", "ann"),
    ]
    bob = one.connect("/notifications", "bob")
    wait_for_subscribers("user:ann", 2)
    wait_for_subscribers("user:bob", 1)
    assert json.loads(two.post("/notify/ann", "hällo", "admin")) == {"devices": 2}
    for ws in ann:
        assert receive(ws) == ["hällo"]
    assert json.loads(two.post("/notify/bob", "for Bob", "admin")) == {"devices": 1}
    assert receive(bob) == ["for Bob"]


def test_two_applications_with_prefixes_share_one_redis(run_recipe, wait_for_subscribers):
    shop, other = run_recipe("prefix", {"CHANNEL_PREFIX": "shop:"}, {"CHANNEL_PREFIX": "other:"})
    buyer, stranger = shop.connect("/orders"), other.connect("/orders")
    wait_for_subscribers("other:orders", 1)
    buyer.send("a book")
    assert receive(buyer) == ["orders: a book"]
    stranger.send("a boat")
    assert receive(stranger) == ["orders: a boat"]


def test_the_history_has_different_sizes_by_pattern(run_recipe, wait_for_subscribers):
    one, two = run_recipe("scores")
    early = one.connect("/matches/final")
    wait_for_subscribers("typing:final", 1)
    for number in range(3):
        for kind in ("score", "chat", "typing"):
            answer = json.loads(two.post(f"/{kind}/final", f"{kind} {number}"))
            assert (answer["id"] is None) == (kind == "typing")
    assert len(receive(early, 9)) == 9
    late = two.connect("/matches/final")
    assert sorted(receive(late, 4)) == ["chat 0", "chat 1", "chat 2", "score 2"]
    wait_for_subscribers("typing:final", 2)
    one.post("/typing/final", "last")
    assert receive(late) == ["last"]


def test_a_client_that_has_received_no_message_comes_back_by_its_position(run_recipe):
    one, two = run_recipe("position")
    first = one.connect("/chat")
    hello = first.receive_json(SECONDS)
    assert hello["id"]
    first.close()
    writer = two.connect("/chat")
    writer.receive_json(SECONDS)
    for text in ("a", "b"):
        writer.send(text)
        assert writer.receive_json(SECONDS)["text"] == text
    back = two.connect(f"/chat?since={quote(hello['id'])}")
    assert [back.receive_json(SECONDS)["text"] for _ in range(2)] == ["a", "b"]
    again = back.receive_json(SECONDS)
    assert again["recovered"] is True
    back.close()
    back = one.connect(f"/chat?since={quote(again['id'])}")
    assert back.receive_json(SECONDS) == again


def test_a_client_of_two_channels_comes_back_to_both(run_recipe):
    one, two = run_recipe("channels")
    first = one.connect("/live")
    assert first.receive_json(SECONDS) == {"news": True, "sports": True}
    first.send("news headline")
    first.send("sports result")
    heard = [first.receive_json(SECONDS) for _ in range(2)]
    assert sorted((it["channel"], it["text"]) for it in heard) == [
        ("news", "headline"),
        ("sports", "result"),
    ]
    since = {it["channel"]: it["id"] for it in heard}
    first.close()
    other = two.connect("/live")
    other.receive_json(SECONDS)
    for text in ("news more", "sports again"):
        other.send(text)
        other.receive_json(SECONDS)
    back = two.connect(f"/live?{urlencode(since)}")
    missed = [back.receive_json(SECONDS) for _ in range(2)]
    assert sorted((it["channel"], it["text"]) for it in missed) == [
        ("news", "more"),
        ("sports", "again"),
    ]
    assert back.receive_json(SECONDS) == {"news": True, "sports": True}
