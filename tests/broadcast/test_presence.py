"""Presence: its events, its limits, and processes that end. The contract has the other tests."""

import json
import os
import signal

import gevent
import pytest

from geventws import Broadcast, BroadcastError, connect
from geventws.broadcast import presence
from geventws.broadcast.members import Roster
from geventws.testing.broadcast import Site
from tests.support.servers import serving
from tests.support.tools import SECONDS, wait_until


@pytest.fixture
def site():
    site = Site("memory://", spans_processes=False)
    yield site
    site.close()


# ---------------------------------------------------------------------- events


def test_a_function_of_the_application_makes_the_messages(site):
    def show(event):
        return f"{event.channel} {event.kind} {event.members}".encode()

    broadcast = site.process(presence=show)
    ann, bob = site.connect(), site.connect()
    broadcast.subscribe("room", ann.ws, member={"name": "Ann"}, key="a")
    ended = broadcast.subscribe("room", bob.ws, member={"name": "Bob"}, key="b")
    ended.close()
    assert ann.receive(3) == [
        b"room members {'a': {'name': 'Ann'}}",
        b"room joined {'b': {'name': 'Bob'}}",
        b"room left {'b': {'name': 'Bob'}}",
    ]


def test_a_function_that_fails_skips_one_event_and_the_next_one_is_sent(site, caplog):
    def show(event):
        if event.kind == "joined":
            raise ValueError(event.kind)
        return event.to_json()

    broadcast = site.process(presence=show)
    ann = site.observe(broadcast, "room", "ann")
    bob = site.observe(broadcast, "room", "bob")
    bob.wait_for({"ann": True, "bob": True})
    ann.leave()
    bob.wait_for({"bob": True})
    assert "cannot be sent and was dropped" in caplog.text


def test_events_go_to_members_only_and_messages_to_all(site):
    broadcast = site.process()
    ann, listener = site.connect(), site.connect()
    broadcast.subscribe("room", listener.ws)
    broadcast.subscribe("room", ann.ws, member="Ann", key="ann")
    broadcast.publish("room", "hello")
    assert listener.receive(1) == ["hello"]
    assert ann.receive(2) == ['{"type": "members", "members": [["ann", "Ann"]]}', "hello"]


def test_a_detached_websocket_is_a_member_until_its_end(serve):
    broadcast = Broadcast()

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        broadcast.subscribe(["a", "b"], ws, member=1)
        ws.detach()
        return []

    server = serve(app)
    with server.client().open("/") as client:
        events = [json.loads(client.read_frame()[1]) for _ in "ab"]
        assert [event["type"] for event in events] == ["members", "members"]
        assert list(broadcast.members("a").values()) == [1]
        assert broadcast.members("a") == broadcast.members("b")
    wait_until(lambda: broadcast.members("a") == broadcast.members("b") == {})


def test_events_of_a_large_room_are_joined(site, monkeypatch):
    monkeypatch.setattr(presence, "_PAUSE", 0.01)
    broadcast = site.process()
    watchers = [site.observe(broadcast, "room", f"w{number}") for number in range(5)]
    jobs = [gevent.spawn(site.observe, broadcast, "room", f"d{number}") for number in range(20)]
    comers = [job.get(timeout=SECONDS) for job in jobs]
    for watcher in [*watchers, *comers]:
        watcher.wait_for({it.key: True for it in [*watchers, *comers]})
    assert max(len(keys) for _, keys in watchers[-1].events) >= 20


# ---------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("member", "key", "problem"),
    [
        ({1, 2}, None, TypeError),
        ("x", 5, TypeError),
        (None, "key", ValueError),
        (float("nan"), None, ValueError),
        ("x" * 4095, None, ValueError),
        ("é" * 700, None, ValueError),
        (json.loads("[" * 101 + "]" * 101), None, ValueError),
        (json.loads("[" * 900 + "]" * 900), None, ValueError),
        ("x", "k" * 255, ValueError),
    ],
)
def test_an_invalid_member_is_refused_before_the_101(site, member, key, problem):
    broadcast = site.process()
    ann = site.connect()
    with pytest.raises(problem):
        broadcast.subscribe("room", ann.ws, member=member, key=key)
    assert broadcast.members("room") == {}
    assert broadcast.subscribers("room") == 0


def test_the_longest_member_and_key_are_accepted(site):
    broadcast = site.process()
    site.observe(broadcast, "room", "k" * 254, "x" * 4094).wait_for({"k" * 254: "x" * 4094})


def test_brackets_in_strings_are_no_levels_of_a_member(site):
    member = json.loads("[" * 100 + '"' + '\\"[{' * 100 + '"' + "]" * 100)
    site.observe(site.process(), "room", "ann", member).wait_for({"ann": member})


def test_a_member_above_the_limit_of_a_channel_is_refused(site, monkeypatch):
    monkeypatch.setattr(presence, "MAX_ENTRIES", 1)
    broadcast = site.process()
    ann = site.observe(broadcast, "room", "ann")
    with pytest.raises(BroadcastError, match="which is the limit"):
        site.observe(broadcast, "room", "bob")
    assert broadcast.members("room") == {"ann": True}
    assert broadcast.subscribers("room") == 1
    ann.leave()
    site.observe(broadcast, "room", "bob").wait_for({"bob": True})


def test_a_backend_without_presence_refuses_members(site, monkeypatch):
    broadcast = site.process()
    monkeypatch.setattr(broadcast._backend, "has_members", False)
    with pytest.raises(NotImplementedError, match="no presence"):
        broadcast.subscribe("room", site.connect().ws, member=1)


# ---------------------------------------------------------------------- roster


def entry(version, key, member):
    return f"{version} {json.dumps([key, member])}"


def test_a_roster_has_the_order_of_versions_and_of_numbers_in_any_order_of_entries():
    entries = {
        "p:10": entry(7, "b", 1),
        "p:9": entry(7, "a", 1),
        "q:1": entry(8, "a", 2),
        "p:2": entry(6, "c", 1),
    }
    one, other = Roster(), Roster()
    one.load(8, entries)
    other.load(8, dict(reversed(entries.items())))
    assert list(one.texts()) == list(other.texts()) == ['["c", 1]', '["a", 2]', '["b", 1]']


def test_changes_that_cancel_each_other_are_no_difference():
    roster = Roster()
    roster.load(1, {"p:1": entry(1, "a", 1)})
    roster.take_difference()
    roster.apply(2, ["-p:1", '+p:2 ["b", 1]'])
    roster.apply(3, ['+p:3 ["a", 1]', "-p:2"])
    assert roster.take_difference() == ({}, {}, {})
    roster.apply(4, ['+p:4 ["a", 2]'])
    assert roster.take_difference() == ({}, {"a": '["a", 2]'}, {})
    roster.load(5, {"p:5": entry(5, "c", 1)})
    assert roster.take_difference() == ({"c": '["c", 1]'}, {}, {"a": '["a", 2]'})


def test_a_version_of_another_epoch_is_neither_known_nor_next():
    roster = Roster()
    roster.load(10_000_000, {})
    assert roster.has_reached(9_999_999)
    assert roster.is_ahead(10_000_001)
    for version in (1, 20_000_000):
        assert not roster.has_reached(version)
        assert not roster.is_ahead(version)


# ------------------------------------------------------------------- processes


@pytest.fixture
def start(redis_server, tmp_path):
    """``with start(lease) as (process, connect):`` serves two workers."""

    def start_(lease):
        program = "-m gunicorn -k geventws.Worker -w 2 -b 127.0.0.1:0 tests.support.members_app:app"
        return serving(
            program.split(), tmp_path / "log", BROADCAST_URL=redis_server.url, LEASE=str(lease)
        )

    return start_


def join_until_both_workers_have_members(process, broadcast):
    clients = []
    while len(set(broadcast.members("room").values())) < 2:
        url = f"ws://127.0.0.1:{process.address[1]}/{len(clients)}"
        clients.append(connect(url))
        clients[-1].receive(SECONDS)
    return clients


def test_members_of_a_worker_that_was_killed_leave_once(redis_server, start):
    with start(lease=1.2) as process, Broadcast(redis_server.url) as broadcast:
        clients = join_until_both_workers_have_members(process, broadcast)
        members = broadcast.members("room")
        killed = next(iter(members.values()))
        lost = {key for key, pid in members.items() if pid == killed}
        witness = next(clients[int(key)] for key in members if key not in lost)
        os.kill(killed, signal.SIGKILL)
        left = set()
        while left != lost:
            event = json.loads(witness.receive(SECONDS))
            if event["type"] == "left":
                keys = {key for key, _ in event["members"]}
                assert not left & keys
                left |= keys
        assert broadcast.members("room").keys() == members.keys() - lost


def test_members_of_a_worker_that_shuts_down_leave_at_once(redis_server, start):
    with Broadcast(redis_server.url) as broadcast:
        with start(lease=600) as process:
            for client in join_until_both_workers_have_members(process, broadcast):
                gevent.spawn(list, client)  # whoever does not read does not answer a Close frame
            process.stop()
        assert broadcast.members("room") == {}
