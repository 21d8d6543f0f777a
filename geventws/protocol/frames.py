"""The vocabulary of RFC 6455: opcodes, close codes and the payload of a Close frame."""

from __future__ import annotations

import enum

from ..exceptions import InvalidPayload, ProtocolError

#: The longest payload of a control frame in bytes, RFC 6455 section 5.5.
MAX_CONTROL_PAYLOAD = 125
#: The longest reason of a Close frame in bytes of UTF-8: the code takes two of the 125.
MAX_REASON = MAX_CONTROL_PAYLOAD - 2
#: The reason with 1008 for a message that takes too long to arrive. Unlike other causes of 1008, a
#: slow network can be one, and a new connection can help.
MESSAGE_TIMEOUT = "message timeout"


class Opcode(enum.IntEnum):
    """The type of a frame, RFC 6455 section 5.2."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(enum.IntEnum):
    """Why a connection ends: RFC 6455 section 7.4.1 and the IANA registry."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RECEIVED = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015


#: Codes that must not be sent in a Close frame (RFC 6455 section 7.4.1).
_LOCAL_CODES = {
    CloseCode.NO_STATUS_RECEIVED,
    CloseCode.ABNORMAL_CLOSURE,
    CloseCode.TLS_HANDSHAKE,
}
_REGISTERED_CODES = frozenset(CloseCode) - _LOCAL_CODES


def may_be_sent(code: int) -> bool:
    """Whether a Close frame may carry this code.

    Registered codes below 3000 may be sent. Codes from 3000 to 3999 belong to libraries, codes
    from 4000 to 4999 to applications (RFC 6455 section 7.4.2).
    """
    return code in _REGISTERED_CODES or 3000 <= code <= 4999


def encode_text(text: str, name: str = "a text message") -> bytes:
    """Encode text in UTF-8.

    :param name: describes the text in the error message.
    :raises ValueError: if the text has a lone surrogate (U+D800 to U+DFFF), for instance from
        ``json.loads(r'"\\ud800"')``: UTF-8 has no encoding for it (RFC 3629 section 3).
    """
    try:
        return text.encode()
    except UnicodeEncodeError as problem:
        raise ValueError(
            f"{name} cannot be encoded in UTF-8: it has a lone surrogate,"
            f" U+{ord(text[problem.start]):04X}, at index {problem.start}"
        ) from None


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a Close frame, RFC 6455 section 5.5.1.

    :raises TypeError: when the code is not an integer, or the reason is not a ``str``.
    :raises ValueError: when the code must not be sent, or the reason exceeds 123 bytes of UTF-8 or
        has a lone surrogate.
    """
    if not isinstance(code, int) or isinstance(code, bool):
        raise TypeError(f"a close code is an int, not {code!r}")
    if not isinstance(reason, str):
        raise TypeError(f"a close reason is a str, not {reason!r}")
    if not may_be_sent(code):
        raise ValueError(f"a Close frame cannot carry the code {code}")
    encoded = encode_text(reason, "a close reason")
    if len(encoded) > MAX_REASON:
        raise ValueError(f"a close reason has at most {MAX_REASON} bytes, not {len(encoded)}")
    return int(code).to_bytes(2, "big") + encoded


def parse_close(payload: bytes) -> tuple[int, str]:
    """The code and the reason in the payload of a Close frame; an empty payload means 1005.

    :raises ProtocolError: when the payload has one byte, or a code that must not be sent.
    :raises InvalidPayload: when the reason is not UTF-8.
    """
    if not payload:
        return CloseCode.NO_STATUS_RECEIVED, ""
    if len(payload) == 1:
        raise ProtocolError("a Close frame with half a code")
    code = int.from_bytes(payload[:2], "big")
    if not may_be_sent(code):
        raise ProtocolError(f"a Close frame with the code {code}")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError as problem:
        raise InvalidPayload("a close reason that is not UTF-8") from problem
