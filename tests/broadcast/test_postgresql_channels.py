"""Which messages a channel passes on, and in which order: without a server."""

import pytest

from geventws import BroadcastError
from geventws.broadcast.postgresql_channels import ChannelState, Stored
from geventws.broadcast.postgresql_messages import Notification


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
