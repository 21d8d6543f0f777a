"""The body of a message in Redis and in PostgreSQL.

It is one byte for the kind, and the data. If the message is not for one of the WebSockets, the
kind is another one, and eight bytes with the id of that WebSocket precede the data.
"""

from __future__ import annotations

_TEXT, _BINARY = b"\x01", b"\x02"
_TEXT_EXCEPT, _BINARY_EXCEPT = b"\x04", b"\x05"
_ID_LENGTH = 8


def encode_body(data: str | bytes, excluded: str | None) -> bytes:
    """Return the body of a message.

    :param excluded: the id of the WebSocket that does not get the message.
    """
    is_text = isinstance(data, str)
    payload = data.encode() if isinstance(data, str) else data
    if excluded is None:
        return (_TEXT if is_text else _BINARY) + payload
    return (_TEXT_EXCEPT if is_text else _BINARY_EXCEPT) + bytes.fromhex(excluded) + payload


def decode_body(kind: bytes, payload: bytes) -> tuple[str | bytes, str | None] | None:
    """Return the data and the excluded WebSocket; ``None`` if another program has written it.

    :param kind: the first byte of the body.
    :param payload: the rest.
    """
    excluded = None
    if kind in {_TEXT_EXCEPT, _BINARY_EXCEPT}:
        if len(payload) < _ID_LENGTH:
            return None
        excluded, payload = payload[:_ID_LENGTH].hex(), payload[_ID_LENGTH:]
    if kind in {_BINARY, _BINARY_EXCEPT}:
        return payload, excluded
    if kind not in {_TEXT, _TEXT_EXCEPT}:
        return None
    try:
        return payload.decode(), excluded
    except UnicodeDecodeError:
        return None
