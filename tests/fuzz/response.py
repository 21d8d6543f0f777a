"""What a server or a proxy may answer to the client: the head, interim ones, a refusal's body."""

import re

from geventws.client.client import read_body, read_response
from geventws.exceptions import HandshakeError
from geventws.protocol.client_handshake import check_response
from geventws.protocol.permessage_deflate import Deflate
from tests.support.client import ACCEPT, KEY

MOST = (1 << 20) + (1 << 14)
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})(;[^\r\n]*)?\r\n")


class Pieces:
    """As much of a socket as the client reads from: bytes that come in pieces, then the end."""

    def __init__(self, data: bytes, size: int) -> None:
        self.data = data
        self.size = size

    def recv(self, size: int) -> bytes:
        size = min(size, self.size)
        piece, self.data = self.data[:size], self.data[size:]
        return piece


def check_response_of(data: bytes) -> None:
    """An answer is a HandshakeError or what RFC 6455 section 4.1 wants; a refusal has its body."""
    size, data = 1 + 16 * data[0] if data else 1, data[1:]
    sock = Pieces(data, size)
    try:
        response, early = read_response(sock)
    except HandshakeError:
        return
    behind = early + sock.data
    assert data.endswith(behind)
    if response.code == 101:
        try:
            check_response(response, KEY, ["chat"], Deflate())
        except HandshakeError:
            return
        assert response.get("Sec-WebSocket-Accept") == ACCEPT
        assert response.get("Upgrade").lower() == "websocket"
        assert re.search("upgrade", response.get("Connection"), re.ASCII | re.IGNORECASE)
        assert response.get("Sec-WebSocket-Protocol") in {"", "chat"}
        return
    body = read_body(sock, response, early)
    assert len(body) <= MOST
    if response.code in {204, 304}:
        assert not body
    elif response.get("Transfer-Encoding").lower().split(",")[-1].strip(" \t") == "chunked":
        expected = dechunked(behind)
        assert expected is None or body == expected, (body, expected)
    else:
        assert behind.startswith(body)


def dechunked(data: bytes) -> bytes | None:
    """Decode a chunked body, RFC 9112 section 7.1. Return None if it is invalid."""
    content = b""
    while head := _CHUNK.match(data):
        size = int(head[1], 16)
        if size == 0:
            return content
        chunk, end = data[head.end() :][:size], data[head.end() + size :][:2]
        if len(chunk) < size or end != b"\r\n":
            return None
        content += chunk
        data = data[head.end() + size + 2 :]
    return None
