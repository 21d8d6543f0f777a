"""A client that sends exactly the bytes a test wants, and shares no code with the library."""

import base64
import os
import struct
from collections.abc import Iterable

from gevent import socket

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the example of RFC 6455 section 1.3
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
MASK = b"\x37\xfa\x21\x3d"


def frame(first: int, payload: bytes | str = b"", mask: bytes | None = MASK) -> bytes:
    """One frame from its first byte on; masked, as a client's must be, unless told otherwise."""
    data = payload.encode() if isinstance(payload, str) else payload
    bit = 0 if mask is None else 0x80
    if len(data) < 126:
        head = struct.pack("!BB", first, bit | len(data))
    elif len(data) < 65536:
        head = struct.pack("!BBH", first, bit | 126, len(data))
    else:
        head = struct.pack("!BBQ", first, bit | 127, len(data))
    if mask is None:
        return head + data
    mask_of_all = (mask * (len(data) // 4 + 1))[: len(data)]
    masked = int.from_bytes(data, "big") ^ int.from_bytes(mask_of_all, "big")
    return head + mask + masked.to_bytes(len(data), "big")


def close_frame(code: int, reason: str = "") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason.encode())


def request(
    path: str = "/echo",
    headers: Iterable[tuple[str, str]] = (),
    *,
    without: str = "",
    http: str = "HTTP/1.1",
    method: str = "GET",
) -> bytes:
    """An opening handshake. ``headers`` replaces headers by name, ``without`` omits a header."""
    fields = {
        "Host": "test.example",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    fields.update(headers)
    fields.pop(without, None)
    lines = [f"{method} {path} {http}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class RawClient:
    """A connection to a server on this machine. Every read gives up after ten seconds."""

    def __init__(self, address, context=None) -> None:
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(10)
            self.sock.connect(address)
        else:
            self.sock = socket.create_connection(address, timeout=10)
        if context is not None:
            self.sock = context.wrap_socket(self.sock, server_hostname="localhost")
        self.buffer = b""
        self.headers: dict[str, str] = {}

    def __enter__(self):
        return self

    def __exit__(self, *exc_info) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        while len(self.buffer) < size:
            self._fill()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def read_until(self, end: bytes) -> bytes:
        while end not in self.buffer:
            self._fill()
        data, _, self.buffer = self.buffer.partition(end)
        return data

    def _fill(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError(f"the server closed; unread: {self.buffer!r}")
        self.buffer += data

    def read_head(self) -> str:
        """Read a response's head into ``headers``; returns its status, such as "101"."""
        lines = self.read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        self.headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }
        return lines[0].split(" ")[1]

    def read_response(self) -> tuple[str, bytes]:
        """A whole response: its status and body."""
        status = self.read_head()
        if "chunked" in self.headers.get("transfer-encoding", ""):
            body = b""
            while size := int(self.read_until(b"\r\n"), 16):
                body += self.read(size)
                assert self.read(2) == b"\r\n"
            assert self.read(2) == b"\r\n"
        elif "content-length" in self.headers:
            body = self.read(int(self.headers["content-length"]))
        else:
            body = self.read_to_end()
        return status, body

    def open(
        self, path: str = "/echo", headers: Iterable[tuple[str, str]] = (), early: bytes = b""
    ) -> "RawClient":
        """Shake hands; ``early`` goes in the same segment."""
        self.send(request(path, headers) + early)
        assert self.read_head() == "101"
        assert self.headers["sec-websocket-accept"] == ACCEPT
        return self

    def read_frame(self) -> tuple[int, bytes]:
        """The first byte and the payload of the next frame, which must not be masked."""
        first, size = self.read(2)
        if size == 126:
            (size,) = struct.unpack("!H", self.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self.read(8))
        assert size < 1 << 32
        return first, self.read(size)

    def read_close(self) -> tuple[int, str]:
        """The code and the reason of the Close frame that must come next."""
        first, payload = self.read_frame()
        assert first == CLOSE, (hex(first), payload)
        if not payload:
            return 1005, ""
        return struct.unpack("!H", payload[:2])[0], payload[2:].decode()

    def read_to_end(self) -> bytes:
        """Everything until the server closes; a RST raises."""
        while data := self.sock.recv(65536):
            self.buffer += data
        data, self.buffer = self.buffer, b""
        return data

    def finish(self, code: int = 1000) -> None:
        """Close in good order, and see that the server closes TCP."""
        self.send(close_frame(code))
        assert self.read_close() == (code, "")
        assert self.read_to_end() == b""

    def vanish(self) -> None:
        """Be gone with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def are_sent_away(clients: Iterable[RawClient]) -> None:
    """See each being closed with 1001 and answer; then the server closes TCP."""
    for client in clients:
        assert client.read_close() == (1001, "")
        client.send(close_frame(1001))
        assert client.read_to_end() == b""
        client.sock.close()


def random_key() -> str:
    return base64.b64encode(os.urandom(16)).decode()
