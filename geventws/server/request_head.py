"""What RFC 9112 demands of the head of a request; no I/O.

Strict, as gunicorn's parser is: where a proxy and a server can read a request in two ways, an
attacker chooses which one each of them takes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

Field = tuple[str, str]

#: RFC 9112 section 3; in the method no lower case, as gunicorn wants it: all registered ones are
#: in upper case. In the target, printable ASCII without the "#" of a fragment (RFC 3986).
_REQUEST_LINE = re.compile(r"([!$%&'*+\-.^_`|~0-9A-Z]{3,20}) ([!\"$-~]+) (HTTP/1\.[0-9])\r\n")
#: RFC 9112 section 5, without obsolete folding, and without a blank before the colon.
HEADER_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\x00-\x08\x0a-\x1f\x7f]*)")
#: RFC 9110 section 7.2: uri-host [ ":" port ], RFC 3986 section 3.2.2; it may be empty.
HOST = re.compile(r"(?:\[[0-9A-Fa-fv:.]+\]|[0-9A-Za-z\-._~!$&'()*+,;=%]*)(?::[0-9]*)?")
_ABSOLUTE_FORM = re.compile(r"https?://([^/?]*)(.*)", re.IGNORECASE)
_LENGTH = re.compile(r"[0-9]{1,18}")
#: As many as the standard library's parser takes.
MAX_FIELDS = 100
#: Those that may be there once, RFC 9110 section 5.3.
_SINGLE = "host", "content-type", "content-length", "transfer-encoding", "expect"


class BadRequest(ValueError):
    """A request that is not as it must be; ``status`` is what to answer."""

    def __init__(self, message: str, status: str = "400 Bad Request") -> None:
        super().__init__(message)
        self.status = status


class RequestLine(NamedTuple):
    """What the first line of a request says."""

    method: str
    target: str  #: the path and the query, RFC 9112 section 3.2.1, or what else was asked for
    version: str
    host: str | None  #: the host, if the target names one


def parse_request_line(line: str) -> RequestLine:
    """The parts of a request line, which ends with CRLF.

    :raises BadRequest: when it is not as RFC 9112 section 3 wants it.
    """
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise BadRequest("its request line is malformed")
    method, target, version = match.groups()
    if method == "CONNECT":
        if not target.rpartition(":")[0] or not HOST.fullmatch(target):  # section 3.2.3
            raise BadRequest("its target is not a host and a port")
        return RequestLine(method, target, version, None)
    if target.startswith("/") or (target == "*" and method == "OPTIONS"):  # 3.2.1, 3.2.4
        return RequestLine(method, target, version, None)
    absolute = _ABSOLUTE_FORM.fullmatch(target)  # section 3.2.2
    if absolute is None or not absolute[1] or not HOST.fullmatch(absolute[1]):
        raise BadRequest("its target is malformed")
    rest = absolute[2]
    path = rest if rest.startswith("/") else "/" + rest
    return RequestLine(method, path, version, absolute[1])


def parse_header_line(line: bytes) -> Field:
    """The name and the value of a header line, which ends with CRLF.

    :raises BadRequest: when it is not as RFC 9112 section 5 wants it.
    """
    match = HEADER_LINE.fullmatch(line, 0, len(line) - 2) if line.endswith(b"\r\n") else None
    if match is None:
        raise BadRequest("one of its headers is malformed")
    return match[1].decode(), match[2].strip(b" \t").decode("latin-1")


def check_fields(fields: Sequence[Field], version: str) -> None:
    """Refuse headers, with names in lower case, that could be understood in two ways.

    :raises BadRequest: 400, or 501 and 417 for what is asked for in vain.
    """
    if len(fields) > MAX_FIELDS:
        raise BadRequest(f"it has more than {MAX_FIELDS} headers")
    found: dict[str, str] = {}
    for name, value in fields:
        if name in found:
            raise BadRequest(f"it has the header {name} twice")
        if name in _SINGLE:
            found[name] = value
    _check_host(found.get("host"), version)
    _check_framing(found, version)
    if "expect" in found and found["expect"].lower() != "100-continue":
        raise BadRequest("it expects what is unknown", "417 Expectation Failed")


def _check_host(host: str | None, version: str) -> None:
    """RFC 9112 section 3.2."""
    if host is None:
        if version != "HTTP/1.0":
            raise BadRequest("it has no header Host")
    elif not HOST.fullmatch(host):
        raise BadRequest("its header Host is malformed")


def _check_framing(found: dict[str, str], version: str) -> None:
    """RFC 9112 sections 6.1 to 6.3."""
    if "transfer-encoding" in found:
        if version == "HTTP/1.0":
            raise BadRequest("it is HTTP/1.0 with a Transfer-Encoding")
        if "content-length" in found:
            raise BadRequest("it has a Content-Length and a Transfer-Encoding")
        codings = [part.strip(" \t").lower() for part in found["transfer-encoding"].split(",")]
        if codings.count("chunked") != 1 or codings[-1] != "chunked":
            raise BadRequest("its Transfer-Encoding does not end with chunked")
        if len(codings) > 1:
            raise BadRequest("its Transfer-Encoding is unknown", "501 Not Implemented")
    elif "content-length" in found and not _LENGTH.fullmatch(found["content-length"]):
        raise BadRequest("its Content-Length is no number")
