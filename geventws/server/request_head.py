"""The rules of RFC 9112 for the head of a request; no I/O.

They are as strict as gunicorn's parser. If a proxy and a server understand a request in different
ways, an attacker can use the difference (request smuggling).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

Field = tuple[str, str]

#: RFC 9112 section 3. The method is in upper case, as all registered methods are; gunicorn requires
#: this, too. The target is printable ASCII without "#", which starts a fragment (RFC 3986).
_REQUEST_LINE = re.compile(r"([!$%&'*+\-.^_`|~0-9A-Z]{3,20}) ([!\"$-~]+) (HTTP/1\.[0-9])\r\n")
#: RFC 9112 section 5, without obsolete line folding, and without a space before the colon.
HEADER_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\x00-\x08\x0a-\x1f\x7f]*)")
#: RFC 9110 section 7.2: uri-host [ ":" port ] (RFC 3986 section 3.2.2); it may be empty.
HOST = re.compile(r"(?:\[[0-9A-Fa-fv:.]+\]|[0-9A-Za-z\-._~!$&'()*+,;=%]*)(?::[0-9]*)?")
_ABSOLUTE_FORM = re.compile(r"https?://([^/?]*)(.*)", re.IGNORECASE)
_LENGTH = re.compile(r"[0-9]{1,18}")
#: The maximum number of headers, as in the standard library's parser.
MAX_FIELDS = 100
#: Headers that are allowed only once (RFC 9110 section 5.3).
_SINGLE = "host", "content-type", "content-length", "transfer-encoding", "expect"
#: The beginning of a TLS connection: a record of the handshake, RFC 8446 section 5.1.
CLIENT_HELLO = b"\x16\x03"
TLS_ON_PLAIN_PORT = (
    "this looks like TLS on a plain port. Use http:// or ws:// in the URL, or give the server a"
    " certificate (certfile and keyfile)"
)


class BadRequest(ValueError):
    """A request is malformed. ``status`` is the HTTP status of the response."""

    def __init__(self, message: str, status: str = "400 Bad Request") -> None:
        super().__init__(message)
        self.status = status


class RequestLine(NamedTuple):
    """The parsed first line of a request."""

    method: str
    target: str  #: the path and the query, "*", or the host and the port of CONNECT
    version: str
    host: str | None  #: the host, if the target is an absolute URL


def parse_request_line(line: str) -> RequestLine:
    """Parse a request line, including its CRLF.

    :raises BadRequest: if it violates RFC 9112 section 3.
    """
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadRequest("the request line is malformed")
    method, target, version = match.groups()
    if method == "CONNECT":
        if not target.rpartition(":")[0] or not HOST.fullmatch(target):  # section 3.2.3
            raise BadRequest("the target of CONNECT is not a host and a port")
        return RequestLine(method, target, version, None)
    if target.startswith("/") or (target == "*" and method == "OPTIONS"):  # 3.2.1, 3.2.4
        return RequestLine(method, target, version, None)
    absolute = _ABSOLUTE_FORM.fullmatch(target)  # section 3.2.2
    if absolute is None or not absolute[1] or not HOST.fullmatch(absolute[1]):
        raise BadRequest("the target is malformed")
    rest = absolute[2]
    path = rest if rest.startswith("/") else "/" + rest
    return RequestLine(method, path, version, absolute[1])


def parse_header_line(line: bytes) -> Field:
    """Return the name and the value of a header line, including its CRLF.

    :raises BadRequest: if it violates RFC 9112 section 5.
    """
    match = HEADER_LINE.fullmatch(line, 0, len(line) - 2) if line.endswith(b"\r\n") else None
    if match is None:
        raise BadRequest("a header is malformed")
    return match[1].decode(), match[2].strip(b" \t").decode("latin-1")


def check_fields(fields: Sequence[Field], version: str) -> None:
    """Check the headers of a request.

    :param fields: names in lower case and values.
    :raises BadRequest: with the status 400 for ambiguous headers, 501 for an unknown
        Transfer-Encoding, 417 for an unknown expectation.
    """
    if len(fields) > MAX_FIELDS:
        raise BadRequest(f"the request has more than {MAX_FIELDS} headers")
    found: dict[str, str] = {}
    for name, value in fields:
        if name in found:
            raise BadRequest(f"the request has the header {name} twice")
        if name in _SINGLE:
            found[name] = value
    _check_host(found.get("host"), version)
    _check_framing(found, version)
    if "expect" in found and found["expect"].lower() != "100-continue":
        raise BadRequest("the expectation is unknown", "417 Expectation Failed")


def _check_host(host: str | None, version: str) -> None:
    """Check the Host header (RFC 9112 section 3.2)."""
    if host is None:
        if version != "HTTP/1.0":
            raise BadRequest("the request has no Host header")
    elif not HOST.fullmatch(host):
        raise BadRequest("the Host header is malformed")


def _check_framing(found: dict[str, str], version: str) -> None:
    """Check the headers that define the length of the body (RFC 9112 sections 6.1 to 6.3)."""
    if "transfer-encoding" in found:
        if version == "HTTP/1.0":
            raise BadRequest("an HTTP/1.0 request has a Transfer-Encoding")
        if "content-length" in found:
            raise BadRequest("the request has a Content-Length and a Transfer-Encoding")
        codings = [part.strip(" \t").lower() for part in found["transfer-encoding"].split(",")]
        if codings.count("chunked") != 1 or codings[-1] != "chunked":
            raise BadRequest("the Transfer-Encoding does not end with chunked")
        if len(codings) > 1:
            raise BadRequest("the Transfer-Encoding is unknown", "501 Not Implemented")
    elif "content-length" in found and not _LENGTH.fullmatch(found["content-length"]):
        raise BadRequest("the Content-Length is not a number")
