"""``make refcounts``: after 100,000 connections everything is back where it was.

Connections of every kind of ending, with blocking views and detached ones; what is left then shows
in the counts of Python's objects, in descriptors and in memory. Exits with 1 if anything has grown.
"""

import gc
import sys
from collections import Counter
from typing import NamedTuple

import gevent
import psutil

import geventws
from tests.support.apps import echo
from tests.support.client import BINARY, PING, TEXT, RawClient, close_frame, frame

WARM_UP = 2_000
PATHS = ["/blocking", "/detached"]
#: What may differ by chance: objects of one type, and memory in KiB.
TOLERATED_OBJECTS = 100
TOLERATED_KIB = 2_048
LARGE = frame(BINARY, bytes(100_000), b"\0\0\0\0")

broadcast = geventws.Broadcast("memory://")


def application(environ, start_response):
    if environ["PATH_INFO"] == "/blocking":
        return echo(environ, start_response)
    ws = environ["wsgi.websocket"]
    broadcast.subscribe("room", ws)
    ws.detach(on_message, on_close)
    return []


def on_message(ws, message):
    if isinstance(message, bytes):
        gevent.sleep(0)  # this callback blocks
    ws.send(message)


def on_close(ws):
    assert ws.closed


def closed_by_the_client(client: RawClient) -> None:
    client.send(frame(TEXT, "hällo"))
    client.read_frame()
    client.finish()


def closed_without_waiting(client: RawClient) -> None:
    client.send(frame(BINARY, b"x" * 500) + frame(PING, "p"))
    client.read_frame()
    client.send(close_frame(1000))


def vanished(client: RawClient) -> None:
    client.send(frame(0x01, "a") + frame(0x80, "b"))
    client.read_frame()
    client.vanish()


def vanished_in_the_middle_of_a_message(client: RawClient) -> None:
    client.send(LARGE[:50_000])
    client.vanish()


def failed(client: RawClient) -> None:
    client.send(frame(0x83))
    client.read_close()


ENDINGS = [
    closed_by_the_client,
    closed_without_waiting,
    vanished,
    vanished_in_the_middle_of_a_message,
    failed,
]


class Census(NamedTuple):
    objects: Counter
    descriptors: int
    kib: int


def take_census(server: geventws.WebSocketServer) -> Census:
    while server.websockets:
        gevent.sleep(0.05)
    gevent.sleep(0.3)
    gc.collect()
    process = psutil.Process()
    objects = Counter(type(each).__name__ for each in gc.get_objects())
    return Census(objects, process.num_fds(), process.memory_info().rss >> 10)


def connect(server: geventws.WebSocketServer, count: int) -> None:
    for i in range(count):
        path = PATHS[i % len(PATHS)]
        with RawClient(("127.0.0.1", server.server_port)).open(path) as client:
            ENDINGS[i // len(PATHS) % len(ENDINGS)](client)


def main(count: int) -> int:
    server = geventws.WebSocketServer(("127.0.0.1", 0), application, log=None)
    server.start()
    connect(server, WARM_UP)
    before = take_census(server)
    connect(server, count)
    after = take_census(server)
    grown = {
        name: number - before.objects[name]
        for name, number in after.objects.items()
        if number - before.objects[name] > TOLERATED_OBJECTS
    }
    print(f"{geventws.__core__} core, {count:,} connections")
    print(f"descriptors: {before.descriptors} before, {after.descriptors} after")
    print(f"memory: {before.kib:,} KiB before, {after.kib:,} KiB after")
    print(f"objects: {before.objects.total():,} before, {after.objects.total():,} after")
    for name, number in grown.items():
        print(f"{number:+,} {name}")
    return int(
        bool(grown)
        or after.descriptors > before.descriptors
        or after.kib > before.kib + TOLERATED_KIB
    )


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
