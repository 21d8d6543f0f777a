"""``make bounds``: how much memory the server needs for the greediest of clients.

A thousand of each kind, each kind with a new server, with the default limits; the memory of the
server's process is measured before, meanwhile, and after they have gone. Exits with 1 if it was
more than the limits allow, or was not given back.
"""

import contextlib
import resource
import sys
from multiprocessing import get_context

import gevent

import geventws
from geventws.options import Options
from tests.checks.memory import used
from tests.support.client import BINARY, PING, RawClient, frame

CLIENTS = 1_000
MIB = 1 << 20
#: Memory of a connection without its buffers, with the allocator's waste: measured, rounded up.
OVERHEAD = 64 << 10
#: How much may stay for good, in bytes: buffers of the hub, and what is allocated once.
TOLERATED = 16 << 20


def serve(channel) -> None:
    """The other process: a server that echoes, or floods."""

    def application(environ, start_response):
        ws = environ["wsgi.websocket"]
        if environ["PATH_INFO"] == "/flood":
            while True:
                ws.send(bytes(100_000))
        ws.accept()
        while environ["PATH_INFO"] == "/sleep" and not ws.closed:
            gevent.sleep(1)
        for message in ws:
            ws.send(message)
        return []

    server = geventws.WebSocketServer(("127.0.0.1", 0), application, log=None)
    server.start()
    channel.send(server.server_port)
    threadpool = gevent.get_hub().threadpool
    while threadpool.apply(channel.recv):
        channel.send((len(server.websockets), used()))


def endless_fragments(client) -> None:
    """Messages of just below the limit, in fragments, that are never finished."""
    client.sock.sendall(frame(0x02, bytes(MIB - 100), b"\0\0\0\0"))


def half_a_frame(client) -> None:
    """A frame of the largest size that is allowed, and all of it but the last byte."""
    client.sock.sendall(frame(BINARY, bytes(MIB), b"\0\0\0\0")[:-1])


def unread_echoes(client) -> None:
    """Sends and never reads what comes back."""
    push(client, frame(BINARY, bytes(10_000), b"\0\0\0\0"))


def unread_pongs(client) -> None:
    """Asks for Pongs and never reads them."""
    push(client, frame(PING, bytes(125)) * 100)


def flooded(client) -> None:
    """Never reads while the server sends without end."""


def unreceived(client) -> None:
    """Sends to a view that never receives."""
    push(client, frame(BINARY, bytes(10_000), b"\0\0\0\0"))


def push(client, data: bytes) -> None:
    """Send until the server does not take any more."""
    client.sock.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        for _ in range((16 << 20) // len(data)):
            client.sock.sendall(data)


#: The attack, its path, and what one connection may cost by the options, in bytes.
limits = Options()
ATTACKS = [
    (endless_fragments, "/", limits.max_message_size),
    (half_a_frame, "/", limits.max_message_size),
    (unread_echoes, "/", limits.max_send_buffer + limits.max_queued_bytes + 4 * 64 * 1024),
    (unread_pongs, "/", limits.max_send_buffer + 2 * 64 * 1024),
    (flooded, "/flood", limits.max_send_buffer + 2 * 100_000),
    (unreceived, "/sleep", limits.max_queued_bytes + 2 * 64 * 1024),
]


def measure(attack, path: str, allowed: int) -> bool:
    """Attack a new server; returns whether it stayed within bounds."""
    context = get_context("spawn")
    channel, other = context.Pipe()
    process = context.Process(target=serve, args=(other,))
    process.start()
    address = ("127.0.0.1", channel.recv())

    def census() -> tuple[int, int]:
        channel.send(True)
        return channel.recv()

    RawClient(address).open().vanish()
    _, before = census()
    clients = [RawClient(address).open(path) for _ in range(CLIENTS)]
    gevent.joinall([gevent.spawn(attack, client) for client in clients], raise_error=True)
    gevent.sleep(1)
    connected, meanwhile = census()
    for client in clients:
        client.vanish()
    remaining = CLIENTS
    for _ in range(30):
        gevent.sleep(0.2)
        remaining, after = census()
        if not remaining:
            break
    limit = CLIENTS * (allowed + OVERHEAD)
    print(
        f"{attack.__name__:>18}: {before >> 20} before, {meanwhile >> 20} with {connected:,}"
        f" connections (limit {limit >> 20}), {after >> 20} after, {remaining:,} views left"
    )
    channel.send(False)
    process.join(10)
    process.kill()
    return meanwhile - before <= limit and after - before <= TOLERATED


def main() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8 * CLIENTS, hard), hard))
    print(f"{geventws.__core__} core, {CLIENTS:,} clients of each kind; MiB of the server's memory")
    within = [measure(*attack) for attack in ATTACKS]
    return int(not all(within))


if __name__ == "__main__":
    sys.exit(main())
