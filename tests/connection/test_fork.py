"""A process that is forked while WebSockets are open."""

import os
import subprocess
import sys

import pytest

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
