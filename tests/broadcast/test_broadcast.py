"""Broadcast within one process: recipients, order, and slow peers."""

import contextlib
import sys
import threading
import zlib

import gevent
import pytest
from gevent.event import AsyncResult, Event
from gevent.ssl import SSLContext

from geventws import Broadcast, BroadcastError, Deflate, HandshakeError, connect
from geventws.broadcast import Backend, History, Message
from geventws.testing import connect as connect_in_test
from tests.support.client import BINARY, CLOSE, PING, PONG, TEXT, frame
from tests.support.room import texts
from tests.support.tools import SECONDS, wait_until

# ------------------------------------------------------------------- publishing


def test_every_subscriber_gets_every_message_in_order(make_room):
    room = make_room()
    clients = [room.join() for _ in range(5)]
    for number in range(100):
        room.broadcast.publish("room", str(number))
    for client in clients:
        assert texts(client, 100) == [str(number) for number in range(100)]


def test_what_one_client_sends_all_get_it_included(make_room):
    room = make_room()
    ann, bob = room.join(), room.join()
    ann.send(frame(TEXT, "hällo"))
    assert texts(ann, 1) == texts(bob, 1) == ["hällo"]


def test_str_goes_as_text_and_bytes_as_binary(make_room):
    room = make_room()
    client = room.join()
    for message in ("text", b"bytes", bytearray(b"array"), memoryview(b"view"), "", b""):
        room.broadcast.publish("room", message)
    assert [client.read_frame() for _ in range(6)] == [
        (TEXT, b"text"),
        (BINARY, b"bytes"),
        (BINARY, b"array"),
        (BINARY, b"view"),
        (TEXT, b""),
        (BINARY, b""),
    ]


def test_channels_are_separate_and_a_socket_may_be_in_several(make_room):
    room = make_room()
    client, other = room.join("a"), room.join("b")
    room.broadcast.subscribe("b", room.subscriptions[0].ws)
    for channel in ("a", "b", "c"):
        room.broadcast.publish(channel, channel)
    assert texts(client, 2) == ["a", "b"]
    assert texts(other, 1) == ["b"]


def test_subscribing_twice_is_as_good_as_once(make_room):
    room = make_room()
    client = room.join()
    room.broadcast.subscribe("room", room.subscriptions[0].ws)
    room.broadcast.publish("room", "once")
    room.broadcast.publish("room", "and again")
    assert texts(client, 2) == ["once", "and again"]
    assert room.broadcast.subscribers("room") == 1


def test_leaving_the_block_unsubscribes(make_room):
    room = make_room()
    client, stays = room.join(), room.join()
    assert room.broadcast.subscribers("room") == 2
    client.finish()
    wait_until(lambda: room.broadcast.subscribers("room") == 1)
    room.broadcast.publish("room", "left")
    assert texts(stays, 1) == ["left"]
    assert room.broadcast.subscribers("nowhere") == 0


def test_unsubscribing_ends_the_messages_and_not_the_connection(make_room):
    room = make_room()
    client = room.join()
    ws = room.subscriptions[0].ws
    room.broadcast.unsubscribe("room", ws)
    room.broadcast.unsubscribe("room", ws)
    room.broadcast.publish("room", "unheard")
    ws.send("heard")
    assert texts(client, 1) == ["heard"]


def test_a_subscription_sends_the_101(serve):
    broadcast = Broadcast()
    left = Event()

    def view(environ, start_response):
        with broadcast.subscribe("room", environ["wsgi.websocket"]):
            left.wait(SECONDS)
        return []

    with serve(view).client() as client:
        client.open()
        broadcast.publish("room", "hello")
        assert texts(client, 1) == ["hello"]
        left.set()


def test_publishing_to_nobody_costs_nothing():
    broadcast = Broadcast()
    assert broadcast.publish("room", "hello") is None
    assert broadcast.healthy
    broadcast.close()


def test_own_answers_and_what_is_published_keep_their_order(make_room):
    """Frames of the dispatched connection are corked. Frames of other connections are not."""
    room = make_room()
    ann, bob = room.join(), room.join()

    def react(ws, channel, message):
        ws.send(f"{message} before")
        room.broadcast.publish(channel, message)
        ws.send(f"{message} after")

    room.react = react
    ann.send(b"".join(frame(TEXT, str(number)) for number in range(200)))
    own = [f"{number}{what}" for number in range(200) for what in (" before", "", " after")]
    assert texts(ann, 600) == own
    assert texts(bob, 200) == [str(number) for number in range(200)]


def test_a_message_goes_behind_the_pong_that_is_due(make_room):
    room = make_room()
    ann = room.join()
    ann.send(frame(PING, "p") + frame(TEXT, "1") + frame(TEXT, "2"))
    assert [ann.read_frame() for _ in range(3)] == [(PONG, b"p"), (TEXT, b"1"), (TEXT, b"2")]


def test_a_client_may_subscribe_what_it_is_connected_to(make_room, serve):
    """A client connection sends the published messages to its server, in masked frames."""
    broadcast = Broadcast()
    room = make_room()
    listener = room.join()
    upstream = connect(f"ws://127.0.0.1:{room.server.server_port}/room")
    with contextlib.closing(upstream), broadcast.subscribe("outgoing", upstream):
        broadcast.publish("outgoing", "hällo")
        broadcast.publish("outgoing", b"bytes")
        assert [upstream.receive(timeout=SECONDS) for _ in range(2)] == ["hällo", b"bytes"]
    assert [listener.read_frame() for _ in range(2)] == [
        (TEXT, "hällo".encode()),
        (BINARY, b"bytes"),
    ]


def test_large_messages_arrive_whole(make_room):
    room = make_room(max_message_size=2 << 20)
    clients = [room.join() for _ in range(3)]
    message = bytes(range(256)) * 4096
    readers = [gevent.spawn(client.read_frame) for client in clients]
    room.broadcast.publish("room", message)
    for reader in readers:
        assert reader.get(timeout=SECONDS) == (BINARY, message)


def test_tls(make_room, tls):
    certificate, key, context = tls
    assert isinstance(context, SSLContext)
    room = make_room(certfile=certificate, keyfile=key)
    clients = [room.join(context=context) for _ in range(2)]
    message = "x" * 100_000
    for _ in range(5):
        room.broadcast.publish("room", message)
    for client in clients:
        assert texts(client, 5) == [message] * 5


DEFLATE = [("Sec-WebSocket-Extensions", "permessage-deflate")]


def inflate(frame):
    first, payload = frame
    assert first == TEXT | 0x40
    return zlib.decompress(payload + b"\x00\x00\xff\xff\x03\x00", -15).decode()


def test_a_message_is_compressed_once_for_all_who_agreed_on_the_same(make_room, monkeypatch):
    room = make_room()
    plain = [room.join(), room.join()]
    deflated = [room.join(headers=DEFLATE) for _ in range(3)]
    deflate = room.subscriptions[-1].ws._endpoint.extension
    compressed = []
    compress = deflate.compress
    monkeypatch.setattr(deflate, "compress", lambda data: compressed.append(data) or compress(data))
    message = "hällo " * 1000
    for _ in range(2):
        room.broadcast.publish("room", message)
    room.broadcast.publish("room", "short")
    for client in plain:
        assert texts(client, 3) == [message, message, "short"]
    for client in deflated:
        assert [inflate(client.read_frame()) for _ in range(2)] == [message] * 2
        assert texts(client, 1) == ["short"]
    assert compressed == [message.encode()] * 2


def test_who_has_a_context_of_its_own_gets_its_own_compression(make_room):
    room = make_room(compression=Deflate(server_context_takeover=True, min_size=0))
    clients = [room.join(headers=DEFLATE) for _ in range(2)]
    room.subscriptions[0].ws.send("something that the others have not been sent")
    message = "something that the others have been sent"
    for _ in range(2):
        room.broadcast.publish("room", message)
    for client, own in zip(clients, (1, 0), strict=True):
        inflater = zlib.decompressobj(-15)
        frames = [client.read_frame() for _ in range(own + 2)]
        assert {first for first, _ in frames} == {TEXT | 0x40}
        heard = [
            inflater.decompress(payload + b"\x00\x00\xff\xff").decode() for _, payload in frames
        ]
        assert heard[own:] == [message] * 2
        assert len(frames[-1][1]) < 10


def test_publishers_in_other_threads_are_heard_in_their_order(make_room):
    room = make_room(Broadcast(history=1000))
    client = room.join()

    def publish(name):
        for number in range(100):
            room.broadcast.publish("room", f"{name} {number}")

    threads = [threading.Thread(target=publish, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    heard = texts(client, 200)
    for thread in threads:
        thread.join()
    for name in ("a", "b"):
        own = [text for text in heard if text.startswith(name)]
        assert own == [f"{name} {number}" for number in range(100)]
    assert [message.data for message in room.broadcast.history("room")] == heard


@pytest.mark.parametrize("channel", ["", b"room", None])
def test_a_channel_is_named_by_a_string(channel):
    broadcast = Broadcast()
    for verb in (broadcast.history, broadcast.subscribers, broadcast.listen):
        with pytest.raises(ValueError, match="the name of a channel must be"):
            verb(channel)
    with pytest.raises(ValueError, match="the name of a channel must be"):
        broadcast.publish(channel, "hello")


def test_only_text_and_bytes_can_be_published():
    with pytest.raises(TypeError, match="not dict"):
        Broadcast().publish("room", {"text": "hello"})


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("nats://localhost", {}),
        ("", {}),
        ("memory://", {"history": -1}),
        ("memory://", {"history": "3"}),
        ("memory://", {"history": 1 << 80}),
        ("memory://", {"history": {"chat:*": -1}}),
        ("memory://", {"history": {5: 1}}),
        ("memory://", {"history_ttl": 0}),
        ("memory://", {"history_ttl": float("nan")}),
        ("memory://", {"history_ttl": float("inf")}),
        ("memory://", {"history_ttl": 1e300}),
        ("memory://", {"history_ttl": None}),
        ("memory://", {"when_slow": "wait"}),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(url, options):
    with pytest.raises(ValueError, match=r"there is no broadcast backend|history|when_slow"):
        Broadcast(url, **options)


# ---------------------------------------------------------------------- slow peers


def test_a_slow_peer_is_closed_with_1013_and_delays_nobody(make_room):
    room = make_room(max_send_buffer=65536)
    slow, quick = room.join(), room.join()
    message = "x" * 50_000
    for _ in range(200):
        room.broadcast.publish("room", message)
        assert quick.read_frame() == (TEXT, message.encode())
    assert room.broadcast.subscribers("room") == 1
    got = 0
    while (arrived := slow.read_frame())[0] == TEXT:
        assert arrived[1] == message.encode()
        got += 1
    assert arrived == (CLOSE, b"\x03\xf5too slow")
    assert 0 < got < 200


def test_a_slow_peer_misses_messages_if_that_is_the_policy(make_room):
    room = make_room(Broadcast(when_slow="skip"), max_send_buffer=65536)
    slow = room.join()
    for number in range(200):
        room.broadcast.publish("room", f"{number:03}" + "x" * 50_000)
    room.react = lambda ws, channel, message: ws.send("the end")
    slow.send(frame(TEXT, "enough"))
    heard = []
    while (text := texts(slow, 1)[0]) != "the end":
        assert len(text) == 50_003
        heard.append(int(text[:3]))
    assert heard == list(range(len(heard)))
    assert 0 < len(heard) < 200
    room.broadcast.publish("room", "back again")
    assert texts(slow, 1) == ["back again"]


def test_a_peer_that_has_vanished_delays_nobody(make_room):
    room = make_room()
    gone, there = room.join(), room.join()
    gone.vanish()
    for number in range(10):
        room.broadcast.publish("room", str(number))
    assert texts(there, 10) == [str(number) for number in range(10)]
    wait_until(lambda: room.broadcast.subscribers("room") == 1)


# -------------------------------------------------------------- history, recovery


def tagged(message, id_):
    return f"{id_} {message}"


def test_ids_rise_and_reach_the_clients_in_an_envelope(make_room):
    room = make_room(Broadcast(history=10, envelope=tagged))
    client = room.join()
    ids = [room.broadcast.publish("room", str(number)) for number in range(3)]
    assert texts(client, 3) == [f"{id_} {number}" for number, id_ in enumerate(ids)]
    order = [tuple(map(int, id_.split("-"))) for id_ in ids]
    assert order == sorted(set(order))


def test_the_history_holds_the_latest_messages():
    broadcast = Broadcast(history=3)
    ids = [broadcast.publish("room", message) for message in ("a", b"b", "c", "d")]
    kept = broadcast.history("room")
    assert [message.id for message in kept] == ids[1:]
    assert [message.data for message in kept] == [b"b", "c", "d"]
    assert broadcast.history("elsewhere") == []


def test_a_history_is_forgotten_when_its_time_is_over():
    broadcast = Broadcast(history=3, history_ttl=0.01)
    broadcast.publish("room", "a")
    wait_until(lambda: not broadcast.history("room"))
    broadcast.publish("elsewhere", "b")
    assert list(broadcast._backend._histories) == ["elsewhere"]


def test_who_comes_back_gets_what_was_missed(make_room):
    room = make_room(Broadcast(history=10))
    ids = [room.broadcast.publish("room", str(number)) for number in range(5)]
    client = room.join(since=ids[1])
    assert room.subscriptions[0].recovered is True
    room.broadcast.publish("room", "live")
    assert texts(client, 4) == ["2", "3", "4", "live"]


def test_what_is_not_worth_keeping_is_heard_in_its_place_and_not_kept(make_room):
    broadcast = Broadcast(history=10)
    room = make_room(broadcast)
    first = broadcast.publish("room", "first")
    client = room.join(since="0-0")
    assert broadcast.publish("room", "passing", keep=False) is None
    broadcast.publish("room", "second")
    assert broadcast.publish("room", "passing too", keep=False) is None
    assert texts(client, 4) == ["first", "passing", "second", "passing too"]
    assert [message.data for message in broadcast.history("room")] == ["first", "second"]
    back = room.join(since=first)
    broadcast.publish("room", "now", keep=False)
    assert texts(back, 2) == ["second", "now"]


def test_of_very_many_channels_the_oldest_histories_are_forgotten(monkeypatch):
    monkeypatch.setattr("geventws.broadcast.memory.MAX_CHANNELS", 3)
    broadcast = Broadcast(history=1)
    for channel in ("a", "b", "a", "c", "d"):
        broadcast.publish(channel, channel)
    assert [len(broadcast.history(channel)) for channel in "abcd"] == [1, 0, 1, 1]


def test_who_missed_nothing_gets_nothing_twice(make_room):
    room = make_room(Broadcast(history=10))
    last = room.broadcast.publish("room", "old")
    client = room.join(since=last)
    assert room.subscriptions[0].recovered is True
    room.broadcast.publish("room", "new")
    assert texts(client, 1) == ["new"]


@pytest.mark.parametrize("since", ["nonsense", "1-0", "-", "0-" + "9" * 50, "\u0663-0"])
def test_who_asks_for_more_than_is_kept_gets_all_of_it_and_is_told(make_room, since):
    broadcast = Broadcast(history=2)
    room = make_room(broadcast)
    client = room.join("elsewhere")
    for text in ("a", "b", "c"):
        broadcast.publish("room", text)
    subscription = broadcast.subscribe("room", room.subscriptions[0].ws, since)
    assert subscription.recovered is False
    broadcast.publish("room", "d")
    assert texts(client, 3) == ["b", "c", "d"]


def test_while_others_publish_nothing_is_missed_and_nothing_comes_twice(make_room):
    room = make_room(Broadcast(history=10_000, envelope=tagged))
    heard = []
    client = room.join()

    def publish(name):
        for number in range(1000):
            room.broadcast.publish("room", f"{name} {number}")
            gevent.sleep(0.0001)

    publishers = [gevent.spawn(publish, name) for name in ("a", "b")]
    while len(heard) < 2000:
        heard += texts(client, 100)
        client.vanish()
        wait_until(lambda: room.subscriptions == [])
        client = room.join(since=heard[-1].split(" ")[0])
        assert room.subscriptions[0].recovered is True
    gevent.joinall(publishers, raise_error=True)
    ids = [text.split(" ", 1)[0] for text in heard]
    assert ids == [message.id for message in room.broadcast.history("room")]


def test_messages_wait_while_the_history_is_replayed(make_room):
    """The client reads nothing at first: the replay blocks, and others publish meanwhile."""
    room = make_room(Broadcast(history=100), max_send_buffer=1 << 20)
    first = room.broadcast.publish("room", "first")
    size = 500_000
    for number in range(20):
        room.broadcast.publish("room", f"{number:02}" + "x" * size)
    client = room.server.client().open(f"/room?since={first}")
    room.clients.append(client)
    wait_until(lambda: room.broadcast.subscribers("room") == 1)
    for number in range(20, 25):
        room.broadcast.publish("room", f"{number:02}")
    heard = [int(text[:2]) for text in texts(client, 25)]
    assert heard == list(range(25))


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_replay_ends_when_its_socket_unsubscribes(make_room, comes_back):
    room = make_room(Broadcast(history=100), max_send_buffer=65536)
    for number in range(100):
        room.broadcast.publish("room", f"{number:02}" + "x" * 100_000)
    client = room.join("elsewhere")
    ws = room.subscriptions[0].ws
    replay = gevent.spawn(room.broadcast.subscribe, "room", ws, "")
    wait_until(lambda: room.broadcast.subscribers("room") == 1)
    gevent.sleep(0)
    first = client.read_frame()[1][:2]
    if comes_back:
        again = gevent.spawn(room.broadcast.subscribe, "room", ws, "")
        gevent.sleep(0)
    else:
        room.broadcast.unsubscribe("room", ws)
    reader = gevent.spawn(lambda: [text[:2] for text in texts(client, 1)])
    heard = [first.decode(), *reader.get(timeout=SECONDS)]
    if comes_back:
        while heard[-1] != "99":
            heard += [text[:2] for text in texts(client, 1)]
        assert again.get(timeout=SECONDS).recovered is True
        begin = len(heard) - 100
        assert heard[begin:] == [f"{number:02}" for number in range(100)]
        assert begin < 100
    else:
        gevent.spawn(ws.send, "the end")
        while heard[-1] != "th":
            heard += [text[:2] for text in texts(client, 1)]
        assert len(heard) < 100
    replay.get(timeout=SECONDS)


def test_who_does_not_read_while_the_history_is_replayed_is_slow(make_room):
    room = make_room(Broadcast(history=100), max_send_buffer=65536)
    first = room.broadcast.publish("room", "first")
    for _ in range(100):
        room.broadcast.publish("room", "x" * 100_000)
    client = room.server.client().open(f"/room?since={first}")
    room.clients.append(client)
    wait_until(lambda: room.broadcast.subscribers("room") == 1)
    for _ in range(3):
        room.broadcast.publish("room", "y" * 30_000)
    assert room.broadcast.subscribers("room") == 0
    while (arrived := client.read_frame())[0] == TEXT:
        pass
    assert arrived == (CLOSE, b"\x03\xf5too slow")


@pytest.mark.parametrize("message", ["", "😀" * 1000], ids=["empty", "wide"])
def test_what_waits_for_a_replay_is_counted_as_it_costs(make_room, message):
    room = make_room(Broadcast(history=100), max_send_buffer=65536)
    first = room.broadcast.publish("room", "first")
    for _ in range(100):
        room.broadcast.publish("room", "x" * 100_000)
    client = room.server.client().open(f"/room?since={first}")
    room.clients.append(client)
    wait_until(lambda: room.broadcast.subscribers("room") == 1)
    published = 0
    while room.broadcast.subscribers("room"):
        room.broadcast.publish("room", message)
        published += 1
    assert abs(published - 65536 / (sys.getsizeof(message) + 150)) < 2


def test_the_histories_of_all_channels_take_a_bounded_amount_of_memory():
    broadcast = Broadcast("memory://?max_history_size=1000000", history=1000)
    for number in range(50):
        for _ in range(10):
            broadcast.publish(f"room {number}", "😀" * 1000)
    kept = [number for number in range(50) if broadcast.history(f"room {number}")]
    assert kept == list(range(kept[0], 50))
    assert 20 < len(kept) < 25
    histories = broadcast._backend._histories.values()
    assert broadcast._backend._size == sum(history.size for history in histories)
    for number in range(1000):
        broadcast.publish("room", f"{number:03}" + "x" * 10_000)
    assert 90 < len(broadcast.history("room")) < 100
    assert not broadcast.history("room 49")
    broadcast.publish("room", "x" * 2_000_000)
    assert len(broadcast.history("room")) == 1
    broadcast.close()


@pytest.mark.parametrize(
    "query",
    [
        "max_history_size=0",
        "max_history_size=",
        "history=5",
        "max_history_size=-1",
        "max_history_size=1e6",
    ],
)
def test_a_limit_of_the_histories_that_is_none_is_refused(query):
    with pytest.raises(ValueError, match="max_history_size, a number of bytes"):
        Broadcast(f"memory://?{query}")


def test_an_envelope_that_always_fails_cannot_fill_the_log(make_room, caplog):
    room = make_room(Broadcast(envelope=lambda message, id_: 1 / 0))
    room.join()
    for _ in range(200):
        room.broadcast.publish("room", "x")
    assert 0 < len(caplog.records) <= 12


def test_an_envelope_that_fails_is_logged_and_harms_nobody(make_room, caplog):
    def envelope(message, id_):
        return {"good": "fine"}[message]

    room = make_room(Broadcast(envelope=envelope))
    client = room.join()
    room.broadcast.publish("room", "bad")
    room.broadcast.publish("room", "good")
    assert texts(client, 1) == ["fine"]
    assert [record.getMessage() for record in caplog.records] == [
        "A message of 'room' cannot be sent and was dropped"
    ]


@pytest.mark.parametrize(
    "envelope",
    [
        lambda message, id_, channel: f"{channel}: {message}",
        lambda *arguments, channel="room": f"{channel}: {arguments[0]}",
        lambda message, id_, greeting="room": f"{greeting}: {message}",
    ],
)
def test_an_envelope_gets_the_channel_if_it_needs_it(make_room, envelope):
    room = make_room(Broadcast(envelope=envelope))
    client = room.join()
    room.broadcast.publish("room", "hello")
    assert texts(client, 1) == ["room: hello"]


@pytest.mark.parametrize("envelope", [5, lambda message: message, lambda a, b, c, d: a])
def test_an_envelope_that_cannot_be_called_is_refused_at_once(envelope):
    with pytest.raises(TypeError, match="an envelope"):
        Broadcast(envelope=envelope)


def test_only_a_websocket_is_subscribed():
    with pytest.raises(TypeError, match="only a WebSocket"):
        Broadcast().subscribe("room", None)


def test_another_subscription_of_a_socket_to_a_channel_ends_the_first_one(make_room):
    room = make_room()
    client = room.join()
    first = room.subscriptions[0]
    second = room.broadcast.subscribe("room", first.ws)
    first.close()
    room.broadcast.publish("room", "still here")
    assert texts(client, 1) == ["still here"]
    second.close()
    assert room.broadcast.subscribers("room") == 0


def test_a_closed_broadcast_says_so():
    with Broadcast() as broadcast:
        listener = broadcast.listen("room")
    broadcast.close()
    assert list(listener) == []
    for verb in (broadcast.history, broadcast.subscribers, broadcast.listen):
        with pytest.raises(RuntimeError, match="closed"):
            verb("room")
    with pytest.raises(RuntimeError, match="closed"):
        broadcast.publish("room", "hello")


def test_an_envelope_that_raises_a_timeout_harms_nobody(make_room, caplog):
    def envelope(message, id_):
        if message == "bad":
            raise gevent.Timeout(1)
        return message

    room = make_room(Broadcast(envelope=envelope))
    client = room.join()
    room.broadcast.publish("room", "bad")
    room.broadcast.publish("room", "good")
    assert texts(client, 1) == ["good"]
    assert "an envelope must not block" in caplog.text


def test_an_envelope_may_publish(make_room):
    def envelope(message, id_):
        if message == "1":
            broadcast.publish("room", "2")
        return message

    broadcast = Broadcast(envelope=envelope)
    room = make_room(broadcast)
    client = room.join()
    broadcast.publish("room", "1")
    assert texts(client, 2) == ["1", "2"]


def test_a_socket_joins_many_channels_at_once(make_room):
    broadcast = Broadcast(history=5, envelope=lambda message, id_, channel: f"{channel} {message}")
    room = make_room(broadcast)
    client = room.join("elsewhere")
    first = broadcast.publish("a", "1")
    broadcast.publish("a", "2")
    broadcast.publish("b", "3")
    ws = room.subscriptions[0].ws
    with broadcast.subscribe(iter(["a", "b", "c"]), ws, {"a": first, "b": ""}) as together:
        assert sorted(texts(client, 2)) == ["a 2", "b 3"]
        assert (together.recovered, together.wait_recovered()) == (True, True)
        for subscription in together, together["a"]:
            with pytest.raises(ValueError, match="not NaN"):
                subscription.wait_recovered(float("nan"))
        assert list(together) == ["a", "b", "c"]
        assert together.positions == {name: together[name].position for name in "abc"}
        assert together["a"].position != first
        broadcast.publish("c", "4")
        assert texts(client, 1) == ["c 4"]
        assert [broadcast.subscribers(channel) for channel in "abc"] == [1, 1, 1]
    assert [broadcast.subscribers(channel) for channel in "abc"] == [0, 0, 0]
    assert broadcast.subscribe(["a", "b"], ws, "unknown").recovered is False


def test_a_name_that_is_none_leaves_no_subscription(make_room):
    room = make_room()
    room.join("elsewhere")
    ws = room.subscriptions[0].ws
    for channels, since in ((["a", ""], None), (["a", "b"], {"b": 5})):
        with pytest.raises((ValueError, TypeError), match=r"the name of a channel|since is the id"):
            room.broadcast.subscribe(channels, ws, since)
        assert list(room.broadcast._channels) == ["elsewhere"]


def test_a_position_is_where_a_socket_stands(make_room):
    room = make_room(Broadcast(history=5))
    client = room.join()
    subscription = room.subscriptions[0]
    position = subscription.position
    first = room.broadcast.publish("room", "1")
    assert subscription.position == first
    room.broadcast.publish("room", "passing", keep=False)
    assert subscription.position == first
    assert texts(client, 2) == ["1", "passing"]
    client.finish()
    wait_until(lambda: not room.subscriptions)
    assert subscription.position == first
    back = room.join(since=position)
    assert room.subscriptions[0].recovered is True
    assert texts(back, 1) == ["1"]
    assert make_room().broadcast.subscribe("room", room.subscriptions[0].ws).position is None


def test_histories_have_their_sizes_by_the_names_of_their_channels():
    broadcast = Broadcast(history={"chat:vip:*": 3, "chat:*": 1, "typing:*": 0})
    for number in range(5):
        for channel in ("chat:vip:ann", "chat:bob", "typing:bob", "other"):
            broadcast.publish(channel, str(number))
    assert [len(broadcast.history(it)) for it in ("chat:vip:ann", "chat:bob")] == [3, 1]
    assert broadcast.history("typing:bob") == broadcast.history("other") == []
    assert broadcast.publish("typing:bob", "x") is None


# ------------------------------------------------------------- the process itself


def test_the_process_itself_can_listen():
    broadcast = Broadcast(history=10)
    heard = AsyncResult()

    def listen():
        with broadcast.listen("room") as messages:
            heard.set([next(messages).data for _ in range(2)])

    gevent.spawn(listen)
    gevent.sleep(0)
    broadcast.publish("room", "a")
    broadcast.publish("elsewhere", "b")
    broadcast.publish("room", b"c")
    assert heard.get(timeout=SECONDS) == ["a", b"c"]
    assert broadcast._channels == {}


def test_a_loop_over_messages_ends_when_it_is_closed_or_the_broadcast_is():
    broadcast = Broadcast()
    closed, other = broadcast.listen("room"), broadcast.listen("room")
    loops = [gevent.spawn(list, listener) for listener in (closed, other)]
    gevent.sleep(0)
    broadcast.publish("room", "a")
    closed.close()
    broadcast.close()
    for loop in loops:
        assert [message.data for message in loop.get(timeout=SECONDS)] == ["a"]
    assert list(closed) == []


def test_a_loop_that_does_not_keep_up_loses_the_oldest():
    broadcast = Broadcast()
    listener = broadcast.listen("room")
    for number in range(1010):
        broadcast.publish("room", str(number))
    assert listener.lost == 10
    assert next(listener).data == "10"
    listener.close()


def test_a_loop_that_does_not_keep_up_takes_a_bounded_amount_of_memory():
    broadcast = Broadcast()
    listener = broadcast.listen("room", max_queued_bytes=1 << 20)
    for number in range(100):
        broadcast.publish("room", f"{number:06}" + "😀" * 10_000)  # 40 KB in memory
    assert 70 < listener.lost < 80
    assert next(listener).data.startswith(f"{listener.lost:06}")
    large = "x" * (2 << 20)
    broadcast.publish("room", large)
    assert next(listener).data == large
    listener.close()
    assert list(listener) == []


@pytest.mark.parametrize("name", ["max_queued_messages", "max_queued_bytes"])
@pytest.mark.parametrize("limit", [0, -1, None, 1.5, "10", float("nan")])
def test_a_limit_of_a_listener_is_a_positive_integer(name, limit):
    broadcast = Broadcast()
    limits = {name: limit}
    with pytest.raises(ValueError, match=f"{name} must be a positive integer, not {limit!r}"):
        broadcast.listen("room", **limits)
    assert not broadcast._channels


def test_what_waits_of_a_listener_is_heard_after_its_end():
    broadcast = Broadcast()
    listener = broadcast.listen("room", max_queued_messages=2)
    broadcast.publish("room", "a")
    broadcast.publish("room", "b")
    broadcast.close()
    assert [message.data for message in listener] == ["a", "b"]
    assert list(listener) == []


def test_a_thread_that_publishes_faster_than_messages_are_passed_on_waits(make_room):
    room = make_room(max_send_buffer=64 << 20)
    client = room.join()
    largest = 0
    message = "x" * 100_000

    def publish():
        nonlocal largest
        for _ in range(300):
            room.broadcast.publish("room", message)
            largest = max(largest, room.broadcast._incoming.size)

    thread = threading.Thread(target=publish)
    thread.start()
    thread.join(0.5)  # the hub does not run meanwhile
    assert thread.is_alive()
    for _ in range(300):
        assert client.read_frame() == (TEXT, message.encode())
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert (3 << 20) < largest < (5 << 20)


def test_subscribers_of_two_threads_are_refused():
    broadcast = Broadcast()
    broadcast.listen("room")
    problem = AsyncResult()

    def listen():
        try:
            broadcast.listen("room")
        except RuntimeError as error:
            problem.set(error)

    thread = threading.Thread(target=listen)
    thread.start()
    assert "the same thread" in str(problem.get(timeout=SECONDS))
    thread.join()


# ------------------------------------------------------------------ other backends


class Parrot(Backend):
    """A backend from outside, which fails on request."""

    broken = False

    def publish(self, channel, data, keep):
        return None

    def subscribe(self, channel):
        pass

    def unsubscribe(self, channel):
        pass

    def history(self, channel, since):
        if self.broken:
            problem = OSError("it sleeps")
            self.note_down(problem)
            raise BroadcastError(str(problem))
        return History([], False)

    def subscribers(self, channel):
        return 0

    def close(self):
        pass


@pytest.fixture
def parrots(monkeypatch, tmp_path):
    """An installed package that announces a backend for parrot://."""
    metadata = tmp_path / "parrots-1.dist-info"
    metadata.mkdir()
    metadata.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: parrots\nVersion: 1\n")
    metadata.joinpath("entry_points.txt").write_text(
        f"[geventws.broadcast]\nparrot = {__name__}:Parrot\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_a_package_may_add_a_backend_by_an_entry_point(parrots):
    broadcast = Broadcast("parrot://user:secret@branch/1", history=7)
    backend = broadcast._backend
    assert isinstance(backend, Parrot)
    assert (backend.name, backend.history_size) == ("parrot://branch/1", 7)


def test_a_broadcast_that_is_closed_while_it_subscribes_sends_no_101(parrots):
    broadcast = Broadcast("parrot://branch")
    broadcast._backend.subscribe = lambda channel: broadcast.close()
    with pytest.raises(RuntimeError, match="this Broadcast is closed"):
        connect_in_test(lambda environ, _: broadcast.subscribe("room", environ["wsgi.websocket"]))


@pytest.mark.parametrize("since", [None, "0-0"])
def test_who_unsubscribes_before_the_101_gets_nothing(parrots, since):
    broadcast = Broadcast("parrot://branch", history=1)
    subscribed = []

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        broadcast._backend.subscribe = lambda channel: (
            subscribed.append(channel),
            broadcast.unsubscribe("left", ws),
        )
        subscriptions = broadcast.subscribe(["left", "kept"], ws, since)
        assert [it.is_over for it in subscriptions.values()] == [True, False]
        broadcast._dispatch_one(Message("left", "nobody", None))
        broadcast._dispatch_one(Message("kept", "me", None))
        ws.receive()
        return []

    with connect_in_test(app) as client:
        assert client.receive() == "me"
    assert subscribed == ["left", "kept", "kept"]
    assert not broadcast._channels


def test_a_websocket_that_is_refused_while_it_subscribes_leaves_nothing_behind(parrots):
    broadcast = Broadcast("parrot://branch")

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        broadcast._backend.subscribe = lambda channel: gevent.sleep(0)
        gevent.spawn(broadcast.subscribe, "room", ws)
        gevent.sleep(0)
        start_response("403 Forbidden", [])
        return [b""]

    with pytest.raises(HandshakeError, match="403"):
        connect_in_test(app)
    wait_until(lambda: not broadcast._channels)


def test_a_backend_that_hangs_delays_the_101_for_a_limited_time(parrots, monkeypatch):
    monkeypatch.setattr("geventws.broadcast.broadcast._MAX_DELAY", 0.01)
    broadcast = Broadcast("parrot://branch")
    connected = Event()
    broadcast._backend.subscribe = lambda channel: connected.wait()

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        with broadcast.subscribe("room", ws):
            ws.send("subscribed")
        return []

    with connect_in_test(app) as client:
        connected.set()
        assert client.receive() == "subscribed"
    assert not broadcast._channels


def test_a_broken_backend_is_logged_once_each_way_and_history_waits_for_it(
    parrots, make_room, caplog
):
    broadcast = Broadcast("parrot://branch", history=7)
    broadcast._backend.broken = True
    room = make_room(broadcast)
    client = room.join(since="0-0")
    assert room.subscriptions[0].recovered is None
    assert not broadcast.healthy
    broadcast._backend.note_down(OSError("it sleeps still"))
    broadcast._backend.broken = False
    broadcast._backend.note_up()
    broadcast._backend.note_up()
    assert room.subscriptions[0].wait_recovered(SECONDS) is False
    assert broadcast.healthy
    first, second = (record.getMessage() for record in caplog.records)
    assert first == "The broadcast at parrot://branch does not work: it sleeps"
    assert second.startswith("The broadcast at parrot://branch works again, after ")
    client.finish()
