"""``make fairness``: how long a well-behaved client waits beside one that floods the server.

The server, the flood and the well-behaved client are a process each. The client sends a message of
32 bytes, waits for its echo, and pauses; its latencies are printed for each kind of flood. Exits
with 1 if nine of ten echoes took longer than five milliseconds beside any of them.
"""

import argparse
import socket
import statistics
import sys
import time
import zlib
from multiprocessing import get_context

import gevent

import geventws
from tests.support.client import BINARY, PING, PONG, TEXT, frame, request

MIB = 1 << 20
#: For 90 % of the echoes, in milliseconds.
LIMIT = 5.0
PAUSE = 0.002


def bomb() -> bytes:
    """A kilobyte that inflates to a message of 1 MiB."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = compressor.compress(bytes(MIB)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return frame(0x40 | BINARY, data[:-4], b"\0\0\0\0")


#: The bytes that are sent first, and the bytes that are repeated without end.
FLOODS = {
    "none": (b"", b""),
    "Pings": (b"", frame(PING) * 10_000),
    "Pings of 125 bytes": (b"", frame(PING, bytes(125)) * 1_000),
    "Pongs": (b"", frame(PONG) * 10_000),
    "empty fragments": (frame(0x01), frame(0x00) * 10_000),
    "short fragments": (b"", (frame(0x01) + frame(0x00, "x") * 1000 + frame(0x80)) * 10),
    "short messages": (b"", frame(TEXT, "x") * 10_000),
    "messages of 1 MiB": (b"", frame(BINARY, bytes(MIB), b"\0\0\0\0")),
    "bombs": (b"", bomb() * 64),
    "bombs after our Close": (b"close", bomb() * 64),
    "messages after our Close": (b"close", frame(TEXT, "x") * 10_000),
}


def application(environ, start_response):
    ws = environ["wsgi.websocket"]
    for message in ws:
        if message == "close":
            ws.close()
            return []
        ws.send(message)
    return []


def serve(channel) -> None:
    server = geventws.WebSocketServer(("127.0.0.1", 0), application, log=None, close_timeout=600)
    server.start()
    channel.send(server.server_port)
    gevent.get_hub().threadpool.apply(channel.recv)


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    offer = [("Sec-WebSocket-Extensions", "permessage-deflate")]
    sock.sendall(request("/", offer))
    while b"\r\n\r\n" not in sock.recv(4096):
        pass
    return sock


def flood(port: int, name: str, seconds: float) -> None:
    """Send as fast as the server takes it, and read what comes."""
    first, again = FLOODS[name]
    sock = connect(port)
    sock.sendall(frame(TEXT, "close") if first == b"close" else first)
    sock.setblocking(False)
    end = time.monotonic() + seconds
    rest = memoryview(again)
    while time.monotonic() < end:
        try:
            rest = rest[sock.send(rest) :] or memoryview(again)
        except BlockingIOError:
            time.sleep(0.0005)
        except OSError:
            return
        try:
            sock.recv(MIB)
        except BlockingIOError:
            pass
        except OSError:
            return


def measure(port: int, seconds: float) -> list[float]:
    """The latencies of echoes, in milliseconds."""
    sock = connect(port)
    message = frame(TEXT, "0123456789abcdef" * 2)
    latencies = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.perf_counter()
        sock.sendall(message)
        while len(sock.recv(4096)) < 34:
            pass
        latencies.append((time.perf_counter() - started) * 1000)
        time.sleep(PAUSE)
    sock.close()
    return latencies


def beside(name: str, seconds: float) -> list[float]:
    """The latencies beside one kind of flood, with a new server."""
    context = get_context("spawn")
    channel, other = context.Pipe()
    server = context.Process(target=serve, args=(other,))
    server.start()
    port = channel.recv()
    attacker = context.Process(target=flood, args=(port, name, seconds + 1))
    if name != "none":
        attacker.start()
        time.sleep(0.7)
    try:
        return measure(port, seconds)
    finally:
        channel.send(None)
        for process in (attacker, server):
            if process.pid is not None:
                process.join(5)
                process.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("floods", nargs="*", help="the floods to run; all by default")
    arguments = parser.parse_args()
    print(f"{geventws.__core__} core; milliseconds for an echo of 32 bytes")
    print(f"{'beside a flood of':>26}   median      p90      p99      max")
    slowest = 0.0
    for name in arguments.floods or FLOODS:
        latencies = sorted(beside(name, arguments.seconds))
        p90, p99 = (latencies[int(len(latencies) * part)] for part in (0.9, 0.99))
        slowest = max(slowest, p90)
        print(
            f"{name:>26} {statistics.median(latencies):8.2f} {p90:8.2f} {p99:8.2f}"
            f" {latencies[-1]:8.2f}",
            flush=True,
        )
    return int(slowest > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
