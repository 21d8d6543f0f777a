"""A server and its clients in one program, for Windows and for ``test_windows.py``."""

import ssl
import tempfile
import threading
from functools import partial
from pathlib import Path

import gevent
from gevent.ssl import SSLContext

import geventws.testing
from geventws import Broadcast, WebSocketServer, connect
from geventws.cli.errors import UsageError
from geventws.cli.listeners import open_listener
from tests.support import apps, certificates

broadcast = Broadcast("memory://")
#: More than the kernel and one TLS record hold.
BIG = bytes(range(256)) * (4 << 10)
COUNT = 16


def application(environ, start_response):
    return VIEWS.get(environ["PATH_INFO"], apps.site)(environ, start_response)


def send_much(environ, start_response):
    ws = environ["wsgi.websocket"]
    for _ in range(COUNT):
        ws.send(b"small")
        ws.send(BIG)
    return []


def send_from_thread(environ, start_response):
    ws = environ["wsgi.websocket"]
    ws.accept()
    thread = threading.Thread(target=ws.send, args=["from a thread"])
    thread.start()
    list(ws)
    thread.join()
    return []


def join_room(environ, start_response):
    ws = environ["wsgi.websocket"]
    with broadcast.subscribe("room", ws):
        for message in ws:
            broadcast.publish("room", message)
    return []


VIEWS = {"/much": send_much, "/thread": send_from_thread, "/room": join_room}


def talk(url: str, **options) -> None:
    """Use all ways to send and receive at a server."""
    with connect(url, **options) as ws:
        for message in ("text", b"binary", BIG[:-1]):
            ws.send(message)
            assert ws.receive() == message
        ws.close(4000, "enough")
        assert ws.close_code == 4000
    with connect(url + "much", **options) as ws:
        gevent.sleep(0.2)  # let the server fill its buffers
        assert list(ws) == [b"small", BIG] * COUNT
    with connect(url + "thread", **options) as ws:
        assert ws.receive() == "from a thread"
    with connect(url + "room", **options) as ann, connect(url + "room", **options) as bob:
        ann.send("of Ann")
        assert ann.receive() == "of Ann"
        bob.send("of Bob")
        assert bob.receive() in {"of Ann", "of Bob"}
        assert ann.receive() == "of Bob"


def main(folder: Path) -> None:
    certificate, key = certificates.make(folder)
    trusting = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.load_verify_locations(certificate)
    plain = WebSocketServer(("127.0.0.1", 0), application, log=None)
    secure = WebSocketServer(
        ("127.0.0.1", 0), application, log=None, certfile=certificate, keyfile=key
    )
    plain.start()
    secure.start()
    talk(f"ws://127.0.0.1:{plain.server_port}/")
    talk(f"wss://127.0.0.1:{secure.server_port}/", ssl_context=trusting)

    ws = connect(f"ws://127.0.0.1:{plain.server_port}/")
    stopping = gevent.spawn(plain.stop)
    assert ws.receive() is None
    assert ws.close_code == 1001
    stopping.get()
    secure.stop()

    with geventws.testing.connect(application, "/") as ws:
        ws.send("hello")
        assert ws.receive() == "hello"
    for attempt in (
        partial(connect, "ws://localhost/", unix_socket="/nowhere"),
        partial(open_listener, "unix:/nowhere"),
        partial(Broadcast, "postgresql://localhost"),
    ):
        try:
            attempt()
        except (OSError, UsageError, ImportError) as problem:
            print(problem)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
