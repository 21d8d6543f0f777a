"""The grammar of header fields, as far as the handshake needs it (RFC 9110 section 5.6)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from ..typing import HeaderPairs, Headers

_CHARACTERS = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_TOKEN = re.compile(_CHARACTERS)
#: A parameter of an extension. A quoted value must be a token, too (RFC 6455 section 9.1), so it
#: contains no comma and no semicolon.
_PARAMETER = re.compile(
    rf'[ \t]*({_CHARACTERS})(?:[ \t]*=[ \t]*(?:({_CHARACTERS})|"({_CHARACTERS})"))?[ \t]*'
)
_EXTENSION = re.compile(rf"{_CHARACTERS}[ \t]*(?:;{_PARAMETER.pattern})*")
#: The longest list of extensions in characters. Browsers send 42, other clients up to 200.
MAX_EXTENSIONS = 1024
#: The longest list of extensions that is cached: its 64 entries take at most 0.5 MiB together.
MAX_CACHED_EXTENSIONS = 128
#: A field value: visible characters and obs-text, with single blanks inside (RFC 9110 5.5).
_VALUE = re.compile(r"[\x21-\x7e\x80-\xff]([\t \x21-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?")


def is_token(text: str) -> bool:
    """Whether the text is a token, such as the name of a header or a subprotocol."""
    return _TOKEN.fullmatch(text) is not None


def is_value(text: str) -> bool:
    """Whether the text can be the value of a header: one line, no control characters."""
    return not text or _VALUE.fullmatch(text) is not None


def check_header(name: str, value: str) -> None:
    """Check that a header can be sent.

    :raises TypeError: if its name or its value is not a str.
    :raises ValueError: if it has forbidden characters.
    """
    for part, text in (("name", name), ("value", value)):
        if not isinstance(text, str):
            raise TypeError(
                f"{name!r}: {value!r} cannot be a header: its {part} is not a str, but"
                f" {type(text).__name__}"
            )
    if not is_token(name):
        raise ValueError(f"{name!r}: {value!r} cannot be a header: its name is not a token")
    if not is_value(value):
        raise ValueError(
            f"{name!r}: {value!r} cannot be a header: its value is not one line in ISO 8859-1"
        )


def pairs_of(headers: Mapping[str, str] | HeaderPairs) -> Headers:
    """Convert headers, a mapping or pairs, to pairs.

    :raises TypeError: if they are neither.
    """
    if isinstance(headers, Mapping):
        return list(headers.items())
    if not isinstance(headers, Iterable):
        raise TypeError(f"headers must be a mapping or pairs, not {headers!r}")
    fields = list(headers)
    for field in fields:
        if not isinstance(field, (tuple, list)) or len(field) != 2:
            raise TypeError(f"headers must be a mapping or pairs: {field!r} is not a pair")
    return fields


def split_list(value: str) -> list[str]:
    """The members of a comma-separated list, without empty ones (RFC 9110 section 5.6.1)."""
    return [member for part in value.split(",") if (member := part.strip(" \t"))]


def has_token(value: str, token: str) -> bool:
    """Whether a list such as ``keep-alive, Upgrade`` contains a token, in any case."""
    value = value.lower()
    return value == token or token in split_list(value)


class Extension(NamedTuple):
    """A member of Sec-WebSocket-Extensions: an extension and its parameters, in order."""

    name: str
    parameters: tuple[tuple[str, str | None], ...]


def parse_extensions(value: str) -> tuple[Extension, ...]:
    """The extensions that a peer offers or agrees on, RFC 6455 section 9.1.

    :raises ValueError: if the value is not a list of extensions, or longer than 1,024 characters.
    """
    if len(value) > MAX_EXTENSIONS:
        raise ValueError(f"a list of extensions of more than {MAX_EXTENSIONS} characters")
    return _parse_cached(value) if len(value) <= MAX_CACHED_EXTENSIONS else _parse(value)


def _parse(value: str) -> tuple[Extension, ...]:
    extensions = []
    for member in split_list(value):
        if not _EXTENSION.fullmatch(member):
            raise ValueError(f"{member!r} is not an extension with its parameters")
        name, _, rest = member.partition(";")
        parameters = tuple((match[1], match[2] or match[3]) for match in _PARAMETER.finditer(rest))
        extensions.append(Extension(name.strip(" \t"), parameters))
    return tuple(extensions)


_parse_cached = lru_cache(maxsize=64)(_parse)
