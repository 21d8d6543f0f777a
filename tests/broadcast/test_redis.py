"""Broadcast across processes, with real Redis servers: alone, by a sentinel, in clusters."""

import contextlib
import re
import signal
import sys
import time
from urllib.parse import quote

import gevent
import gevent.event
import pytest
import redis
from gevent.select import select

from geventws import Broadcast, BroadcastError
from tests.support.people import Person, get, join_everywhere
from tests.support.redis import Gateway, free_port, start_node, start_sentinel
from tests.support.servers import ROOT
from tests.support.tools import SECONDS, wait_until

# ---------------------------------------------------------------- several processes


def test_every_worker_hears_what_one_publishes(redis_server, serve_broadcast):
    with serve_broadcast(redis_server.url, workers=3) as process:
        people = join_everywhere(process, 3)
        people[0].say("hällo")
        assert [person.hear() for person in people] == ["- hällo"] * 3


def test_a_process_without_a_server_publishes_text_and_bytes(redis_server, serve_broadcast):
    broadcast = Broadcast(redis_server.url)
    with serve_broadcast(redis_server.url) as process:
        person = Person(process)
        assert broadcast.publish("room", "from outside") is None
        assert broadcast.publish("room", b"bytes") is None
        assert broadcast.publish("elsewhere", "unheard") is None
        assert broadcast.publish("room", "") is None
        assert [person.hear_data() for _ in range(3)] == ["from outside", "b'bytes'", ""]
    broadcast.close()


def test_subscribers_are_counted_in_all_processes(redis_server, serve_broadcast):
    broadcast = Broadcast(redis_server.url)
    with serve_broadcast(redis_server.url, workers=2) as process:
        people = [*join_everywhere(process, 2, "counted"), Person(process, "counted")]
        assert broadcast.subscribers("counted") == 3
        assert get(process, "/count/counted") == "3"
        assert broadcast.subscribers("nowhere") == 0
        people[0].client.finish()
        wait_until(lambda: broadcast.subscribers("counted") == 2)
    broadcast.close()


def test_there_is_one_connection_a_process_for_channels_that_somebody_hears(
    redis_server, serve_broadcast
):
    admin = redis_server.client()

    def subscribed():
        return sorted(name for name in admin.pubsub_channels() if b"only" in name)

    with serve_broadcast(redis_server.url) as process:
        people = [Person(process, f"only-{number}") for number in range(3)]
        assert subscribed() == [b"geventws:only-0", b"geventws:only-1", b"geventws:only-2"]
        assert len(admin.client_list(_type="pubsub")) == 1
        people[0].client.finish()
        wait_until(lambda: subscribed() == [b"geventws:only-1", b"geventws:only-2"])
        back = Person(process, "only-0")
        back.say("again")
        assert back.hear() == "- again"
    admin.close()


def test_coming_and_going_all_the_time_loses_no_channel(redis_server, serve_broadcast):
    broadcast = Broadcast(redis_server.url)
    with serve_broadcast(redis_server.url) as process:
        for number in range(50):
            person = Person(process, "busy")
            broadcast.publish("busy", str(number))
            assert person.hear() == f"- {number}"
            person.leave()
    broadcast.close()


def test_what_other_programs_publish_on_the_channel_is_passed_over(redis_server, serve_broadcast):
    admin = redis_server.client()
    with serve_broadcast(redis_server.url) as process:
        person = Person(process)
        admin.publish("geventws:room", "no message of ours")
        admin.publish("geventws:room", b"")
        admin.publish("geventws:room", b"\x01 \xff no UTF-8")
        person.say("ours")
        assert person.hear() == "- ours"
    admin.close()


LONE_IN_JSON = "%22%5Cud800%22"


@pytest.mark.parametrize("history", [0, 10])
@pytest.mark.parametrize("how", ["listen", "unchecked"])
def test_a_name_that_cannot_be_encoded_disturbs_no_other_channel(
    redis_server, serve_broadcast, how, history
):
    with serve_broadcast(redis_server.url, history=history) as process:
        Person(process, "first")
        assert get(process, f"/{how}/{LONE_IN_JSON}").startswith("refused: ")
        started = time.monotonic()
        for number in range(3):
            person = Person(process, f"next-{number}-{history}")
            person.say("hello")
            assert person.hear_data() == "hello"
        assert time.monotonic() - started < 3
        assert get(process, "/healthy") == "True"
        assert "Traceback" not in process.output


def test_a_subscribe_that_is_interrupted_does_not_affect_other_channels(
    redis_server, serve_broadcast
):
    with serve_broadcast(redis_server.url) as process:
        first = Person(process, "first")
        assert get(process, "/impatient/%22busy%22") == "joined"
        started = time.monotonic()
        for person in (first, *(Person(process, f"busy{number}") for number in range(0, 100, 10))):
            person.say("hello")
            assert person.hear_data() == "hello"
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("command", [b"XREVRANGE", b"SUBSCRIBE"])
def test_an_interrupted_first_subscriber_leaves_the_channel_to_the_others(
    redis_server, serve_broadcast, command
):
    with (
        Gateway(redis_server) as gateway,
        serve_broadcast(gateway.url, history=10) as process,
    ):
        warm = Person(process, "warm")  # from now on there is a connection
        warm.say("hello")
        assert warm.hear_data() == "hello"
        is_held, may_go_on = gevent.event.Event(), gevent.event.Event()

        def hold():
            is_held.set()
            may_go_on.wait(SECONDS)

        gateway.before(command, hold)
        brief = gevent.spawn(get, process, "/briefly/%22late%22")
        assert is_held.wait(SECONDS)
        joining = gevent.spawn(Person, process, "late")
        assert brief.get(timeout=SECONDS) == "joined"
        may_go_on.set()
        late = joining.get(timeout=SECONDS)
        late.say("heard")
        assert late.hear_data() == "heard"


@pytest.mark.parametrize("channel", ["\0", "a\r\nb", "{a}", "😀", "a" * 1024, " ", "*"])
@pytest.mark.parametrize("history", [0, 10])
def test_any_name_that_can_be_encoded_is_a_channel(redis_server, serve_broadcast, channel, history):
    with serve_broadcast(redis_server.url, history=history) as process:
        name = quote(channel.encode())
        broadcast = Broadcast(redis_server.url, history=history)
        person = Person(process, name)
        # PEP 3333 gives the view the bytes of a path as characters.
        broadcast.publish(channel.encode().decode("latin-1"), "hello")
        assert person.hear_data() == "hello"
        broadcast.close()


@pytest.mark.parametrize("history", [0, 10])
def test_what_cannot_be_encoded_is_not_published(redis_server, history):
    broadcast = Broadcast(redis_server.url, history=history)
    for channel, message in (("lone", "\ud800"), ("\ud800", "lone"), ("a" * 1025, "long")):
        with pytest.raises(ValueError, match=r"lone surrogate|at most 1,024 bytes"):
            broadcast.publish(channel, message)
    for verb in (broadcast.history, broadcast.subscribers):
        with pytest.raises(ValueError, match="lone surrogate"):
            verb("\ud800")
    assert broadcast.history("lone") == []
    assert broadcast.healthy
    broadcast.close()


def test_what_other_programs_put_into_a_history_is_passed_over(redis_server, serve_broadcast):
    channel = f"foreign-{time.time_ns()}"
    broadcast = Broadcast(redis_server.url, history=10)
    broadcast.publish(channel, "first")
    with redis_server.client() as admin:
        for fields in ({"m": b"\x01\xff"}, {"x": "y"}, {"m": ""}, {"m": "unknown"}):
            admin.xadd(f"geventws:{channel}", fields)
        admin.publish(f"geventws:{channel}", b"\x03\xff")
        admin.publish(f"geventws:{channel}", b"\x03elsewhere")
    broadcast.publish(channel, "last")
    assert [message.data for message in broadcast.history(channel)] == ["first", "last"]
    with serve_broadcast(redis_server.url, history=10) as process:
        person = Person(process, channel, "")
        assert [text.split(" ")[1] for text in person.heard] == ["first", "last"]
        with redis_server.client() as admin:
            admin.publish(f"geventws:{channel}", b"\x03\xff")
            admin.publish(f"geventws:{channel}", b"\x03elsewhere")
            person.say("on")
            assert person.hear_data() == "on"
            assert not admin.exists("elsewhere")
        assert "Traceback" not in process.output
    broadcast.close()


def test_without_redis_py_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "geventws.broadcast.redis", raising=False)
    with pytest.raises(ImportError, match=r"pip install geventws\[redis\]"):
        Broadcast("redis://localhost")


def test_to_subscribe_without_monkey_patching_is_refused_in_words(redis_server):
    broadcast = Broadcast(redis_server.url)
    with pytest.raises(RuntimeError, match=r"gevent\.monkey\.patch_all\(\)"):
        broadcast.listen("room")
    assert broadcast._channels == {}
    broadcast.close()


# -------------------------------------------------------------- history, recovery


def test_the_history_is_capped_ordered_and_forgotten_in_time(redis_server):
    broadcast = Broadcast(redis_server.url, history=3, history_ttl=60)
    ids = [broadcast.publish("kept", message) for message in ("a", b"b", "c", "")]
    kept = broadcast.history("kept")
    assert [(message.id, message.data) for message in kept] == [
        (ids[1], b"b"),
        (ids[2], "c"),
        (ids[3], ""),
    ]
    with redis_server.client() as admin:
        assert admin.xlen("geventws:kept") == 3
        assert 50_000 < admin.pttl("geventws:kept") <= 60_000
    assert broadcast.publish("kept", "passing", keep=False) is None
    assert len(broadcast.history("kept")) == 3
    assert broadcast.history("never") == []
    broadcast.close()


@pytest.mark.parametrize(
    ("since", "recovered", "expected"),
    [
        (0, "True", ["b", "c"]),
        (2, "True", []),
        ("", "True", ["a", "b", "c"]),
        ("nonsense", "False", ["a", "b", "c"]),
        ("1-1", "False", ["a", "b", "c"]),
        ("99999999999999-0", "False", ["a", "b", "c"]),
        ("9" * 30 + "-0", "False", ["a", "b", "c"]),
    ],
)
def test_who_comes_back_gets_what_was_missed(
    redis_server, serve_broadcast, since, recovered, expected
):
    broadcast = Broadcast(redis_server.url, history=3)
    channel = f"missed-{since}-{time.time_ns()}"
    ids = [broadcast.publish(channel, text) for text in ("a", "b", "c")]
    with serve_broadcast(redis_server.url, history=3) as process:
        person = Person(process, channel, ids[since] if isinstance(since, int) else since)
        assert person.recovered == recovered
        assert [text.split(" ", 1)[1] for text in person.heard] == expected
        last = broadcast.publish(channel, "live")
        assert person.hear() == f"{last} live"
        assert get(process, "/healthy") == "True"
    broadcast.close()


# ------------------------------------------------------------------- the whole of it


@pytest.mark.timeout(180)
def test_four_workers_forty_clients_five_hundred_messages_and_redis_dies_in_between(
    start_redis, serve_broadcast
):
    """Every client gets every message, in the publisher's order, also after a reconnect."""
    server = start_redis("--appendonly", "yes", "--appendfsync", "always")
    with serve_broadcast(server.url, workers=4, history=2000) as process:
        people = join_everywhere(process, 4)
        people += [Person(process) for _ in range(40 - len(people))]
        heard = [[] for _ in people]

        def listen(number):
            """Hear all; every fourth client loses its connection again and again."""
            texts = heard[number]
            while set(map(text_of, texts)) < expected:
                texts.append(people[number].hear())
                if number % 4 == 0 and len(texts) % 100 == 50:
                    people[number].leave()
                    people[number] = Person(process, since=texts[-1].split(" ")[0])
                    assert people[number].recovered in {"True", "None"}
                    texts += people[number].heard

        def publish(name):
            broadcast = Broadcast(server.url, history=2000)
            for number in range(50):
                while True:
                    try:
                        broadcast.publish("room", f"{name} {number}")
                        break
                    except BroadcastError:
                        gevent.sleep(0.05)
                gevent.sleep(0.005)
                if (name, number) == (0, 25):
                    halfway.set()
            broadcast.close()

        expected = {f"{name} {number}" for name in range(10) for number in range(50)}
        halfway = gevent.event.Event()
        listeners = [gevent.spawn(listen, number) for number in range(len(people))]
        publishers = [gevent.spawn(publish, name) for name in range(10)]
        assert halfway.wait(SECONDS)
        server.kill()
        process.wait_for("does not work")
        server.start()
        gevent.joinall([*listeners, *publishers], timeout=120, raise_error=True)
        assert all(greenlet.successful() for greenlet in (*listeners, *publishers))
        reference = [message.id for message in history_of(server)]
        for texts in heard:
            ids = [text.split(" ")[0] for text in texts]
            assert ids == reference[: len(ids)]
            for name in range(10):
                own = [text_of(text) for text in texts if text_of(text).startswith(f"{name} ")]
                # Who publishes again after an error may have been heard twice.
                assert list(dict.fromkeys(own)) == [f"{name} {number}" for number in range(50)]
        for complaint in ("does not work", "works again"):
            assert process.output.count(complaint) == 4


def text_of(text):
    return text.split(" ", 1)[1]


def history_of(server):
    with contextlib.closing(Broadcast(server.url, history=2000)) as broadcast:
        return broadcast.history("room")


# ----------------------------------------------------------------------- Redis fails


def test_after_a_restart_fan_out_works_again_within_five_seconds(start_redis, serve_broadcast):
    server = start_redis()
    with serve_broadcast(server.url) as process:
        person = Person(process)
        server.kill()
        process.wait_for("The broadcast at redis://127.0.0.1:.* does not work")
        assert get(process, "/healthy") == "False"
        person.say("lost")
        assert person.hear() == "refused"
        server.start()
        started = time.monotonic()
        process.wait_for("works again, after")
        person.say("found")
        assert person.hear() == "- found"
        assert time.monotonic() - started < 5
        assert get(process, "/healthy") == "True"
        assert process.output.count("does not work") == 1
        assert process.output.count("works again") == 1


def test_redis_that_is_not_there_at_the_start_is_waited_for(start_redis, serve_broadcast):
    port = free_port()
    with serve_broadcast(f"redis://127.0.0.1:{port}", history=10) as process:
        people = [Person(process), Person(process, since="0-0")]
        assert [person.recovered for person in people] == ["True", "None"]
        people[0].say("lost")
        assert people[0].hear() == "refused"
        start_redis(port=port)
        process.wait_for("works again, after")
        people[0].say("found")
        assert [person.hear_data() for person in people] == ["found", "found"]


def test_a_publisher_without_redis_gets_an_error_that_says_so():
    broadcast = Broadcast(f"redis://:secret@127.0.0.1:{free_port()}/3")
    with pytest.raises(BroadcastError, match=r"redis://127\.0\.0\.1:\d+/3 does not answer") as no:
        broadcast.publish("room", "hello")
    assert "secret" not in str(no.value)
    with pytest.raises(BroadcastError):
        broadcast.subscribers("room")
    with pytest.raises(BroadcastError):
        broadcast.history("room")
    assert not broadcast.healthy
    broadcast.close()


def test_redis_that_stalls_costs_publishers_a_bounded_wait_and_nothing_else(
    start_redis, serve_broadcast
):
    server = start_redis()
    url = f"{server.url}?socket_timeout=0.3"
    with serve_broadcast(url) as process:
        person = Person(process)
        server.send_signal(signal.SIGSTOP)
        person.say("hello?")
        assert person.hear() == "refused"
        process.wait_for("does not work")
        assert get(process, "/healthy") == "False"
        server.send_signal(signal.SIGCONT)
        process.wait_for("works again")
        heard = ""
        while heard != "- there you are":  # what was published into the stall may come as well
            person.say("there you are")
            heard = person.hear()


def test_who_comes_back_while_redis_is_away_gets_what_was_missed_when_it_is_back(
    start_redis, serve_broadcast
):
    server = start_redis("--appendonly", "yes", "--appendfsync", "always")
    with serve_broadcast(server.url, history=10) as process:
        first = Person(process)
        first.say("one")
        seen = first.hear().split(" ")[0]
        first.say("two")
        first.hear()
        server.kill()
        process.wait_for("does not work")
        back = Person(process, since=seen)
        assert (back.recovered, back.heard) == ("None", [])
        server.start()
        process.wait_for("works again")
        assert back.hear_data() == "two"
        back.say("three")
        assert [back.hear_data(), first.hear_data()] == ["three", "three"]


@pytest.mark.parametrize(
    ("remembers", "clock"),
    [
        ("nothing", -100),
        ("the beginning", 0),
        ("what nobody here has heard", 0),
        ("everything", -100),
    ],
)
def test_whatever_redis_remembers_each_message_is_heard_once(
    start_redis, serve_broadcast, remembers, clock
):
    """This includes messages published right before and after the new subscription.

    If the clock of Redis goes back, new ids are smaller than old ids.
    """
    server = start_redis()

    def publish(text, remember=None):
        with contextlib.closing(Broadcast(server.url, history=10)) as broadcast:
            broadcast.publish("room", text)
        if remembers == remember:
            with server.client() as admin:
                admin.save()

    with Gateway(server) as gateway:
        if clock:
            future = int((time.time() - clock) * 1000)
            with server.client() as admin:
                admin.xadd("geventws:room", {"m": b"\x01old"}, f"{future}-0")
        publish("early", "what nobody here has heard")
        publish("still early")
        with serve_broadcast(gateway.url, history=10) as process:
            person = Person(process)
            publish("first", "the beginning")
            publish("second", "everything")
            heard = [person.hear_data() for _ in range(2)]
            gateway.is_open = False
            server.kill()
            process.wait_for("does not work")
            gateway.before(b"SUBSCRIBE", lambda: publish("third"))
            gateway.before(b"subscribe", lambda: publish("fourth"))
            server.start()
            gateway.is_open = True
            process.wait_for("works again")
            person.say("fifth")
            while heard[-1] != "fifth":
                heard.append(person.hear_data())
            assert heard == ["first", "second", "third", "fourth", "fifth"]


def test_more_than_is_kept_while_the_subscription_begins_is_heard_all_the_same(
    redis_server, serve_broadcast
):
    broadcast = Broadcast(redis_server.url, history=2)
    texts = [str(number) for number in range(5)]
    with Gateway(redis_server) as gateway, serve_broadcast(gateway.url, history=2) as process:
        first = Person(process, "begin")
        gateway.before(b"subscribe", lambda: [broadcast.publish("full", text) for text in texts])
        person = Person(process, "full", open="yes")
        assert [text.split(" ")[1] for text in person.heard] == texts
        assert first.heard == []
    broadcast.close()


def test_a_client_gets_its_101_when_its_subscription_is_active(redis_server, serve_broadcast):
    with (
        Gateway(redis_server) as gateway,
        serve_broadcast(gateway.url) as process,
        process.client() as client,
    ):
        before = []
        gateway.before(b"subscribe", lambda: before.append(select([client.sock], [], [], 0)[0]))
        client.open("/room")
        assert before == [[]]


def test_who_is_ahead_of_a_process_gets_nothing_again_from_it(redis_server, serve_broadcast):
    """It was told by another process, whose connection to Redis is faster."""
    broadcast = Broadcast(redis_server.url, history=10)
    channel = f"ahead-{time.time_ns()}"
    with Gateway(redis_server) as gateway, serve_broadcast(gateway.url, history=10) as process:
        Person(process, channel)
        go_on = gevent.event.Event()
        gateway.before(b"one", go_on.wait)
        gateway.before(b"PING", go_on.set)
        one = broadcast.publish(channel, "one")
        two = broadcast.publish(channel, "two")
        with gevent.Timeout(SECONDS):
            people = [gevent.spawn(Person, process, channel, since) for since in (one, two)]
            gevent.joinall(people, raise_error=True)
        broadcast.publish(channel, "three")
        first, second = (person.get() for person in people)
        assert (first.heard, second.heard) == ([f"{two} two"], [])
        assert first.hear_data() == second.hear_data() == "three"
    broadcast.close()


def test_a_channel_whose_subscription_fails_by_itself_is_subscribed_to_later(
    start_redis, serve_broadcast
):
    server = start_redis()
    with server.client() as admin, serve_broadcast(server.url, history=10) as process:
        people = [Person(process, "one")]
        admin.execute_command("ACL", "SETUSER", "default", "resetchannels", "&geventws:one")
        people += [Person(process, "two"), Person(process, "three")]
        process.wait_for("refuses the channel 'two'")
        process.wait_for("refuses the channel 'three'")
        admin.execute_command("ACL", "SETUSER", "default", "&geventws:three")
        wait_until(lambda: admin.pubsub_numsub("geventws:three")[0][1] == 1)
        for person in (people[0], people[2]):
            person.say("heard")
            assert person.hear_data() == "heard"
        people[1].say("refused")
        assert people[1].hear() == "refused"
        assert get(process, "/healthy") == "True"
        assert "does not work" not in process.output


# ------------------------------------------------------------------- ways to connect


def test_a_password_and_tls_by_url(start_redis, serve_broadcast, tls):
    certificate, key, _ = tls
    port = free_port()
    start_redis(
        "--tls-port",
        str(port),
        "--tls-cert-file",
        certificate,
        "--tls-key-file",
        key,
        "--tls-ca-cert-file",
        certificate,
        "--tls-auth-clients",
        "no",
        "--requirepass",
        "geheim",
    )
    url = f"rediss://:geheim@localhost:{port}?ssl_ca_certs={certificate}"
    with serve_broadcast(url, history=5) as process:
        person = Person(process)
        person.say("safe")
        assert person.hear_data() == "safe"
    broadcast = Broadcast(url.replace("geheim", "geraten"))
    with pytest.raises(BroadcastError, match="invalid username-password"):
        broadcast.publish("room", "hello")
    broadcast.close()


def test_the_permissions_that_the_documents_name_are_enough(start_redis, serve_broadcast):
    text = ROOT.joinpath("docs", "broadcast.md").read_text()
    rules = re.search(r"ACL SETUSER name … (.*?)`", text, re.DOTALL)[1].split()
    server = start_redis()
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "chat", "on", ">geheim", *rules)
        url = f"redis://chat:geheim@127.0.0.1:{server.port}"
        with serve_broadcast(url, history=5) as process:
            person = Person(process)
            person.say("allowed")
            first = person.hear().split(" ")[0]
            assert Person(process, since=first).recovered == "True"
            assert get(process, "/count/room") == "2"
            assert "members" in Person(process, member="ann").heard[0]
            assert get(process, "/members/room") == '{"ann": "ann"}'
            admin.xadd("geventws:room", {"m": "foreign"}, f"{int(time.time() * 1000) + 9999}-7")
            person.say("allowed")
            assert person.hear_data() == "allowed"
            assert not admin.acl_log()


def test_a_unix_socket(start_redis, serve_broadcast):
    server = start_redis("--unixsocket", "socket")
    with serve_broadcast(f"unix://{server.folder}/socket") as process:
        person = Person(process)
        person.say("close")
        assert person.hear_data() == "close"


def test_a_sentinel_names_the_master(start_redis, serve_broadcast):
    master = start_redis()
    port = free_port()
    sentinel = start_sentinel(start_redis, port, master.port)
    url = f"redis+sentinel://127.0.0.1:{sentinel},127.0.0.1:1/chat"
    with serve_broadcast(url, history=5) as process:
        person = Person(process)
        person.say("through the sentinel")
        assert person.hear_data() == "through the sentinel"
        with master.client() as admin:
            assert admin.xlen("geventws:room") == 1


def test_a_cluster_has_each_channel_at_its_own_node(cluster, serve_broadcast):
    channels = [*cluster.channels_of(0, 2), *cluster.channels_of(1, 2)]
    broadcast = Broadcast(cluster.url, history=10)
    with serve_broadcast(cluster.url, history=10) as process:
        for channel in channels:
            first = broadcast.publish(channel, "one")
            second = broadcast.publish(channel, b"two")
            person = Person(process, channel, since=first)
            assert person.heard == [f"{second} b'two'"]
            person.say(channel)
            assert person.hear_data() == channel
            assert broadcast.subscribers(channel) == 1
            Person(process, channel, member="ann")
            bob = Person(process, channel, member="bob")
            assert broadcast.members(channel) == {"ann": "ann", "bob": "bob"}
            bob.leave()
            wait_until(lambda channel=channel: "bob" not in broadcast.members(channel))
        for client in cluster.clients:
            assert len(client.execute_command("PUBSUB SHARDCHANNELS")) == 2
            assert len(client.client_list(_type="pubsub")) == 1
    broadcast.close()


def test_a_channel_without_history_moves_to_another_node_of_the_cluster(cluster, serve_broadcast):
    (moving,), (staying,) = cluster.channels_of(0, 1), cluster.channels_of(1, 1)
    with serve_broadcast(cluster.url) as process:
        people = [Person(process, moving), Person(process, staying)]
        cluster.move(moving, to=1)
        wait_until(lambda: len(cluster.clients[1].execute_command("PUBSUB SHARDCHANNELS")) == 2)
        for person in people:
            person.say("still here")
            assert person.hear() == "- still here"


def test_a_node_of_the_cluster_dies_and_comes_back(cluster, serve_broadcast):
    (one,), (other,) = cluster.channels_of(0, 1), cluster.channels_of(1, 1)
    with serve_broadcast(cluster.url, history=10) as process:
        people = [Person(process, one), Person(process, other)]
        cluster.nodes[1].kill()
        process.wait_for("does not work")
        people[1].say("lost")
        assert people[1].hear() == "refused"
        cluster.nodes[1].start()
        process.wait_for("works again")
        wait_until(cluster.is_complete)
        for person in people:
            person.say("refused?")
            while (heard := person.hear()) == "refused":
                person.say("refused?")
            assert heard.endswith(" refused?")


def test_a_cluster_that_is_not_there_at_the_start_is_waited_for(start_redis, serve_broadcast):
    port = free_port()
    with serve_broadcast(f"redis+cluster://127.0.0.1:{port}") as process:
        person = Person(process)
        person.say("lost")
        assert person.hear() == "refused"
        node = start_node(start_redis, free_port(), port)
        with node.client() as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        process.wait_for("works again")
        wait_until(lambda: get(process, "/count/room") == "1")
        person.say("found")
        assert person.hear() == "- found"


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://localhost",
        "redis+cluster://localhost/name",
        "redis+cluster://",
        "redis+cluster://localhost,,other",
        "redis://localhost?db=many",
    ],
)
def test_a_url_that_makes_no_sense_is_refused_at_once(url):
    with pytest.raises(ValueError, match=r"needs hosts|not an address|Invalid value"):
        Broadcast(url)


@pytest.mark.parametrize(
    "query", ["sokcet_timeout=1", "ssl_ca_certs=/x", "health_check_interval=x"]
)
def test_a_parameter_that_redis_py_does_not_know_is_refused_at_once(query):
    with pytest.raises(ValueError, match=r"parameter|Invalid value"):
        Broadcast(f"redis://localhost?{query}")


# --------------------------------------------------------- clients of the application


class Password(redis.CredentialProvider):
    """Fetches the password when a connection is opened."""

    def get_credentials(self):
        return ("geheim",)


def test_a_client_of_the_application_gives_its_settings(start_redis):
    server = start_redis("--requirepass", "geheim")
    with redis.Redis(
        port=server.port, db=3, credential_provider=Password(), decode_responses=True
    ) as client:
        broadcast = Broadcast(client, history=5)
        first = broadcast.publish("room", "hällo")
        assert [(it.id, it.data) for it in broadcast.history("room")] == [(first, "hällo")]
        assert client.exists("geventws:room")
        broadcast.close()
        assert client.ping()  # its own connections are untouched


def test_a_client_of_a_sentinel_and_of_a_unix_socket_will_do(start_redis):
    master = start_redis("--unixsocket", "socket")
    sentinel = start_sentinel(start_redis, 0, master.port)
    through_sentinel = redis.Sentinel([("127.0.0.1", sentinel)]).master_for("chat")
    through_socket = redis.Redis(unix_socket_path=str(master.folder / "socket"))
    for client in (through_sentinel, through_socket):
        broadcast = Broadcast(client, history=5)
        broadcast.publish("room", "hello")
        broadcast.close()
        client.close()
    with master.client() as admin:
        assert admin.xlen("geventws:room") == 2


def test_a_client_of_a_cluster_will_do(cluster):
    with redis.RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port) as client:
        broadcast = Broadcast(client, history=5)
        for channel in (*cluster.channels_of(0, 1), *cluster.channels_of(1, 1)):
            broadcast.publish(channel, "hello")
            assert [message.data for message in broadcast.history(channel)] == ["hello"]
        broadcast.close()


@pytest.mark.parametrize("what", [None, 5, b"redis://localhost", object()])
def test_what_is_neither_a_url_nor_a_client_is_refused(what):
    with pytest.raises(TypeError, match="a URL or a client of redis-py"):
        Broadcast(what)
