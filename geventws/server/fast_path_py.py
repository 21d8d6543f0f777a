"""A fast parser for the head of a WebSocket request, ten times faster than gevent's; no I/O.

It accepts only a complete head in the simplest form of RFC 9112, without a body. For every other
head it returns ``None``, and the caller uses the general parser. Both parsers must therefore
understand an accepted head in the same way.

This is the reference of the compiled twin, ``_fast_path.pyx``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from ..protocol.server_handshake import is_websocket_request
from ..typing import Environ
from .request_head import HEADER_LINE, HOST, MAX_FIELDS

#: The number of bytes to peek for :func:`parse_request`. A longer head needs the general parser.
PEEK_SIZE = 8 << 10
_END = b"\r\n\r\n"
#: A quick check whether this may be a WebSocket request.
_WEBSOCKET = re.compile(rb"\nupgrade:[^\r\n]*websocket", re.IGNORECASE)
_REQUEST_LINE = re.compile(rb"GET (/[\x21\x22\x24-\x7e]*) HTTP/1\.1")
#: Requests with a body, or with Expect: 100-continue, need the general parser.
_UNSUPPORTED = {"HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE", "HTTP_EXPECT", "HTTP_TRANSFER_ENCODING"}
#: Headers that many clients send with the same value, and that are not secret. They are cached.
_CACHED = {
    b"accept-encoding",
    b"accept-language",
    b"cache-control",
    b"connection",
    b"host",
    b"origin",
    b"pragma",
    b"sec-websocket-extensions",
    b"sec-websocket-version",
    b"upgrade",
    b"user-agent",
}
#: The maximum length of a cached header line, and of a cached name.
_MAX_CACHED_LINE = 512
_MAX_NAME = 64


class Request(NamedTuple):
    """The parsed head of a request."""

    line: str  #: the request line
    target: str  #: the path and the query, as the client sent them
    variables: dict[str, str]  #: the CGI variables (RFC 3875, PEP 3333)
    size: int  #: the number of bytes of the head, including the empty line


def parse_request(data: bytes) -> Request | None:
    """Return the WebSocket request at the beginning of ``data``.

    Return ``None`` if the head is incomplete, is not for a WebSocket, or needs the general parser.
    """
    end = data.find(_END)
    if end < 0 or _WEBSOCKET.search(data, 0, end) is None:
        return None
    lines = data[:end].split(b"\r\n")
    first = _REQUEST_LINE.fullmatch(lines[0])
    if first is None or len(lines) > MAX_FIELDS:
        return None
    target = first[1].decode()
    path, _, query = target.partition("?")
    if "%" in path:
        path = unquote_to_bytes(path).decode("latin-1")
    variables = {
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "PATH_INFO": path,
        "QUERY_STRING": query,
    }
    for line in lines[1:]:
        is_cached = line.partition(b":")[0].lower() in _CACHED and len(line) <= _MAX_CACHED_LINE
        field = _parse_cached(line) if is_cached else _parse_line(line)
        if field is None:
            return None
        name, value = field
        if name in variables:
            if name == "HTTP_HOST":
                return None
            separator = "; " if "COOKIE" in name else ","
            value = f"{variables[name]}{separator}{value}"
        variables[name] = value
    if not _UNSUPPORTED.isdisjoint(variables) or not is_websocket_request(variables):
        return None
    # A header with an underscore would get the variable of another header (X_Y and X-Y). gevent's
    # handler ignores such headers, too.
    variables.pop("", None)
    return Request(lines[0].decode(), target, variables, end + len(_END))


def complete_environ(
    environ: Environ, body: object, address: object, variables: dict[str, str]
) -> None:
    """Make of the environ of a server what gevent's ``get_environ()`` returns for a request."""
    if isinstance(address, tuple):
        environ["REMOTE_ADDR"] = str(address[0])
        environ["REMOTE_PORT"] = str(address[1])
    environ["SCRIPT_NAME"] = ""
    environ["wsgi.input"] = body
    environ["wsgi.input_terminated"] = True
    environ.update(variables)


def _parse_line(line: bytes) -> tuple[str, str] | None:
    """Return the CGI variable and the value of a header line; ``None`` if it is malformed."""
    match = HEADER_LINE.fullmatch(line)
    if match is None:
        return None
    name = match[1]
    variable = _variable(name) if len(name) <= _MAX_NAME else _make_variable(name)
    value = match[2].strip(b" \t").decode("latin-1")
    if variable == "HTTP_HOST" and not HOST.fullmatch(value):
        return None
    return variable, value


_parse_cached = lru_cache(maxsize=256)(_parse_line)


def _make_variable(name: bytes) -> str:
    return "" if b"_" in name else "HTTP_" + name.decode().upper().replace("-", "_")


_variable = lru_cache(maxsize=256)(_make_variable)
