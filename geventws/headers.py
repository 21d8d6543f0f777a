"""The grammar of header fields that the handshake needs, RFC 9110 section 5.6."""
from __future__ import annotations

import re

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: A field value: visible characters and obs-text, with single blanks inside (RFC 9110 5.5).
_VALUE = re.compile(r"[\x21-\x7e\x80-\xff]([\t \x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?")


def is_token(text: str) -> bool:
    """Whether the text is a token: a header's name, a subprotocol."""
    return _TOKEN.fullmatch(text) is not None


def is_value(text: str) -> bool:
    """Whether the text can be the value of a header: one line, no control characters."""
    return not text or _VALUE.fullmatch(text) is not None


def split_list(value: str) -> list[str]:
    """The members of a comma-separated list; empty ones do not count (RFC 9110 5.6.1)."""
    return [member for part in value.split(",") if (member := part.strip(" \t"))]


def has_token(value: str, token: str) -> bool:
    """Whether a list of tokens such as ``keep-alive, Upgrade`` has this one, in any case."""
    value = value.lower()
    return value == token or token in split_list(value)
