"""What clients hear when Redis, the network or other programs do something unexpected."""

import json
import signal
import threading
import time
from contextlib import closing

import gevent
import pytest

from geventws import Broadcast, BroadcastError
from tests.support.client import CLOSE, PING
from tests.support.people import Person, check_fork, get, join_everywhere
from tests.support.redis import Gateway, start_sentinel
from tests.support.tools import SECONDS, wait_until


def close_code(person):
    """Read until the server closes the connection; return the code and the reason."""
    while (arrived := person.client.read_frame())[0] != CLOSE:
        assert arrived[0] == PING, arrived
    return int.from_bytes(arrived[1][:2], "big"), arrived[1][2:].decode()


def texts(person):
    return [text.split(" ", 1)[1] for text in person.heard]


# ------------------------------------------------------------- nothing twice, no gap


@pytest.mark.parametrize("moment", [b"PING", b"PONG", b"XRANGE"])
def test_who_comes_back_while_the_connection_is_replaced_hears_nothing_twice(
    redis_server, serve_broadcast, moment
):
    channel = f"replaced-{moment.decode()}-{time.time_ns()}"
    with (
        closing(Broadcast(redis_server.url, history=10)) as broadcast,
        Gateway(redis_server) as gateway,
        serve_broadcast(gateway.url, history=10) as process,
    ):
        first = Person(process, channel)
        ids = [broadcast.publish(channel, str(number)) for number in range(3)]
        assert [first.hear_data() for _ in ids] == ["0", "1", "2"]
        gateway.before(moment, gateway.cut)
        back = Person(process, channel, ids[0])
        wait_until(lambda: get(process, "/healthy") == "True")
        heard = texts(back)
        broadcast.publish(channel, "3")
        while not heard or heard[-1] != "3":
            heard.append(back.hear_data())
        assert heard == ["1", "2", "3"]
        assert first.hear_data() == "3"


def test_a_live_client_that_missed_more_than_is_kept_is_closed_and_told_when_it_is_back(
    redis_server, serve_broadcast
):
    channel = f"hole-{time.time_ns()}"
    with (
        closing(Broadcast(redis_server.url, history=5)) as broadcast,
        Gateway(redis_server) as gateway,
        serve_broadcast(gateway.url, history=5) as process,
    ):
        person = Person(process, channel)
        last = broadcast.publish(channel, "heard")
        assert person.hear_data() == "heard"
        listener = gevent.spawn(get, process, f"/lost/{channel}")
        wait_until(lambda: get(process, f"/listeners/{channel}") == "1")
        gateway.is_open = False
        gateway.cut()
        for number in range(12):
            broadcast.publish(channel, str(number))
        gateway.is_open = True
        assert close_code(person) == (1013, "messages missed")
        assert listener.get(timeout=SECONDS) == "7 7"
        back = Person(process, channel, last)
        assert back.recovered == "False"
        assert texts(back) == ["7", "8", "9", "10", "11"]
        assert json.loads(get(process, "/stats"))["broadcast_gaps"] == 1
        process.wait_for("has missed about 7 messages")


def test_a_live_client_that_missed_exactly_as_many_as_are_kept_hears_them(
    redis_server, serve_broadcast
):
    channel = f"exact-{time.time_ns()}"
    with (
        closing(Broadcast(redis_server.url, history=5)) as broadcast,
        Gateway(redis_server) as gateway,
        serve_broadcast(gateway.url, history=5) as process,
    ):
        person = Person(process, channel)
        broadcast.publish(channel, "heard")
        assert person.hear_data() == "heard"
        gateway.is_open = False
        gateway.cut()
        for number in range(5):
            broadcast.publish(channel, str(number))
        gateway.is_open = True
        assert [person.hear_data() for _ in range(5)] == list("01234")


@pytest.mark.parametrize("loses", ["everything", "the stream"])
def test_a_live_client_is_told_if_redis_forgets_its_channel_behind_its_back(
    redis_server, serve_broadcast, loses
):
    channel = f"anew-{time.time_ns()}"
    with (
        closing(Broadcast(redis_server.url, history=5)) as broadcast,
        redis_server.client() as admin,
        Gateway(redis_server) as gateway,
        serve_broadcast(gateway.url, history=5) as process,
    ):
        person = Person(process, channel)
        old = [broadcast.publish(channel, text) for text in "abc"]
        assert [person.hear_data() for _ in range(3)] == list("abc")
        gateway.is_open = False
        gateway.cut()
        keys = admin.keys(f"geventws:*{channel}*")
        assert len(keys) == 2
        admin.delete(*(keys if loses == "everything" else [f"geventws:{channel}"]))
        broadcast.publish(channel, "d")
        gateway.is_open = True
        if loses == "everything":
            assert close_code(person) == (1013, "messages missed")
        else:
            assert person.hear_data() == "d"
        back = Person(process, channel, old[2])
        assert (back.recovered, texts(back)) == (str(loses != "everything"), ["d"])
        back = Person(process, channel, old[0])
        assert (back.recovered, texts(back)) == ("False", ["d"])


def test_an_id_from_before_a_new_beginning_is_not_taken_for_a_new_one(
    redis_server, serve_broadcast
):
    channel = f"epochs-{time.time_ns()}"
    with (
        closing(Broadcast(redis_server.url, history=5)) as broadcast,
        serve_broadcast(redis_server.url, history=5) as process,
        redis_server.client() as admin,
    ):
        broadcast.publish(channel, "old")
        for key in admin.keys(f"*{channel}*"):
            admin.delete(key)
        ids = [broadcast.publish(channel, text) for text in "abc"]
        milliseconds, number = ids[1].split("-")
        other_epoch = f"{milliseconds}-{int(number) ^ 1 << 40}"
        person = Person(process, channel, other_epoch)
        assert (person.recovered, texts(person)) == ("False", ["a", "b", "c"])


# ---------------------------------------------------------------------- recovered


def test_who_missed_exactly_as_many_as_are_kept_has_recovered(redis_server, serve_broadcast):
    channel = f"exactly-{time.time_ns()}"
    with (
        closing(Broadcast(redis_server.url, history=3)) as broadcast,
        serve_broadcast(redis_server.url, history=3) as process,
    ):
        ids = [broadcast.publish(channel, text) for text in "abcde"]
        person = Person(process, channel, ids[1])
        assert (person.recovered, texts(person)) == ("True", ["c", "d", "e"])
        person = Person(process, channel, ids[0])
        assert (person.recovered, texts(person)) == ("False", ["c", "d", "e"])


def test_who_missed_nothing_in_a_channel_whose_history_expired_has_recovered(
    redis_server, serve_broadcast
):
    channel = f"quiet-{time.time_ns()}"
    with (
        closing(Broadcast(redis_server.url, history=3, history_ttl=0.2)) as broadcast,
        redis_server.client() as admin,
        serve_broadcast(redis_server.url, history=3) as process,
    ):
        ids = [broadcast.publish(channel, text) for text in "ab"]
        wait_until(lambda: not admin.exists(f"geventws:{channel}"))
        assert Person(process, channel, ids[1]).recovered == "True"
        assert Person(process, channel, ids[0]).recovered == "False"
        broadcast.publish(channel, "c")
        back = Person(process, channel, ids[1])
        assert (back.recovered, texts(back)) == ("True", ["c"])
        back = Person(process, channel, ids[0])
        assert (back.recovered, texts(back)) == ("False", ["c"])


def test_who_has_heard_nothing_comes_back_with_a_position(redis_server, serve_broadcast):
    channel = f"position-{time.time_ns()}"
    with (
        closing(Broadcast(redis_server.url, history=3)) as broadcast,
        serve_broadcast(redis_server.url, history=3) as process,
    ):
        position = Person(process, channel).position
        broadcast.publish(channel, "a")
        back = Person(process, channel, position)
        assert (back.recovered, texts(back)) == ("True", ["a"])
        assert back.position == back.heard[0].split(" ")[0]


# -------------------------------------------------------- faults of a single channel


def test_a_key_of_another_type_disturbs_only_its_channel(redis_server, serve_broadcast):
    odd, fine = f"odd-{time.time_ns()}", f"fine-{time.time_ns()}"
    with (
        redis_server.client() as admin,
        closing(Broadcast(redis_server.url, history=5)) as broadcast,
        Gateway(redis_server) as gateway,
        serve_broadcast(gateway.url, history=5) as process,
    ):
        admin.set(f"geventws:{odd}", "a string")
        people = [Person(process, channel) for channel in (odd, fine)]
        for _ in range(2):
            people[1].say("hello")
            assert people[1].hear_data() == "hello"
            people[0].say("hello")
            assert people[0].hear() == "refused"
            broadcast.publish(odd, "passing", keep=False)
            assert people[0].hear_data() == "passing"
            assert get(process, "/healthy") == "True"
            gateway.cut()
            wait_until(lambda: get(process, "/live") == "0")
            wait_until(lambda: get(process, "/live") == "2")
        with pytest.raises(BroadcastError, match="WRONGTYPE"):
            broadcast.history(odd)
        with pytest.raises(BroadcastError, match="WRONGTYPE"):
            broadcast.publish(odd, "x")
        assert broadcast.healthy
        with process.client() as client:
            client.open(f"/{odd}?since=1-1")
            assert client.read_frame() == (CLOSE, b"\x03\xf3")  # 1011
        assert "Traceback" in process.output  # of the view, which did not expect it
        assert "subscriptions of" not in process.output
        admin.delete(f"geventws:{odd}")
        people[0].say("again")
        assert people[0].hear_data() == "again"


def test_greater_ids_of_other_programs_do_not_stop_a_channel(redis_server, serve_broadcast):
    channel = f"greater-{time.time_ns()}"
    with (
        redis_server.client() as admin,
        serve_broadcast(redis_server.url, history=5) as process,
    ):
        person = Person(process, channel)
        person.say("one")
        first = person.hear().split(" ")[0]
        admin.xadd(f"geventws:{channel}", {"m": "foreign"}, f"{int(time.time() * 1000) + 9999}-7")
        person.say("two")
        second = person.hear().split(" ")[0]
        assert [int(part) for part in first.split("-")] < [int(part) for part in second.split("-")]
        back = Person(process, channel, first)
        assert (back.recovered, texts(back)) == ("True", ["two"])


@pytest.mark.parametrize("latest", ["5-18446744073709551615", "9" * 300 + "-1", b"\xff\xfe", "x"])
def test_a_latest_id_of_another_program_is_passed_over(redis_server, serve_broadcast, latest):
    channel = f"latest-{time.time_ns()}"
    with (
        redis_server.client() as admin,
        serve_broadcast(redis_server.url, history=5) as process,
    ):
        admin.set(f"geventws:\x7f{{geventws:{channel}}}", latest)
        person = Person(process, channel)
        person.say("hello")
        first = person.hear().split(" ")[0]
        person.say("again")
        assert person.hear_data() == "again"
        back = Person(process, channel, first)
        assert (back.recovered, texts(back)) == ("True", ["again"])


def test_whoever_only_looks_at_a_history_leaves_nothing_in_redis(redis_server):
    channel = f"looked-at-{time.time_ns()}"
    with (
        closing(Broadcast(redis_server.url, history=5)) as broadcast,
        redis_server.client() as admin,
    ):
        assert broadcast.history(channel) == []
        assert admin.keys(f"*{channel}*") == []


def test_interrupted_publishers_take_no_connection_with_them(redis_server, serve_broadcast):
    with serve_broadcast(f"{redis_server.url}?max_connections=2", history=5) as process:
        assert get(process, "/interrupted/500") == "500 tried"
        assert get(process, "/free") == "2"
        assert get(process, "/flood/20") == "20 published"


def test_an_envelope_that_raises_for_a_kept_message_locks_nobody_out(redis_server, serve_broadcast):
    channel = f"poison-{time.time_ns()}"
    with (
        closing(Broadcast(redis_server.url, history=5)) as broadcast,
        serve_broadcast(redis_server.url, history=5) as process,
    ):
        for message in ("one", "poison", "two"):
            broadcast.publish(channel, message)
        person = Person(process, channel, "")
        assert (person.recovered, texts(person)) == ("True", ["one", "two"])
        process.wait_for("cannot be sent and was dropped")


# -------------------------------------------------------------------------- health


def test_a_process_that_only_publishes_is_healthy_again_by_itself(start_redis):
    server = start_redis()
    with closing(Broadcast(server.url)) as broadcast:
        server.kill()
        with pytest.raises(BroadcastError):
            broadcast.publish("room", "lost")
        assert not broadcast.healthy
        server.start()
        wait_until(lambda: broadcast.healthy)


@pytest.mark.parametrize("is_used", [False, True])
def test_a_health_check_finds_out_that_redis_is_down_or_hangs(
    start_redis, serve_broadcast, is_used
):
    server = start_redis()
    with serve_broadcast(server.url) as process:
        if is_used:
            assert get(process, "/flood/1") == "1 published"
        assert get(process, "/healthy") == "True"
        server.send_signal(signal.SIGSTOP)
        wait_until(lambda: get(process, "/healthy") == "False")
        server.send_signal(signal.SIGCONT)
        wait_until(lambda: get(process, "/healthy") == "True")
        server.kill()
        wait_until(lambda: get(process, "/healthy") == "False")


def test_what_redis_refuses_to_everybody_is_an_outage(start_redis):
    server = start_redis()
    with closing(Broadcast(f"{server.url}/99")) as broadcast:
        assert not broadcast.healthy
        with pytest.raises(BroadcastError, match="DB index"):
            broadcast.publish("room", "lost")
    with server.client() as admin, closing(Broadcast(server.url, history=5)) as broadcast:
        admin.execute_command("ACL", "SETUSER", "default", "-eval", "-evalsha")
        with pytest.raises(BroadcastError, match="permissions"):
            broadcast.publish("room", "lost")
        assert not broadcast._backend.is_up


def test_redis_without_memory_refuses_messages_and_is_not_down(start_redis, serve_broadcast):
    server = start_redis()
    with server.client() as admin, serve_broadcast(server.url, history=5) as process:
        person = Person(process)
        admin.config_set("maxmemory", 1)
        for _ in range(20):
            person.say("too much")
            assert person.hear() == "refused"
        assert get(process, "/healthy") == "True"
        late = Person(process, "late")
        admin.config_set("maxmemory", 0)
        for one in (person, late):
            one.say("room again")
            assert one.hear_data() == "room again"
        assert "does not work" not in process.output


def test_more_publishers_than_connections_wait_for_one(redis_server, serve_broadcast):
    with Gateway(redis_server) as gateway:
        gateway.latency = 0.02
        url = f"{gateway.url}?max_connections=5"
        with serve_broadcast(url, history=5) as process:
            assert get(process, "/flood/100") == "100 published"
            assert len(gateway.pairs) <= 5
            assert get(process, "/healthy") == "True"


def test_a_publisher_that_waits_in_vain_for_a_connection_is_told_so(start_redis, serve_broadcast):
    server = start_redis()
    url = f"{server.url}?max_connections=1&socket_timeout=30"
    with serve_broadcast(url) as process:
        assert get(process, "/flood/1") == "1 published"
        server.send_signal(signal.SIGSTOP)
        publishers = [gevent.spawn(get, process, "/flood/1") for _ in range(2)]
        (told,) = gevent.wait(publishers, SECONDS, 1)
        assert "all 1 connections to" in told.get()
        assert "does not work" not in process.output
        server.send_signal(signal.SIGCONT)
        publishers.remove(told)
        assert publishers[0].get(timeout=SECONDS) == "1 published"


# --------------------------------------------------------------------------- counts


def test_the_number_of_subscribers_is_right_or_an_error(redis_server, serve_broadcast):
    channel = f"counted-{time.time_ns()}"
    with (
        closing(Broadcast(redis_server.url)) as broadcast,
        redis_server.client() as admin,
        serve_broadcast(redis_server.url) as process,
        serve_broadcast(redis_server.url) as other,
    ):
        people = [Person(one, channel) for one in (process, process, other)]
        assert broadcast.subscribers(channel) == 3
        with admin.pubsub() as monitor:
            monitor.psubscribe("*")
            wait_until(lambda: monitor.get_message(timeout=1))
            assert broadcast.subscribers(channel) == 3
        other.process.send_signal(signal.SIGSTOP)
        with pytest.raises(BroadcastError, match="1 of the 2 processes"):
            broadcast.subscribers(channel)
        assert broadcast.healthy
        other.process.send_signal(signal.SIGCONT)
        assert people[2].pid


def test_whoever_counts_needs_no_connection_that_an_answer_needs(redis_server, serve_broadcast):
    channel = f"asked-{time.time_ns()}"
    with serve_broadcast(f"{redis_server.url}?max_connections=1") as process:
        people = [Person(process, channel) for _ in range(2)]
        asking = [gevent.spawn(get, process, f"/count/{channel}") for _ in range(5)]
        assert [it.get(timeout=SECONDS) for it in asking] == ["2"] * 5
        people[0].client.finish()
        people[1].client.finish()
        wait_until(lambda: get(process, f"/count/{channel}") == "0")


def test_joins_wait_for_a_connection_while_others_publish(redis_server, serve_broadcast):
    mark = time.time_ns()
    with serve_broadcast(f"{redis_server.url}?max_connections=1", history=5) as process:
        flood = gevent.spawn(get, process, "/flood/200")
        assert get(process, f"/together/50-{mark}") == "joined"
        assert flood.get(timeout=SECONDS) == "200 published"
        assert get(process, "/healthy") == "True"
        assert "does not work" not in process.output


# --------------------------------------------------------------------------- forks


def test_a_forked_process_publishes_and_takes_nothing_from_its_parent(
    redis_server, serve_broadcast
):
    channel = f"forked-{time.time_ns()}"
    with serve_broadcast(redis_server.url, history=100) as process:
        check_fork(process, channel)


# -------------------------------------------------------------------------- crowds


@pytest.mark.timeout(120)
def test_a_crowd_that_comes_back_to_one_channel_recovers_and_reads_its_history_together(
    redis_server, serve_broadcast
):
    channel = f"crowd-{time.time_ns()}"
    with (
        closing(Broadcast(redis_server.url, history=20)) as broadcast,
        redis_server.client() as admin,
        Gateway(redis_server) as gateway,
        serve_broadcast(gateway.url, history=20) as process,
    ):
        gateway.latency = 0.02
        Person(process, channel)
        ids = [broadcast.publish(channel, str(number)) for number in range(10)]
        before = admin.info("commandstats")["cmdstat_xrange"]["calls"]
        crowd = [gevent.spawn(Person, process, channel, ids[i % 10]) for i in range(300)]
        gevent.joinall(crowd, raise_error=True, timeout=60)
        assert {one.value.recovered for one in crowd} == {"True"}
        assert [len(one.value.heard) for one in crowd] == [9 - i % 10 for i in range(300)]
        assert admin.info("commandstats")["cmdstat_xrange"]["calls"] - before < 100


def test_joins_that_wait_for_their_histories_delay_no_other_channel(redis_server, serve_broadcast):
    mark = time.time_ns()
    with (
        closing(Broadcast(redis_server.url, history=20)) as broadcast,
        Gateway(redis_server) as gateway,
        serve_broadcast(gateway.url, history=20) as process,
    ):
        person = Person(process, f"steady-{mark}")
        is_held, may_go_on = gevent.event.Event(), gevent.event.Event()

        def hold():
            is_held.set()
            may_go_on.wait(SECONDS)

        gateway.before(b"XREVRANGE", hold)
        joining = gevent.spawn(get, process, f"/together/300-{mark}")
        assert is_held.wait(SECONDS)
        for number in range(20):
            broadcast.publish(f"steady-{mark}", str(number))
            assert person.hear_data() == str(number)
        may_go_on.set()
        assert joining.get(timeout=SECONDS) == "joined"
        assert get(process, "/live") == "301"
        broadcast.publish(f"steady-{mark}", "last")
        assert person.hear_data() == "last"


def test_a_sentinel_with_a_password_of_its_own(start_redis, serve_broadcast):
    master = start_redis("--requirepass", "master")
    sentinel = start_sentinel(
        start_redis,
        0,
        master.port,
        "sentinel auth-pass chat master",
        "requirepass guard",
    )
    url = f"redis+sentinel://:master@127.0.0.1:{sentinel}/chat?sentinel_password=guard"
    with serve_broadcast(url) as process:
        person = Person(process)
        person.say("both")
        assert person.hear_data() == "both"


@pytest.mark.parametrize("query", ["protocol=3", "decode_responses=true"])
def test_parameters_that_change_the_answers_of_redis_are_harmless(
    redis_server, serve_broadcast, query
):
    with serve_broadcast(f"{redis_server.url}?{query}", history=5) as process:
        person = Person(process, f"query-{query}")
        person.say("hällo")
        assert person.hear_data() == "hällo"
        back = Person(process, f"query-{query}", "")
        assert texts(back)[-1] == "hällo"


def test_a_history_of_many_pages_is_read_as_a_whole(redis_server, serve_broadcast):
    channel = f"pages-{time.time_ns()}"
    with (
        closing(Broadcast(redis_server.url, history=330)) as broadcast,
        redis_server.client() as admin,
        serve_broadcast(redis_server.url, history=330) as process,
    ):
        ids = [broadcast.publish(channel, str(number)) for number in range(170)]
        admin.xadd(f"geventws:{channel}", {"m": "foreign"}, f"{ids[-1].split('-')[0]}-{1 << 60}")
        ids += [broadcast.publish(channel, str(number)) for number in range(170, 331)]
        person = Person(process, channel, "")
        assert texts(person) == [str(number) for number in range(2, 331)]  # one entry is foreign
        person = Person(process, channel, ids[9])
        assert (person.recovered, texts(person)[0], len(person.heard)) == ("True", "10", 321)


def test_a_history_that_grows_faster_than_it_is_read_is_read_nevertheless(
    redis_server, serve_broadcast
):
    channel = f"growing-{time.time_ns()}"
    with (
        closing(Broadcast(redis_server.url, history=100_000)) as broadcast,
        Gateway(redis_server) as gateway,
        serve_broadcast(gateway.url, history=100_000) as process,
    ):
        ids = [broadcast.publish(channel, str(number)) for number in range(200)]
        Person(process, channel)
        gateway.latency = 0.05  # a page of 50 messages takes 100 ms

        def publish():
            while True:
                for _ in range(40):
                    broadcast.publish(channel, "more")
                gevent.sleep(0.05)

        publishing = gevent.spawn(publish)
        person = Person(process, channel, ids[0])
        publishing.kill()
        assert person.recovered == "True"
        assert texts(person)[:199] == [str(number) for number in range(1, 200)]


def test_native_threads_publish_without_harm_while_others_subscribe(redis_server, serve_broadcast):
    channel = f"threads-{time.time_ns()}"
    with (
        closing(Broadcast(redis_server.url, history=200)) as broadcast,
        serve_broadcast(redis_server.url, history=200) as process,
    ):
        person = Person(process, channel)

        def publish(name):
            for number in range(50):
                broadcast.publish(channel, f"{name} {number}")

        threads = [threading.Thread(target=publish, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        heard = [person.hear_data() for _ in range(100)]
        for thread in threads:
            thread.join()
        for name in "ab":
            assert [text for text in heard if text.startswith(name)] == [
                f"{name} {number}" for number in range(50)
            ]


def test_the_workers_of_a_crowd_agree_on_the_order(redis_server, serve_broadcast):
    channel = f"order-{time.time_ns()}"
    with (
        closing(Broadcast(redis_server.url, history=500)) as broadcast,
        Gateway(redis_server) as gateway,
        serve_broadcast(gateway.url, workers=2, history=500) as process,
    ):
        people = join_everywhere(process, 2, channel)
        done = gevent.event.Event()

        def publish():
            for number in range(200):
                broadcast.publish(channel, str(number))
                if number % 50 == 25:
                    gateway.cut()
            done.set()

        gevent.spawn(publish)
        heard = [[person.hear_data() for _ in range(200)] for person in people]
        assert heard == [[str(number) for number in range(200)]] * 2
        assert done.wait(SECONDS)
