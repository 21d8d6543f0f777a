"""Which messages a channel passes on, and in which order: without a server."""

import base64
from collections import deque

import gevent
import pytest

from geventws import BroadcastError
from geventws.broadcast import postgresql
from geventws.broadcast.postgresql import PostgreSQLBackend
from geventws.broadcast.postgresql_channels import ChannelState, Stored
from geventws.broadcast.postgresql_connections import parse_url
from geventws.broadcast.postgresql_listener import Listener
from geventws.broadcast.postgresql_messages import Notification
from tests.support.tools import SECONDS, wait_until


class Receiver:
    def __init__(self):
        self.got = []

    def deliver(self, message):
        self.got.append((message.id or "-") + " " + message.data)

    def miss(self, channel, count):
        self.got.append(f"missed {count}")


@pytest.fixture
def receiver():
    return Receiver()


@pytest.fixture
def live(receiver):
    """A channel at the position 7-2."""
    state = ChannelState("room", True, receiver)
    assert state.start_listening()
    assert state.apply(Stored(7, 2, ()), 0, {})
    assert (state.position, state.is_live) == ((7, 2), True)
    return state


def kept(epoch, number, body=b"\x01x"):
    return Notification("room", (epoch, number), body, None)


def passing(text):
    return Notification("room", None, b"\x01" + text.encode(), None)


def test_live_messages_are_passed_on_once(live, receiver):
    for notification in (kept(7, 1), kept(7, 2), kept(7, 3), kept(7, 3), passing("p"), kept(7, 4)):
        assert not live.handle(notification)
    assert receiver.got == ["7-3 x", "- p", "7-4 x"]


def test_a_new_epoch_starts_with_its_first_message(live, receiver):
    assert not live.handle(kept(8, 1))
    assert not live.handle(kept(8, 2))
    assert receiver.got == ["8-1 x", "8-2 x"]


@pytest.mark.parametrize("notification", [kept(7, 4), kept(8, 2), kept(6, 1)])
def test_a_gap_is_filled_from_the_table(live, receiver, notification):
    assert live.handle(notification)
    assert not live.is_live
    epoch, number = notification.id
    assert live.apply(Stored(epoch, number, [(number, b"\x01x")]), 1, {})
    missed = [f"missed {number - 1 - 2 * (epoch == 7)}"] if number > 1 else []
    assert receiver.got == [*missed, f"{epoch}-{number} x"]
    assert live.position == notification.id


def test_a_late_notification_of_an_old_epoch_is_dropped(live, receiver):
    assert live.handle(kept(6, 9))
    assert live.apply(Stored(7, 2, ()), 1, {})
    assert (receiver.got, live.position) == ([], (7, 2))


def test_messages_that_are_not_kept_keep_their_place(live, receiver):
    live.interrupt()
    assert live.start_listening()
    for notification in (passing("a"), kept(7, 4), passing("b"), kept(7, 5), passing("c")):
        assert not live.handle(notification)
    rows = [(3, b"\x01x"), (4, b"\x01x"), (5, b"\x01x"), (6, b"\x01x")]
    assert live.apply(Stored(7, 6, rows), 5, {})
    assert not live.handle(kept(7, 6))
    assert receiver.got == ["7-3 x", "- a", "7-4 x", "- b", "7-5 x", "- c", "7-6 x"]


def test_what_arrives_while_the_table_is_read_follows(live, receiver):
    live.interrupt()
    live.start_listening()
    live.handle(kept(7, 4))
    live.handle(kept(7, 5))  # after the reading began
    assert live.apply(Stored(7, 4, [(3, b"\x01x"), (4, b"\x01x")]), 1, {})
    assert receiver.got == ["7-3 x", "7-4 x", "7-5 x"]


def test_lost_messages_are_counted_in_their_place(live, receiver):
    live.interrupt()
    live.start_listening()
    assert live.apply(Stored(7, 9, [(8, b"\x01x"), (9, b"\x01x")]), 0, {})
    assert receiver.got == ["missed 5", "7-8 x", "7-9 x"]


def test_large_bodies_are_waited_for_in_order(live, receiver):
    assert live.handle(Notification("room", (7, 3), None, (1, 3)))
    assert not live.handle(Notification("room", None, None, (0, 42)))
    assert not live.handle(kept(7, 4))
    assert live.references() == [(1, 3), (0, 42)]
    assert not live.apply(None, 3, {(1, 3): b"\x01large"})
    assert live.apply(None, 2, {(0, 42): b"\x01passing"})
    assert receiver.got == ["7-3 large", "- passing", "7-4 x"]


def test_a_large_body_that_is_deleted_is_missed(live, receiver):
    live.handle(Notification("room", (7, 3), None, (1, 3)))
    live.handle(Notification("room", None, None, (0, 42)))
    assert live.apply(None, 2, {(1, 3): None, (0, 42): None})
    assert not live.handle(kept(7, 4))
    assert receiver.got == ["missed 1", "missed 1", "7-4 x"]


def test_too_many_waiting_messages_are_read_from_the_table(live, receiver):
    live.handle(kept(7, 4))
    for number in range(5, 5000):
        live.handle(kept(7, number, b"\x01" + bytes(5000)))
    assert live.overflows == 1
    assert len(live.waiting) < 4000
    assert live.needs_read
    assert live.apply(Stored(7, 4999, [(4999, b"\x01x")]), len(live.waiting), {})
    assert receiver.got == ["missed 4996", "4999 x".join(["7-", ""])]


def test_messages_of_other_programs_are_passed_over(live, receiver):
    live.handle(kept(7, 3, b"\x01\xff"))
    live.handle(kept(7, 4, b""))
    live.handle(kept(7, 5))
    assert receiver.got == ["7-5 x"]


def test_without_a_history_nothing_is_read(receiver):
    state = ChannelState("room", False, receiver)
    state.handle(passing("before"))
    assert not state.start_listening()
    state.handle(kept(3, 9))  # another process has a history
    state.handle(passing("p"))
    assert receiver.got == ["3-9 x", "- p"]


def test_to_wait_for_a_position_is_bounded(live):
    live.wait_for((7, 2), 0)
    with pytest.raises(BroadcastError, match="do not arrive"):
        live.wait_for((7, 3), 0.01)
    live.end()
    live.wait_for((7, 3), 10)


def test_stored_messages_that_arrive_before_the_position_is_known_keep_their_place(receiver):
    state = ChannelState("room", True, receiver)
    state.start_listening()
    for notification in (passing("a"), kept(7, 2), passing("b"), kept(7, 3), passing("c")):
        assert not state.handle(notification)
    assert state.apply(Stored(7, 3, ()), 5, {})
    assert receiver.got == ["- a", "7-2 x", "- b", "7-3 x", "- c"]
    assert state.position == (7, 3)


def test_a_large_message_that_arrives_before_the_position_is_known_keeps_its_place(receiver):
    state = ChannelState("room", True, receiver)
    state.start_listening()
    for notification in (passing("a"), Notification("room", (7, 2), None, (1, 2)), passing("b")):
        state.handle(notification)
    assert not state.apply(Stored(7, 2, ()), 3, {})
    assert state.references() == [(1, 2)]
    assert state.apply(None, 2, {(1, 2): b"\x01large"})
    assert receiver.got == ["- a", "7-2 large", "- b"]


def test_the_first_notification_may_be_newer_than_the_position(receiver):
    state = ChannelState("room", True, receiver)
    state.start_listening()
    state.handle(kept(7, 4))  # after the reading began
    assert state.apply(Stored(7, 3, ()), 0, {})
    assert receiver.got == ["7-4 x"]


# ------------------------------------------------------------------- connections


class Connection:
    """A listening connection. What is in ``on_its_way`` arrives with the next answer."""

    def __init__(self):
        self.pgconn = self
        self.on_its_way = []
        self._arrived = deque()

    def execute(self, *_):
        self._arrived.extend(self.on_its_way)

    execute_script = execute

    def notifies(self):
        return self._arrived.popleft() if self._arrived else None


class Payload:
    def __init__(self, text):
        self.extra = text.encode()


class Owner:
    """A backend, whose tables have one channel at the position 7-10."""

    name = "postgresql://"
    settings = parse_url("postgresql://host?timeout=0.05")

    def __init__(self, receiver, has_history):
        self.state = ChannelState("room", has_history, receiver)
        self.channels = {"room": self.state}
        self.listener = Listener(self)
        self.is_up = False
        self.late = []

    def read(self, since):
        return {name: Stored(7, 10, [(10, b"\x01x")]) for name in since}

    def join(self, names):
        return dict.fromkeys(names, (7, 10))

    def read_bodies(self, _):
        return {}

    def notify(self, _, payload):
        if self.late is not None:
            for text in [*self.late, payload]:
                self.listener._handle(text.encode())

    def note_listener_up(self):
        self.is_up = True

    def note_listener_down(self, _):
        self.is_up = False


def message(id_, text):
    body = base64.b64encode(b"\x01" + text.encode()).decode()
    return f"m {id_} {base64.b64encode(b'room').decode()} {body}"


@pytest.mark.parametrize("is_new_group", [True, False])
def test_what_was_sent_before_a_channel_is_joined_is_not_for_it(receiver, is_new_group):
    owner = Owner(receiver, has_history=False)
    listener, connection = owner.listener, Connection()
    listener._connection, listener.is_connected = connection, True
    listener._new = [owner.state]
    if not is_new_group:
        listener._groups.add(owner.state.group)
    connection.on_its_way = [Payload(message("-", "before"))]
    listener._listen_to_new()
    assert owner.state.is_live
    assert owner.is_up
    listener._handle(message("-", "after").encode())
    assert receiver.got == ["- after"]


@pytest.mark.parametrize("position", [None, (7, 9)])
def test_a_channel_goes_live_after_all_that_was_stored_has_arrived(receiver, position):
    owner = Owner(receiver, has_history=True)
    state = owner.state
    state.position = position
    state.start_listening()
    owner.listener._handle(message("-", "a").encode())
    owner.late = [message("7-10", "x"), message("-", "b")]
    owner.listener._catch_up.add([state])
    assert state.settled.wait(SECONDS)
    owner.listener._handle(message("7-11", "y").encode())
    assert receiver.got == ["- a", "7-10 x", "- b", "7-11 y"]


def test_to_wait_for_what_was_sent_is_bounded(receiver):
    owner = Owner(receiver, has_history=True)
    owner.late = None  # the mark does not arrive
    with pytest.raises(BroadcastError, match="do not arrive"):
        owner.listener.wait_until_received()
    waiting = gevent.spawn(owner.listener.wait_until_received)
    gevent.sleep(0)
    owner.listener._disconnect()
    waiting.get(timeout=SECONDS)


def test_a_subscription_that_is_not_active_in_time_is_unhealthy_until_it_is(monkeypatch):
    monkeypatch.setattr(postgresql, "require_patched_sockets", lambda _: None)
    backend = PostgreSQLBackend("postgresql://host?timeout=0.01", Receiver(), 10, 60)
    monkeypatch.setattr(backend, "join", lambda names: dict.fromkeys(names, (7, 10)))
    monkeypatch.setattr(backend, "notify", lambda _, text: backend._listener._handle(text.encode()))
    monkeypatch.setattr(Listener, "_run", lambda _: None)  # it does not connect
    backend.subscribe("room")
    assert not backend.healthy
    assert backend.position("room") is None
    listener = backend._listener
    listener._connection, listener.is_connected = Connection(), True
    listener._listen_to_new()
    wait_until(lambda: backend.healthy)
    assert backend.position("room") == "7-10"
    backend.channels["room"].interrupt()
    assert backend.position("room") is None


def test_who_comes_back_while_the_position_is_not_known_misses_nothing(monkeypatch):
    backend = PostgreSQLBackend("postgresql://host?timeout=5", Receiver(), 10, 60)
    backend._listener.is_connected = True
    state = backend.channels["room"] = ChannelState("room", True, backend.receiver)
    state.start_listening()
    tables = [Stored(7, 1, [(1, b"\x01x")]), Stored(7, 2, [(1, b"\x01x"), (2, b"\x01x")])]
    monkeypatch.setattr(backend, "read", lambda since: dict.fromkeys(since, tables.pop(0)))
    gevent.spawn(state.apply, Stored(7, 2, ()), 0, {})  # after the first reading
    history = backend.history("room", "7-0")
    assert [message.id for message in history.messages] == ["7-1", "7-2"]
    assert history.complete


@pytest.mark.parametrize(
    ("timeout", "seconds"), [("0.01", 0.5), ("0.5", 0.5), ("2", 2), ("5", 5), ("60", 5)]
)
def test_who_waits_less_for_the_server_checks_it_more_often(timeout, seconds):
    assert parse_url(f"postgresql://host?timeout={timeout}").check_interval == seconds
