"""Messages to large audiences: sent in slices, in order, and to those who are there."""

import gevent
import pytest

from geventws import Broadcast
from geventws.broadcast import sending
from tests.support.client import CLOSE, TEXT, frame
from tests.support.room import texts
from tests.support.tools import wait_until


@pytest.fixture
def room(make_room, monkeypatch):
    """A room in which four sockets are a large audience, which is served one after the other."""
    monkeypatch.setattr(sending, "MAX_COST_AT_ONCE", 3 * sending._COST)
    monkeypatch.setattr(sending, "_STEP_COST", 1)
    monkeypatch.setattr(sending, "_SLICE", 0)
    return make_room(Broadcast(history=100))


def test_a_large_audience_hears_everything_in_order(room):
    clients = [room.join() for _ in range(10)]
    for number in range(50):
        room.broadcast.publish("room", str(number))
    for client in clients:
        assert texts(client, 50) == [str(number) for number in range(50)]


def test_others_run_while_a_large_audience_is_served(room):
    clients = [room.join() for _ in range(10)]
    seen = []

    def watch():
        while room.broadcast._sender._queue:
            seen.append(room.broadcast._sender._queue[0].position)
            gevent.sleep(0)

    room.broadcast.publish("room", "large")
    watching = gevent.spawn(watch)
    for client in clients:
        assert texts(client, 1) == ["large"]
    watching.join()
    assert len(set(seen)) > 5


def test_a_small_channel_overtakes_a_large_one(room):
    clients = [room.join() for _ in range(10)]
    other = room.join("small")
    room.broadcast.publish("room", "large")
    room.broadcast.publish("small", "small")
    assert room.broadcast._sender._queue
    assert texts(other, 1) == ["small"]
    for client in clients:
        assert texts(client, 1) == ["large"]


def test_who_leaves_meanwhile_hears_nothing_more_and_who_joins_nothing_old(room):
    clients = [room.join() for _ in range(10)]
    first = room.broadcast.publish("room", "first")
    room.subscriptions[-1].close()
    newcomer = room.subscriptions[-1].ws
    room.broadcast.subscribe("room", newcomer)
    room.broadcast.subscribe("room", room.subscriptions[-2].ws, since=first)
    room.broadcast.publish("room", "second")
    for client in clients[:-2]:
        assert texts(client, 2) == ["first", "second"]
    for client in clients[-2:]:
        assert texts(client, 1) == ["second"]


def test_who_leaves_before_its_turn_knows_where_it_stood(room):
    clients = [room.join() for _ in range(10)]
    first = room.broadcast.publish("room", "first")
    for client in clients:
        assert texts(client, 1) == ["first"]
    second = room.broadcast.publish("room", "second")
    leaver = room.subscriptions[-1]
    assert (room.broadcast._channels["room"].position, leaver.position) == (second, first)
    leaver.close()
    assert leaver.position == first
    back = room.broadcast.subscribe("room", leaver.ws, leaver.position)
    assert back.recovered is True
    assert texts(clients[-1], 1) == ["second"]
    assert room.subscriptions[0].position in {first, second}
    for client in clients[:-1]:
        assert texts(client, 1) == ["second"]
    assert room.subscriptions[0].position == second


def test_an_excluded_socket_is_passed_over_and_its_position_moves_on(room):
    clients = [room.join() for _ in range(10)]
    sender = room.subscriptions[4]
    id_ = room.broadcast.publish("room", "own", exclude=sender.ws)
    wait_until(lambda: not room.broadcast._sender._queue)
    assert sender.position == id_
    room.broadcast.publish("room", "next")
    assert texts(clients.pop(4), 1) == ["next"]
    for client in clients:
        assert texts(client, 2) == ["own", "next"]


def test_a_message_to_fewer_keeps_its_place_behind_one_to_many(room):
    clients = [room.join() for _ in range(10)]
    room.broadcast.publish("room", "first")
    for subscription in room.subscriptions[2:]:
        room.broadcast.unsubscribe("room", subscription.ws)
    room.broadcast.publish("room", "second")
    for client in clients[:2]:
        assert texts(client, 2) == ["first", "second"]


def test_a_slow_peer_in_a_large_audience_is_closed(make_room, monkeypatch):
    monkeypatch.setattr(sending, "MAX_COST_AT_ONCE", 0)
    room = make_room(max_send_buffer=65536)
    slow, quick = room.join(), room.join()
    message = "x" * 50_000
    for _ in range(200):
        room.broadcast.publish("room", message)
        assert quick.read_frame() == (TEXT, message.encode())
    while (arrived := slow.read_frame())[0] == TEXT:
        pass
    assert arrived == (CLOSE, b"\x03\xf5too slow")
    wait_until(lambda: room.broadcast.subscribers("room") == 1)


def test_what_waits_takes_a_bounded_amount_of_memory(room, monkeypatch):
    monkeypatch.setattr(sending, "_MAX_SIZE", 1 << 20)
    clients = [room.join() for _ in range(5)]
    largest = 0
    for number in range(100):
        room.broadcast.publish("room", f"{number:02}" + "x" * 10_000)
        largest = max(largest, room.broadcast._sender._size)
    assert 1_000_000 < largest <= 1 << 20
    for client in clients:
        assert [text[:2] for text in texts(client, 100)] == [f"{i:02}" for i in range(100)]
    wait_until(lambda: room.broadcast._sender._size == 0)


def test_the_own_answer_of_a_publisher_may_come_before_its_message_to_many(room):
    clients = [room.join() for _ in range(10)]

    def react(ws, channel, message):
        room.broadcast.publish(channel, message)
        ws.send("answer")

    room.react = react
    clients[0].send(frame(TEXT, "question"))
    assert sorted(texts(clients[0], 2)) == ["answer", "question"]


def test_a_broadcast_that_is_closed_drops_what_was_not_sent(room):
    clients = [room.join() for _ in range(5)]
    room.broadcast.publish("room", "unsent")
    room.broadcast.close()
    assert not room.broadcast._sender._queue
    room.subscriptions[0].ws.send("sent")
    assert texts(clients[0], 1) == ["sent"]
