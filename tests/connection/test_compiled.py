"""What only the compiled core has: the epoll set, large reads and vectored writes.

The Python core passes the same tests, by other means.
"""

import contextlib
import gc
import os
import random
import socket
import struct
import subprocess
import sys
import weakref

import gevent
import pytest
from gevent.event import Event

from tests.support.client import BINARY, MASK, TEXT, close_frame, frame
from tests.support.servers import SECONDS, compiled_on_linux, wait_until


def echo(environ, start_response):
    ws = environ["wsgi.websocket"]
    for message in ws:
        ws.send(message)
    return []


def epoll_descriptors():
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventpoll]"
    return found


# ------------------------------------------------------------------------------ epoll set


def test_more_connections_than_one_look_reports_are_all_served(serve):
    server = serve(echo)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client().open()) for _ in range(150)]
        for _ in range(2):
            for number, client in enumerate(clients):
                client.send(frame(TEXT, str(number)))
            for number, client in enumerate(clients):
                assert client.read_frame() == (TEXT, str(number).encode())


@compiled_on_linux
def test_connections_share_one_epoll_set(serve):
    server = serve(echo)
    with server.client().open() as first:
        first.send(frame(TEXT, "first"))
        assert first.read_frame() == (TEXT, b"first")
        before = epoll_descriptors()
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                client = stack.enter_context(server.client().open())
                client.send(frame(TEXT, "x"))
                assert client.read_frame() == (TEXT, b"x")
            assert epoll_descriptors() == before
            assert {ws._raw.fileno() for ws in server.websockets} <= set(range(2000))


@compiled_on_linux
def test_a_hub_without_connections_has_no_epoll_set(serve):
    server = serve(echo)
    before = epoll_descriptors()
    for _ in range(3):
        with server.client().open() as client:
            client.send(frame(TEXT, "x"))
            assert client.read_frame() == (TEXT, b"x")
            assert epoll_descriptors() == before + 1
        wait_until(lambda: not server.websockets)
        assert epoll_descriptors() == before


def test_a_connection_that_ends_another_during_one_look_disturbs_nobody(serve):
    opened = []

    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        opened.append(ws)
        for message in ws:
            for other in opened:
                if other is not ws:
                    other._drop()
            ws.send(message)
        return []

    server = serve(application)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client().open()) for _ in range(3)]
        wait_until(lambda: len(opened) == 3)
        for client in clients:
            client.send(frame(TEXT, "ends the others"))
        answers = []
        for client in clients:
            with contextlib.suppress(OSError, EOFError):
                answers.append(client.read_frame())
        assert answers == [(TEXT, b"ends the others")]
        with server.client().open() as another:
            another.send(frame(TEXT, "served"))
            assert another.read_frame() == (TEXT, b"served")


def block(ws, views):
    gevent.sleep(0.01)


def fail(ws, views):
    raise ZeroDivisionError


def be_late(ws, views):
    with gevent.Timeout(0, False):
        assert ws.receive() is None


def kill_the_others(ws, views):
    for view in views:
        if view is not gevent.getcurrent():
            view.kill(block=False)


def wake_too_early(ws, views):
    gevent.get_hub().loop.run_callback(gevent.getcurrent().switch)
    ws.receive()


def end(ws, views):
    ws.close()


@pytest.mark.parametrize("conduct", [block, fail, be_late, kill_the_others, wake_too_early, end])
@pytest.mark.parametrize("position", [0, 2, 4])
def test_a_view_disturbs_no_other_whose_message_was_ready_at_the_same_time(
    serve, conduct, position
):
    views = []

    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.accept()
        views.append(gevent.getcurrent())
        while True:
            try:
                message = ws.receive()
            except gevent.Timeout:
                continue
            if message is None:
                return []
            ws.send(message)
            if message == "conduct":
                conduct(ws, views)

    server = serve(application)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client().open()) for _ in range(5)]
        wait_until(lambda: len(views) == 5)
        for number, client in enumerate(clients):
            client.send(frame(TEXT, "conduct" if number == position else "together"))
        for client in clients:
            assert client.read_frame()[1] in (b"conduct", b"together")
        del clients[position]
        if conduct is kill_the_others:
            for client in clients:
                assert client.read_close()[0] == 1001
            return
        for client in clients:
            client.send(frame(TEXT, "again"))
        for client in clients:
            assert client.read_frame() == (TEXT, b"again")


def test_a_hub_without_connections_has_nothing_to_wait_for(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import gevent, geventws\n"
        "def app(environ, start_response):\n"
        "    list(environ['wsgi.websocket'])\n"
        "    return []\n"
        "server = geventws.WebSocketServer(('127.0.0.1', 0), app, log=None)\n"
        "server.start()\n"
        "geventws.connect(f'ws://127.0.0.1:{server.server_port}/').close()\n"
        "server.stop()\n"
        "gevent.wait()  # returns when no watcher is left\n"
        "print('idle')\n"
    )
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout, done.stderr) == ("idle\n", "")


def test_a_process_that_keeps_frame_stacks_runs_threads_and_ends():
    program = """
import threading
import gevent
from geventws.connection.memory import keep_memory_for_greenlets

def recur(depth):
    return depth and recur(depth - 1)

keep_memory_for_greenlets()
for _ in range(20):
    threads = [threading.Thread(target=recur, args=(400,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
gevent.joinall([gevent.spawn(recur, 50) for _ in range(200)])
print("ends")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("ends\n", "", 0)


# ----------------------------------------------------------------------------- large reads


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 300_000, 1_000_000, 5_000_001])
def test_a_large_message_arrives_whole_and_the_next_ones_too(serve, size):
    data = random.Random(size).randbytes(2 * size)
    with serve(echo, max_message_size=None).client().open() as client:
        # The size of a message decides how much is reserved for the next one.
        for payload in (data[:size], data[: size // 2], data):
            sending = gevent.spawn(client.send, frame(BINARY, payload) + frame(TEXT, "next"))
            assert client.read_frame() == (BINARY, payload)
            assert client.read_frame() == (TEXT, b"next")
            sending.get(timeout=SECONDS)


def test_a_large_text_that_becomes_non_ascii_late_is_validated(serve):
    text = "x" * 400_000 + "é" * 100_000
    with serve(echo, max_message_size=None).client().open() as client:
        sending = gevent.spawn(client.send, frame(TEXT, text))
        assert client.read_frame() == (TEXT, text.encode())
        sending.get(timeout=SECONDS)
        sending = gevent.spawn(client.send, frame(TEXT, b"x" * 400_000 + b"\xff" * 10))
        assert client.read_close()[0] == 1007
        sending.kill()


def test_a_large_message_whose_mask_starts_anywhere_is_unmasked(serve):
    payload = random.Random(1).randbytes(200_000)
    with serve(echo).client().open() as client:
        data = frame(BINARY, payload, MASK)
        for start in range(0, len(data), 65_537):
            client.send(data[start : start + 65_537])
            gevent.sleep(0)
        assert client.read_frame() == (BINARY, payload)


# -------------------------------------------------------------------------- vectored writes


@pytest.mark.parametrize("data", [b"\0\1" * 1_500_000, "ascii" * 600_000, "é" * 1_000_000])
def test_a_large_message_is_sent_whole_to_a_peer_that_reads_slowly(serve, data):
    done = Event()

    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.accept()
        ws._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 10)
        ws.send(data)
        ws.send("behind it")
        done.set()
        return []

    encoded = data.encode() if isinstance(data, str) else data
    with serve(application).client().open() as client:
        gevent.sleep(0.05)
        assert client.read_frame() == (TEXT if isinstance(data, str) else BINARY, encoded)
        assert client.read_frame() == (TEXT, b"behind it")
        assert done.wait(SECONDS)


def test_a_buffer_may_be_changed_as_soon_as_send_returns(serve):
    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.accept()
        ws._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 10)
        buffer = bytearray(b"a" * 100_000)
        for letter in b"abc":
            buffer[:] = bytes([letter]) * len(buffer)
            ws.send(buffer)
        buffer[:] = b"z" * len(buffer)
        return []

    with serve(application).client().open() as client:
        for letter in (b"a", b"b", b"c"):
            assert client.read_frame() == (BINARY, letter * 100_000)


# ------------------------------------------------------------------------- frame stacks


@compiled_on_linux
@pytest.mark.skipif(sys.version_info < (3, 11), reason="greenlets have no stack of frames there")
def test_the_frame_stack_of_a_greenlet_that_has_ended_is_used_again():
    program = """
import resource
import gevent
from geventws.connection.memory import keep_memory_for_greenlets

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(1_000):
        gevent.spawn(lambda: None).join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
without = faults()
keep_memory_for_greenlets()
keep_memory_for_greenlets()
together = [gevent.spawn(gevent.sleep, 0) for _ in range(100)]  # more than are kept
gevent.joinall(together)
assert faults() < without / 4, without
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# ------------------------------------------------------------------- garbage collection


@compiled_on_linux
@pytest.mark.parametrize("is_detached", [False, True])
def test_a_collection_skips_open_connections_and_frees_the_cycles_of_ended_ones(serve, is_detached):
    class Kept:
        pass

    references = []

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.accept()
        ws.kept = kept = Kept()
        kept.cycle = environ["cycle"] = [ws, ws._endpoint, environ]
        references.append(weakref.ref(kept))
        if is_detached:
            ws.detach(lambda ws, message: ws.send(message), keep_environ=True)
            return []
        return echo(environ, start_response)

    server = serve(app)
    with server.client().open() as client:
        client.send(frame(TEXT, "x"))
        assert client.read_frame() == (TEXT, b"x")
        assert not any(
            gc.is_tracked(each) for ws in server.websockets for each in (ws, ws._endpoint)
        )
        gc.collect()
        assert references[0]() is not None
        client.finish()

    def is_freed():
        gc.collect()
        return references[0]() is None

    wait_until(is_freed)


@pytest.mark.parametrize("copy", [dict, dict.copy, lambda environ: {**environ}])
def test_a_copy_of_the_environ_in_a_cycle_is_freed(serve, copy):
    references = []

    def app(environ, start_response):
        ws = environ["wsgi.websocket"]
        ws.accept()
        ws.kept = copy(environ)  # a copy of an untracked dict is untracked, for good
        references.append(weakref.ref(ws))
        return echo(environ, start_response)

    with serve(app).client().open() as client:
        client.send(frame(TEXT, "x"))
        assert client.read_frame() == (TEXT, b"x")
        client.finish()

    def is_freed():
        gc.collect()
        return references[0]() is None

    wait_until(is_freed)


# ------------------------------------------------------------------------------ the end


def received_segments(sock):
    """``tcpi_segs_in`` of Linux."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)
    (segments,) = struct.unpack_from("I", info, 140)
    return segments


def detached_echo(environ, start_response):
    environ["wsgi.websocket"].detach(lambda ws, message: ws.send(message))
    return []


@compiled_on_linux
@pytest.mark.parametrize("application", [echo, detached_echo])
def test_the_answer_to_a_close_frame_and_the_end_of_tcp_arrive_in_one_segment(serve, application):
    with serve(application).client().open() as client:
        before = received_segments(client.sock)
        client.send(close_frame(1000))
        assert client.read_close() == (1000, "")
        assert client.read_to_end() == b""
        assert received_segments(client.sock) == before + 1
