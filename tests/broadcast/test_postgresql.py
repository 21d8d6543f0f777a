"""Broadcast across processes, with a real PostgreSQL server."""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from urllib.parse import quote

import pytest

from geventws import Broadcast, BroadcastError
from geventws.broadcast.backend import Refusal
from geventws.broadcast.postgresql_messages import group_of
from geventws.broadcast.postgresql_schema import SCHEMA
from tests.support.client import CLOSE
from tests.support.people import Person, check_fork, get
from tests.support.redis import free_port
from tests.support.servers import ROOT
from tests.support.tools import SECONDS, wait_until

TABLES = "geventws_channels, geventws_messages, geventws_answers"


@pytest.fixture
def make_broadcast(postgresql_server):
    """``make_broadcast(history=…)``: a broadcast of this process, which can only publish."""
    broadcasts = []

    def make(url=None, **options):
        broadcasts.append(Broadcast(url or postgresql_server.url, **options))
        return broadcasts[-1]

    yield make
    for broadcast in broadcasts:
        broadcast.close()


def run_patched(program, url, seconds=30):
    """The output of a program after ``gevent.monkey.patch_all()``."""
    start = "from gevent import monkey\nmonkey.patch_all()\n"
    return run_program(start + program, url, seconds)


def run_program(program, url, seconds=30):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:Monkey", "-c", program, url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def data_of(texts):
    return [text.split(" ", 1)[1] for text in texts]


def unique(name):
    return f"{name}-{time.time_ns()}"


LISTENING = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 1734702700"


def listening_sessions(server):
    return [row[0] for row in server.execute(LISTENING)]


# ---------------------------------------------------------------- several processes


def test_every_worker_receives_what_one_publishes(postgresql_server, serve_broadcast):
    with serve_broadcast(postgresql_server.url, workers=2) as process:
        subscribers = {}
        while len(subscribers) < 2:
            subscriber = Person(process)
            subscribers.setdefault(subscriber.pid, subscriber)
        everyone = list(subscribers.values())
        everyone[0].say("hällo")
        assert [each.hear() for each in everyone] == ["- hällo"] * 2


@pytest.mark.parametrize("keep", [True, False])
def test_text_and_bytes_of_any_size_arrive_in_their_order(
    postgresql_server, serve_broadcast, make_broadcast, keep
):
    broadcast = make_broadcast(history=100)
    channel = unique("sizes")
    sizes = [0, 1, 5_700, 5_800, 5_801, 7_999, 8_000, 8_001, 3, 1 << 20, 2]
    with serve_broadcast(postgresql_server.url, history=100) as process:
        subscriber = Person(process, channel)
        sent = [kind * size for size in sizes for kind in ("x", "ü", b"\0")]
        expected, heard = [], []
        for message in sent:
            id_ = broadcast.publish(channel, message, keep=keep)
            expected.append(f"{id_ or '-'} {message}")
            if len(message) > 1 << 19:  # otherwise, two of them could fill the send buffer
                heard += [subscriber.hear() for _ in expected[len(heard) :]]
        heard += [subscriber.hear() for _ in expected[len(heard) :]]
        assert heard == expected
        if keep:
            assert [message.data for message in broadcast.history(channel)] == sent
        assert Person(process, channel, "").heard == (expected if keep else [])


def test_kept_and_passing_messages_of_a_publisher_arrive_in_their_order(
    postgresql_server, serve_broadcast, make_broadcast
):
    broadcast = make_broadcast(history=500)
    with serve_broadcast(postgresql_server.url, history=500) as process:
        subscriber = Person(process, unique := f"mixed-{time.time_ns()}")
        for number in range(100):
            size = 20_000 if number % 7 == 0 else 1
            broadcast.publish(unique, f"{number} " + "x" * size, keep=number % 3 > 0)
        for number in range(100):
            assert subscriber.hear_data().startswith(f"{number} ")


@pytest.mark.parametrize("history", [0, 10])
def test_any_name_that_can_be_encoded_is_a_channel(
    postgresql_server, serve_broadcast, make_broadcast, history
):
    broadcast = make_broadcast(history=history)
    with serve_broadcast(postgresql_server.url, history=history) as process:
        for channel in ["\0", "a\r\nb", "'; --", "😀", "a" * 1024, "ü" * 256, " ", '"', "\\x41"]:
            subscriber = Person(process, quote(channel.encode()))
            # PEP 3333 gives the view the bytes of a path as characters.
            name = channel.encode().decode("latin-1")
            broadcast.publish(name, "hello")
            assert subscriber.hear_data() == "hello"
            assert len(broadcast.history(name)) == bool(history)
            subscriber.leave()
        assert get(process, "/healthy") == "True"


def test_subscribers_are_counted_in_all_processes(
    postgresql_server, serve_broadcast, make_broadcast
):
    broadcast = make_broadcast()
    assert broadcast.subscribers("counted") == 0
    with serve_broadcast(postgresql_server.url, workers=2) as process:
        subscribers = [Person(process, "counted")]
        while len({each.pid for each in subscribers}) < 2:
            subscribers.append(Person(process, "counted"))
        assert broadcast.subscribers("counted") == len(subscribers)
        assert get(process, "/count/counted") == str(len(subscribers))
        assert broadcast.subscribers("nowhere") == 0
        subscribers.pop().leave()
        wait_until(lambda: broadcast.subscribers("counted") == len(subscribers))


def test_a_process_that_does_not_tell_its_subscribers_is_no_zero(
    postgresql_server, serve_broadcast, make_broadcast
):
    broadcast = make_broadcast()
    with serve_broadcast(postgresql_server.url) as process:
        Person(process, "counted")
        process.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(BroadcastError, match="1 processes do not tell"):
                broadcast.subscribers("counted")
        finally:
            process.process.send_signal(signal.SIGCONT)
        assert broadcast.subscribers("counted") == 1
        process.stop(signal.SIGKILL)
        wait_until(lambda: not listening_sessions(postgresql_server))
        assert broadcast.subscribers("counted") == 0


def test_interrupted_joins_do_not_affect_other_channels(postgresql_server, serve_broadcast):
    with serve_broadcast(postgresql_server.url, history=5) as process:
        first = Person(process, "first")
        assert get(process, "/impatient/%22busy%22") == "joined"
        for each in (first, *(Person(process, f"busy{number}") for number in (0, 50, 99))):
            each.say("hello")
            assert each.hear_data() == "hello"
        assert get(process, "/healthy") == "True"
        assert "Traceback" not in process.output


def test_notifications_of_other_programs_are_passed_over(postgresql_server, serve_broadcast):
    with serve_broadcast(postgresql_server.url) as process:
        subscriber = Person(process)
        for payload in ("", "m", "m - cm9vbQ==", "m x cm9vbQ== AWE=", "r - cm9vbQ== 1", "c x cm9"):
            for channel in ("geventws", "geventws_d3", "geventws_20"):
                postgresql_server.execute(f"SELECT pg_notify('{channel}', '{payload}')")
        subscriber.say("ours")
        assert subscriber.hear() == "- ours"
        assert "Traceback" not in process.output


def test_many_channels_are_joined_at_once(postgresql_server):
    program = """
import sys, time
from geventws import Broadcast
broadcast = Broadcast(sys.argv[1], history=5)
channels = [f"many-{time.time_ns()}-{number}" for number in range(500)]
backend = broadcast._backend
for name in channels:
    broadcast._channel_for(name)
queries = []
execute = backend._pool.execute
backend._pool.execute = lambda *arguments: queries.append(arguments) or execute(*arguments)
backend.subscribe_all(channels)
assert all(backend.channels[name].is_live for name in channels)
print(len(queries))
broadcast.close()
"""
    # For 200 channels, one reads the positions, and one makes sure that all before has arrived.
    assert int(run_patched(program, postgresql_server.url)) <= 6


# ------------------------------------------------------------------- order of ids


def test_no_reader_passes_an_id_that_becomes_visible_later(
    postgresql_server, serve_broadcast, make_broadcast
):
    program = """
import sys, threading
from geventws import Broadcast
broadcast = Broadcast(sys.argv[1], history=10000)
def publish():
    for number in range(50):
        broadcast.publish("ordered", "x")
threads = [threading.Thread(target=publish) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
broadcast.close()
"""
    reader = make_broadcast(history=10_000)
    reader.publish("ordered", "first")
    with serve_broadcast(postgresql_server.url, history=10_000) as process:
        subscriber = Person(process, "ordered")
        publishers = [
            subprocess.Popen([sys.executable, "-c", program, postgresql_server.url], cwd=ROOT)
            for _ in range(2)
        ]
        since = reader.history("ordered")[-1].id
        seen = []
        while len(seen) < 400:
            found = reader._backend.history("ordered", since)
            assert found.complete
            seen += [message.id for message in found.messages]
            since = seen[-1] if seen else since
        assert [publisher.wait(20) for publisher in publishers] == [0, 0]
        epoch, first = (reader.history("ordered")[0].id).split("-")
        assert seen == [f"{epoch}-{int(first) + number}" for number in range(1, 401)]
        assert [subscriber.hear().split(" ")[0] for _ in seen] == seen


# -------------------------------------------------------------- history, recovery


def test_the_history_is_capped(make_broadcast):
    broadcast = make_broadcast(history={"kept*": 3, "*": 0})
    channel = unique("kept")
    ids = [broadcast.publish(channel, message) for message in ("a", b"b", "c", "")]
    kept = [(message.id, message.data) for message in broadcast.history(channel)]
    assert kept == [(ids[1], b"b"), (ids[2], "c"), (ids[3], "")]
    assert broadcast.publish(channel, "passing", keep=False) is None
    assert broadcast.publish("other", "passing") is None
    assert len(broadcast.history(channel)) == 3
    assert broadcast.history("other") == broadcast.history("never") == []


def test_which_histories_are_complete(make_broadcast):
    backend = make_broadcast(history=3)._backend
    channel = unique("complete")
    ids = [backend.publish(channel, str(number), True) for number in range(5)]

    def read(since):
        messages, complete = backend.history(channel, since)
        return "".join(str(message.data) for message in messages), complete

    assert read(None) == read("") == ("234", True)
    assert read(ids[0]) == ("234", False)
    assert read(ids[1]) == ("234", True)  # exactly as many are missed as are kept
    assert read(ids[2]) == ("34", True)
    assert read(ids[4]) == ("", True)
    epoch = ids[0].partition("-")[0]
    assert read(f"{epoch}-0") == ("234", False)
    for unknown in (f"{epoch}-6", "1-1", "99999999999999999-1", "9" * 19 + "-1", "x", "9" * 50):
        assert read(unknown) == ("234", False)
    assert backend.history(unique("never"), "1-1") == ([], False)
    assert backend.history(unique("never"), "") == ([], True)


def test_a_history_expires(postgresql_server, make_broadcast):
    broadcast = make_broadcast(history=3, history_ttl=0.3)
    channel = unique("expiring")
    old = [broadcast.publish(channel, text) for text in ("a", "b")]
    wait_until(lambda: not broadcast.history(channel))
    assert broadcast._backend.history(channel, old[1]) == ([], True)  # nothing was missed
    assert broadcast._backend.history(channel, old[0]) == ([], False)
    new = broadcast.publish(channel, "c")
    assert [message.data for message in broadcast.history(channel)] == ["c"]
    assert new == old[1].partition("-")[0] + "-3"
    # What the cleanup finds two minutes later, and a day later.
    row = f"SELECT 1 FROM geventws_channels WHERE name = '{channel}'"
    numbers = f"{row} AND id IN (SELECT channel FROM geventws_messages)"
    for minutes, messages, rows in ((0, 1, 1), (2, 0, 1), (1440, 0, 0)):
        postgresql_server.execute(
            f"UPDATE geventws_channels SET cleanup_minute = cleanup_minute - {minutes}"
            f" WHERE name = '{channel}'; SELECT geventws_clean()"
        )
        assert len(postgresql_server.execute(numbers)) == messages
        assert len(postgresql_server.execute(row)) == rows


def test_the_bodies_of_large_passing_messages_are_deleted(postgresql_server, make_broadcast):
    make_broadcast().publish("large", "x" * 10_000)
    count = "SELECT count(*) FROM geventws_messages WHERE channel = 0"
    assert postgresql_server.execute(count)[0][0] > 0
    postgresql_server.execute(
        "UPDATE geventws_messages SET stored = stored - interval '2 minutes' WHERE channel = 0;"
        " SELECT geventws_clean()"
    )
    assert postgresql_server.execute(count) == [(0,)]


def test_who_comes_back_gets_what_was_missed(postgresql_server, serve_broadcast, make_broadcast):
    broadcast = make_broadcast(history=3)
    channel = unique("missed")
    ids = [broadcast.publish(channel, text) for text in ("a", "b", "c", "d")]
    with serve_broadcast(postgresql_server.url, history=3) as process:
        everyone = []
        for since, recovered, expected in (
            (ids[0], "True", ["b", "c", "d"]),
            (ids[3], "True", []),
            ("", "True", ["b", "c", "d"]),
            ("nonsense", "False", ["b", "c", "d"]),
            ("1-1", "False", ["b", "c", "d"]),
        ):
            subscriber = Person(process, channel, since)
            everyone.append(subscriber)
            assert (subscriber.recovered, data_of(subscriber.heard)) == (recovered, expected)
        live = broadcast.publish(channel, "live")
        assert [each.hear() for each in everyone] == [f"{live} live"] * 5


def test_a_position_is_an_id_also_before_the_first_message(postgresql_server):
    program = """
import sys, time
from geventws import Broadcast
broadcast = Broadcast(sys.argv[1], history=5)
backend = broadcast._backend
channel = f"position-{time.time_ns()}"
with broadcast.listen(channel) as messages:
    position = backend.position(channel)
    assert position.endswith("-0"), position
    assert backend.history(channel, position) == ([], True)
    id_ = broadcast.publish(channel, "one")
    assert next(messages).id == id_ == backend.position(channel)
    found, complete = backend.history(channel, position)
    assert [message.id for message in found] == [id_] and complete
    assert backend.history(channel, id_) == ([], True)
broadcast.close()
"""
    run_patched(program, postgresql_server.url)


# ------------------------------------------------------------------ PostgreSQL fails


def interrupt(server, statement="SELECT"):
    """End the listening sessions, and execute something in the same moment."""
    return server.execute(
        f"SELECT pg_terminate_backend(pid) FROM ({LISTENING}) AS listening; {statement}"
    )


def publish_many(channel, count, keep=10):
    """The statement that publishes numbers as another program would."""
    return (
        f"SELECT geventws_publish('{group_of(channel)}', '{channel}',"
        f" '\\x01'::bytea || n::text::bytea, {keep}, 3600) FROM generate_series(1, {count}) n"
    )


def test_what_was_published_while_the_connection_was_lost_is_delivered_once(
    postgresql_server, serve_broadcast
):
    channel = unique("killed")
    with serve_broadcast(postgresql_server.url, history=10) as process:
        subscriber, other = Person(process, channel), Person(process, "other")
        subscriber.say("before")
        assert subscriber.hear_data() == "before"
        for _ in range(3):
            interrupt(postgresql_server, publish_many(channel, 10))
            ids = [subscriber.hear() for _ in range(10)]
            assert data_of(ids) == [str(number) for number in range(1, 11)]
        subscriber.say("after")
        assert subscriber.hear_data() == "after"
        other.say("hello")
        assert other.hear_data() == "hello"
        wait_until(lambda: get(process, "/healthy") == "True")


@pytest.mark.timeout(90)
def test_each_message_arrives_once_while_the_connection_is_lost_again_and_again(
    postgresql_server, serve_broadcast, make_broadcast
):
    broadcast = make_broadcast(history=2000)
    channel = unique("storm")
    with serve_broadcast(postgresql_server.url, history=2000) as process:
        everyone = [Person(process, channel) for _ in range(3)]

        def publish(name):
            for number in range(60):
                size = 10_000 if number % 9 == 0 else 1
                broadcast.publish(channel, f"{name} {number} " + "x" * size)
                if number % 5 == 0:
                    broadcast.publish(channel, "passing", keep=False)
                time.sleep(0.01)

        threads = [threading.Thread(target=publish, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            interrupt(postgresql_server)
            time.sleep(0.3)
        expected = [f"{it.id} {it.data}" for it in broadcast.history(channel)]
        assert len(expected) == 240
        last = broadcast.publish(channel, "last")
        for subscriber in everyone:
            texts = []
            while not texts or not texts[-1].startswith(last):
                texts.append(subscriber.hear())
            assert [text for text in texts if text[0] != "-"] == [*expected, f"{last} last"]


def test_clients_that_missed_more_than_is_kept_are_closed(postgresql_server, serve_broadcast):
    channel = unique("gap")
    with serve_broadcast(postgresql_server.url, history=10) as process:
        subscriber, other = Person(process, channel), Person(process, "other")
        subscriber.say("before")
        seen = subscriber.hear().split(" ")[0]
        interrupt(postgresql_server, publish_many(channel, 11))
        first, payload = subscriber.client.read_frame()
        assert (first, payload[:2]) == (CLOSE, (1013).to_bytes(2, "big"))
        process.wait_for(r"missed about 1 messages of 'gap-\d+', .* affected sockets: 1")
        other.say("still here")
        assert other.hear_data() == "still here"
        back = Person(process, channel, seen)
        assert (back.recovered, len(back.heard)) == ("False", 10)


@pytest.fixture
def logged_tables(postgresql_server):
    """``logged_tables(True)`` makes the tables survive a crash, for one test."""

    def change(are_logged):
        for table in ("geventws_channels", "geventws_messages"):
            kind = "LOGGED" if are_logged else "UNLOGGED"
            postgresql_server.execute(f"ALTER TABLE {table} SET {kind}")

    yield change
    change(False)


@pytest.mark.parametrize(("how", "is_logged"), [("kill", False), ("kill", True), ("stop", False)])
def test_after_a_restart_messages_arrive_again(
    postgresql_server, serve_broadcast, make_broadcast, logged_tables, how, is_logged
):
    """A crash empties unlogged tables: no old id is taken for a new one."""
    is_kept = is_logged or how == "stop"
    broadcast = make_broadcast(history=10)
    broadcast.publish("restart", "zero")
    logged_tables(is_logged)
    with serve_broadcast(postgresql_server.url, history=10) as process:
        subscriber = Person(process, "restart")
        old = broadcast.publish("restart", "one")
        broadcast.publish("restart", "two")
        assert [subscriber.hear_data() for _ in range(2)] == ["one", "two"]
        getattr(postgresql_server, how)()
        process.wait_for("The broadcast at postgresql://127.0.0.1:.* does not work")
        assert get(process, "/healthy") == "False"
        subscriber.say("lost")
        assert subscriber.hear() == "refused"
        with pytest.raises(BroadcastError, match="does not answer"):
            broadcast.publish("restart", "lost")
        assert not broadcast.healthy
        waiting = Person(process, "restart", old)
        assert waiting.recovered == "None"
        postgresql_server.start()
        process.wait_for("works again, after")
        wait_until(lambda: broadcast.healthy)  # by itself
        new = broadcast.publish("restart", "three")
        assert subscriber.hear() == f"{new} three"
        assert waiting.hear_data() == ("two" if is_kept else "three")
        back = Person(process, "restart", old)
        assert back.recovered == str(is_kept)
        assert data_of(back.heard) == (["two", "three"] if is_kept else ["three"])
        assert process.output.count("does not work") == 1
        assert "Traceback" not in process.output


def test_a_server_that_is_not_there_at_the_start_is_waited_for(postgresql_server, serve_broadcast):
    postgresql_server.stop()
    with serve_broadcast(postgresql_server.url, history=10) as process:
        subscribers = [Person(process, "late"), Person(process, "late", "0-0")]
        assert [each.recovered for each in subscribers] == ["True", "None"]
        subscribers[0].say("lost")
        assert subscribers[0].hear() == "refused"
        postgresql_server.start()
        process.wait_for("works again, after")
        subscribers[0].say("found")
        assert [each.hear_data() for each in subscribers] == ["found", "found"]


def test_a_server_that_hangs_costs_a_bounded_wait(
    postgresql_server, serve_broadcast, make_broadcast
):
    url = f"{postgresql_server.url}?timeout=0.5"
    broadcast = make_broadcast(url)
    broadcast.publish("hanging", "warm")
    with serve_broadcast(url) as process:
        subscriber = Person(process, "hanging")
        postgresql_server.send_signal(signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(BroadcastError, match="in time"):
                broadcast.publish("hanging", "lost")
            assert time.monotonic() - started < 3
            assert not broadcast.healthy
            subscriber.say("lost")
            assert subscriber.hear() == "refused"
            process.wait_for("does not work")
            assert get(process, "/healthy") == "False"
        finally:
            postgresql_server.send_signal(signal.SIGCONT)
        process.wait_for("works again")
        wait_until(lambda: broadcast.healthy)
        text = ""
        while text != "- there you are":  # what was published while it hung may come as well
            subscriber.say("there you are")
            text = subscriber.hear()


@pytest.mark.parametrize("action", [f"TRUNCATE {TABLES}", f"DROP TABLE {TABLES}"])
def test_tables_that_are_emptied_or_dropped_begin_anew(postgresql_server, serve_broadcast, action):
    with serve_broadcast(postgresql_server.url, history=10) as process:
        subscriber = Person(process, "dropped")
        for _ in range(3):
            subscriber.say("old")
            old = subscriber.hear().split(" ")[0]
        postgresql_server.execute(action)
        subscriber.say("new")
        assert subscriber.hear_data() == "new"
        back = Person(process, "dropped", old)
        assert (back.recovered, data_of(back.heard)) == ("False", ["new"])
        postgresql_server.execute(action)
        back = Person(process, "dropped", old)
        assert (back.recovered, back.heard) == ("False", [])
        interrupt(postgresql_server)
        wait_until(lambda: len(listening_sessions(postgresql_server)) == 1)
        for _ in range(2):
            subscriber.say("newer")
            assert subscriber.hear_data() == back.hear_data() == "newer"
        wait_until(lambda: get(process, "/healthy") == "True")


@pytest.fixture
def accept_again(postgresql_server, make_broadcast):
    """The server refuses the channel named "refused", until ``accept_again()`` is called."""
    make_broadcast(history=1).publish("fine", "the tables exist")
    postgresql_server.execute("""
        DELETE FROM geventws_channels WHERE name = 'refused';
        CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'not this one'; END $$;
        CREATE TRIGGER refusing BEFORE INSERT OR UPDATE ON geventws_channels
            FOR EACH ROW WHEN (NEW.name = 'refused') EXECUTE FUNCTION refuse()""")

    def accept():
        postgresql_server.execute("DROP TRIGGER IF EXISTS refusing ON geventws_channels")

    yield accept
    accept()


def test_an_error_about_one_channel_affects_no_other(
    postgresql_server, serve_broadcast, make_broadcast, accept_again
):
    broadcast = make_broadcast(history=10)
    with pytest.raises(Refusal, match="not this one"):
        broadcast.publish("refused", "message")
    assert broadcast.healthy
    with serve_broadcast(f"{postgresql_server.url}?timeout=1", history=10) as process:
        refused, fine = Person(process, "refused"), Person(process, "fine")
        refused.say("no")
        assert refused.hear() == "refused"
        fine.say("yes")
        assert fine.hear_data() == "yes"
        assert get(process, "/healthy") == "True"
        accept_again()
        wait_until(lambda: publishes(refused))
        assert process.output.count("cannot be read: ") >= 1


def test_one_refused_channel_of_many_does_not_hold_up_the_others(postgresql_server, accept_again):
    program = """
import sys, time
from geventws import Broadcast
broadcast = Broadcast(sys.argv[1], history=5)
backend = broadcast._backend
channels = [f"beside-{time.time_ns()}-{number}" for number in range(20)]
for name in (*channels, "refused"):
    broadcast._channel_for(name)
backend.subscribe_all([*channels[:10], "refused", *channels[10:]])
live = [name for name in backend.channels if backend.channels[name].is_live]
assert live == channels, live
assert broadcast.healthy
broadcast.close()
"""
    run_patched(program, postgresql_server.url)


def publishes(subscriber):
    """Whether a subscriber receives what it publishes. Until its channel is live, it does not."""
    subscriber.say("now")
    subscriber.client.sock.settimeout(0.3)
    try:
        return subscriber.hear_data() == "now"
    except TimeoutError:
        return False
    finally:
        subscriber.client.sock.settimeout(SECONDS)


# ------------------------------------------------------------- connecting, first use


def test_many_processes_create_the_tables_at_once(postgresql_server):
    postgresql_server.execute("CREATE DATABASE fresh")
    try:
        program = """
import sys
from geventws import Broadcast
broadcast = Broadcast(sys.argv[1], history=100)
broadcast.publish("fresh", "hello")
print(len(broadcast.history("fresh")))
broadcast.close()
"""
        url = postgresql_server.url_of("fresh")
        processes = [
            subprocess.Popen([sys.executable, "-c", program, url], cwd=ROOT) for _ in range(6)
        ]
        assert [process.wait(30) for process in processes] == [0] * 6
        rows = postgresql_server.execute("SELECT last FROM geventws_channels", "fresh")
        assert rows == [(6,)]
    finally:
        postgresql_server.execute("DROP DATABASE fresh WITH (FORCE)")


def test_an_administrator_may_create_the_tables(postgresql_server, make_broadcast):
    server = postgresql_server
    server.execute("CREATE DATABASE restricted")
    server.execute("DROP ROLE IF EXISTS app; CREATE ROLE app LOGIN PASSWORD 'secret'")
    url = server.url_of("restricted").replace("postgres@", "app:secret@")
    try:
        broadcast = make_broadcast(url, history=5)
        with pytest.raises(BroadcastError, match="permission denied for schema public") as error:
            broadcast.publish("room", "hello")
        assert "secret" not in str(error.value)
        assert not broadcast.healthy
        server.execute(SCHEMA, "restricted")
        server.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLES} TO app", "restricted")
        wait_until(lambda: broadcast.healthy)
        assert broadcast.publish("room", "hello").endswith("-1")
        assert broadcast.subscribers("room") == 0
        broadcast.close()
    finally:
        server.execute("DROP DATABASE restricted WITH (FORCE)")
        server.execute("DROP ROLE app")


def test_threads_publish_in_a_program_that_is_not_patched(make_broadcast):
    broadcast = make_broadcast(history=1000)
    channel = unique("threads")
    failures = []

    def publish(name):
        try:
            for number in range(20):
                broadcast.publish(channel, f"{name} {number}")
        except BroadcastError as problem:
            failures.append(problem)

    threads = [threading.Thread(target=publish, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert failures == []
    texts = [message.data for message in broadcast.history(channel)]
    for name in "abcdefgh":
        own = [text for text in texts if text.startswith(name)]
        assert own == [f"{name} {number}" for number in range(20)]


def test_native_threads_and_greenlets_publish_in_a_patched_program(postgresql_server):
    program = """
import sys, time
import gevent
from gevent.monkey import get_original
from geventws import Broadcast
broadcast = Broadcast(sys.argv[1], history=1000)
channel = f"native-{time.time_ns()}"
done = []
def publish(name):
    try:
        for number in range(20):
            broadcast.publish(channel, f"{name} {number}")
    finally:
        done.append(name)
messages = broadcast.listen(channel)
start = get_original("_thread", "start_new_thread")
for name in range(6):
    start(publish, (name,))
    gevent.spawn(publish, name + 6)
with gevent.Timeout(20):
    texts = [next(messages).data for _ in range(240)]
    while len(done) < 12:
        gevent.sleep(0.01)
assert texts == [message.data for message in broadcast.history(channel)]
broadcast.close()
"""
    run_patched(program, postgresql_server.url)


def test_more_publishers_than_connections_are_served_in_turn(postgresql_server):
    program = """
import sys
import gevent
from geventws import Broadcast
broadcast = Broadcast(sys.argv[1])
counts = [0] * 12
def publish(name):
    while max(counts) < 30:
        broadcast.publish("turns", "x")
        counts[name] += 1
gevent.joinall([gevent.spawn(publish, name) for name in range(12)], raise_error=True)
assert min(counts) > 5, counts  # one may open its connection meanwhile
broadcast.close()
"""
    run_patched(program, postgresql_server.url)


def test_a_forked_process_publishes_on_connections_of_its_own(postgresql_server):
    program = """
import os, sys, time
from geventws import Broadcast
broadcast = Broadcast(sys.argv[1], history=10)
channel = f"forked-{time.time_ns()}"
broadcast.publish(channel, "before")
child = os.fork()
if not child:
    broadcast.publish(channel, "child")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
broadcast.publish(channel, "parent")
assert [message.data for message in broadcast.history(channel)] == ["before", "child", "parent"]
broadcast.close()
"""
    run_program(program, postgresql_server.url)


def test_a_forked_process_takes_nothing_from_its_parent(postgresql_server, serve_broadcast):
    with serve_broadcast(postgresql_server.url, history=100) as process:
        check_fork(process, unique("forked"))


def test_a_health_check_of_an_idle_process_finds_out(postgresql_server, serve_broadcast):
    with serve_broadcast(postgresql_server.url) as process:
        assert get(process, "/healthy") == "True"
        postgresql_server.stop()
        wait_until(lambda: get(process, "/healthy") == "False")
        postgresql_server.start()
        wait_until(lambda: get(process, "/healthy") == "True")


@pytest.mark.parametrize("first", ["import psycopg", ""])
@pytest.mark.parametrize("implementation", ["binary", "python"])
def test_a_slow_statement_blocks_no_other_greenlet(postgresql_server, first, implementation):
    program = f"""
import os, time
os.environ["PSYCOPG_IMPL"] = "{implementation}"
{first}
from gevent import monkey
monkey.patch_all()
import sys, gevent
from geventws import Broadcast
broadcast = Broadcast(sys.argv[1])
longest = 0.0
def tick():
    global longest
    before = time.perf_counter()
    while True:
        gevent.sleep(0.01)
        now = time.perf_counter()
        longest, before = max(longest, now - before), now
broadcast.publish("warm", "connection")
ticking = gevent.spawn(tick)
broadcast._backend._query("SELECT pg_sleep($1)", 1)
ticking.kill()
print(longest)
broadcast.close()
"""
    if implementation == "python":
        with contextlib.suppress(AssertionError):
            run_program("import os; os.environ['PSYCOPG_IMPL'] = 'python'; import psycopg", "")
            assert float(run_program(program, postgresql_server.url)) < 0.5
    else:
        assert float(run_program(program, postgresql_server.url)) < 0.5


def test_to_subscribe_without_monkey_patching_is_refused(make_broadcast):
    broadcast = make_broadcast()
    with pytest.raises(RuntimeError, match=r"gevent\.monkey\.patch_all\(\)"):
        broadcast.listen("room")
    assert broadcast._channels == {}


def test_without_psycopg_the_error_has_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for name in ("", "_connections", "_listener", "_channels"):
        monkeypatch.delitem(sys.modules, f"geventws.broadcast.postgresql{name}", raising=False)
    with pytest.raises(ImportError, match=r"pip install geventws\[postgresql\]"):
        Broadcast("postgresql://localhost")


def test_a_publisher_without_a_server_gets_an_error():
    broadcast = Broadcast(f"postgres://me:secret@127.0.0.1:{free_port()}/chat", history=5)
    for operation in (
        lambda: broadcast.publish("room", "hello"),
        lambda: broadcast.subscribers("room"),
        lambda: broadcast.history("room"),
    ):
        with pytest.raises(
            BroadcastError, match=r"postgres://127\.0\.0\.1:\d+/chat does not answer"
        ) as error:
            operation()
        assert "secret" not in str(error.value)
    assert not broadcast.healthy
    broadcast.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://localhost?color=blue",
        "postgresql://localhost?timeout=soon",
        "postgresql://localhost?timeout=0",
        "postgresql://[::1",
    ],
)
def test_a_url_that_makes_no_sense_is_refused_at_once(url):
    with pytest.raises(ValueError, match=r"invalid URL|timeout must be|Invalid IPv6"):
        Broadcast(url)


def test_a_unix_socket(postgresql_server, make_broadcast):
    folder = quote(str(postgresql_server.folder), safe="")
    url = f"postgres://postgres@/postgres?host={folder}&port={postgresql_server.port}"
    broadcast = make_broadcast(url, history=5)
    assert broadcast.publish(unique("near"), "hello").endswith("-1")


def test_settings_of_the_url_are_used(make_broadcast, postgresql_server):
    url = f"{postgresql_server.url}?options=-c%20statement_timeout%3D50&application_name=chat"
    broadcast = make_broadcast(url)
    rows = broadcast._backend._query("SELECT current_setting($1)", "application_name")
    assert rows == [(b"chat",)]
    with pytest.raises(BroadcastError, match="statement timeout"):
        broadcast._backend._query("SELECT pg_sleep($1)", 5)
    assert broadcast.healthy
