"""A process that is forked while WebSockets are open."""

import contextlib
import os
import subprocess
import sys

import pytest

from tests.support.client import TEXT, RawClient, request

PROGRAM = """
import os
import gevent
import geventws

def application(environ, start_response):
    for message in environ["wsgi.websocket"]:
        environ["wsgi.websocket"].send(f"{message} {os.getpid()}")
    return []

server = geventws.WebSocketServer(("127.0.0.1", 0), application, log=None)
server.start()
ws = geventws.connect(f"ws://127.0.0.1:{server.server_port}/")
ws.send("before")
assert ws.receive() == f"before {os.getpid()}"
child = gevent.os.fork()
if not child:
    gevent.sleep(60)
    os._exit(0)
for number in range(200):
    ws.send(f"{number}")
    assert ws.receive(timeout=5) == f"{number} {os.getpid()}"
os.kill(child, 9)
gevent.os.waitpid(child, 0)
ws.send("after")
assert ws.receive(timeout=5) == f"after {os.getpid()}"
ws.close()
print("both went on")
"""


@pytest.mark.parametrize("loop", ["libev-cext", "libuv-cffi"])
def test_a_child_process_takes_no_message_from_its_parent(loop):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "GEVENT_LOOP": loop},
    )
    assert (done.stdout, done.stderr) == ("both went on\n", "")


PENDING = """
import os
import gevent
import geventws

seen = []

def application(environ, start_response):
    ws = environ["wsgi.websocket"]
    seen.append(ws)
    gevent.sleep(0.5)
    ws.send(str(os.getpid()))
    return []

for accept_after in (3.0, None):
    server = geventws.WebSocketServer(
        ("127.0.0.1", 0), application, log=None, accept_after=accept_after
    )
    server.start()
    connecting = gevent.spawn(geventws.connect, f"ws://127.0.0.1:{server.server_port}/")
    gevent.sleep(0.1)
    reading, writing = os.pipe()
    if not gevent.os.fork():
        try:
            seen[-1].accept()
        except geventws.ConnectionClosed:
            os.write(writing, b"closed")
        os._exit(0)
    os.close(writing)
    assert os.read(reading, 10) == b"closed"
    ws = connecting.get(timeout=5)
    assert list(ws) == [str(os.getpid())]
    server.stop()
print("only the parent has answered")
"""

CLOSED = """
import os
import gevent
import geventws

def application(environ, start_response):
    for message in environ["wsgi.websocket"]:
        environ["wsgi.websocket"].send(message)
    return []

server = geventws.WebSocketServer(("127.0.0.1", 0), application, log=None)
server.start()
ws = geventws.connect(f"ws://127.0.0.1:{server.server_port}/")
ws.send("before")
assert ws.receive() == "before"
reading, writing = os.pipe()
if not gevent.os.fork():
    try:
        ws.send("from the child")
    except geventws.ConnectionClosed as problem:
        if ws.closed and not problem.by_peer:
            os.write(writing, b"closed")
    os._exit(0)
os.close(writing)
assert os.read(reading, 10) == b"closed"
ws.send("after")
assert ws.receive(timeout=5) == "after"
ws.close()
print("closed in the child only")
"""

BY_A_VIEW = """
import os
import gevent
import geventws

def application(environ, start_response):
    ws = environ["wsgi.websocket"]
    for message in ws:
        if message == "fork" and not gevent.os.fork():
            ended = list(ws)
            gevent.sleep(0.3)
            os._exit(0 if ended == [] else 1)
        ws.send(f"{message} {os.getpid()}")
    return []

server = geventws.WebSocketServer(("127.0.0.1", 0), application, log=None)
server.start()
url = f"ws://127.0.0.1:{server.server_port}/"
clients = [geventws.connect(url) for _ in range(5)]
for message in ("before", "fork", "after"):
    for number, ws in enumerate(clients):
        ws.send(message if number == 2 else "echo")
    for number, ws in enumerate(clients):
        assert ws.receive(timeout=20) == f"{message if number == 2 else 'echo'} {os.getpid()}"
pid, status = gevent.os.waitpid(-1, 0)
assert status == 0
print("only the parent has read")
"""


@pytest.mark.parametrize("loop", ["libev-cext", "libuv-cffi"])
@pytest.mark.parametrize(
    ("program", "said"),
    [
        (PENDING, "only the parent has answered"),
        (CLOSED, "closed in the child only"),
        (BY_A_VIEW, "only the parent has read"),
    ],
    ids=["pending", "open", "by-a-view"],
)
def test_a_child_process_has_no_websocket_of_its_parent(loop, program, said):
    if program is BY_A_VIEW and loop == "libuv-cffi":
        pytest.skip(
            "gevent on libuv misses input after a fork in a greenlet, also without geventws"
        )
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "GEVENT_LOOP": loop},
    )
    assert (done.stdout, done.stderr) == (f"{said}\n", "")


ACCEPTED = """
import os
import sys
import gevent
import geventws

views = []

def application(environ, start_response):
    views.append(None)
    if len(views) == 1 and not gevent.os.fork():
        gevent.sleep(0.3)  # the event loop of the child runs
        os._exit(len(views) - 1)
    environ["wsgi.websocket"].send(str(os.getpid()))
    return []

server = geventws.WebSocketServer(("127.0.0.1", 0), application, log=None)
server.start()
print(os.getpid(), server.server_port, flush=True)
sys.stdin.readline()  # until all clients have sent their requests
sys.exit(gevent.os.waitpid(-1, 0)[1])
"""


def test_connections_that_were_accepted_together_are_only_served_by_the_parent():
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", ACCEPTED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with contextlib.ExitStack() as stack:
        pid, port = server.stdout.readline().split()
        address = "127.0.0.1", int(port)
        clients = [stack.enter_context(RawClient(address)) for _ in range(5)]
        for client in clients:
            client.send(request())
        server.stdin.write(b"\n")
        server.stdin.flush()
        for client in clients:
            assert client.read_head() == "101"
            assert client.read_frame() == (TEXT, pid)
            client.finish()
        server.communicate(timeout=30)
        assert server.returncode == 0
