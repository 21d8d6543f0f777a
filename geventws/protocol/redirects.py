"""Redirects of the opening handshake (RFC 6455 section 4.1, RFC 9110 section 15.4)."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urldefrag, urljoin

from ..exceptions import HandshakeError
from ..typing import Headers
from .client_handshake import Response
from .urls import Target, check_characters, parse_url

_CODES = {301, 302, 303, 307, 308}
#: Headers that are not sent to another origin. All in lower case.
_CONFIDENTIAL = {"authorization", "cookie", "host", "proxy-authorization"}
#: The schemes of Location, and the schemes of WebSockets that they stand for.
_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


class Request(NamedTuple):
    """The part of a request that a redirect changes."""

    target: Target
    #: The headers of the caller.
    headers: Headers
    #: Whether a redirect has led to another origin: all further requests are without credentials.
    has_left_origin: bool = False


class Redirects:
    """The redirects of one opening handshake.

    :param limit: how many redirects may be followed.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._visited: set[tuple[bool, str, int, str]] = set()

    def is_redirect(self, response: Response) -> bool:
        """Whether a response is a redirect that can be followed, if redirects are followed."""
        return self._limit > 0 and response.code in _CODES and len(_locations(response)) == 1

    def follow(self, request: Request, response: Response) -> Request:
        """Return the next request.

        :raises HandshakeError: after too many redirects, for a loop, for a Location that is not the
            URL of a WebSocket, and from wss:// to ws://.
        """

        def fail(why: str) -> HandshakeError:
            return HandshakeError(response.status, why, response.headers)

        self._visited.add(request.target[:4])
        try:
            target = _resolve(request.target, _locations(response)[0])
        except ValueError as problem:
            raise fail(f"cannot follow the redirect: {problem}") from None
        if target[:4] in self._visited:
            raise fail("the server redirects in a loop")
        if len(self._visited) > self._limit:
            raise fail(f"more redirects than max_redirects, which is {self._limit}")
        if request.target.secure and not target.secure:
            raise fail("the redirect from wss:// to ws:// is not followed: ws:// is not encrypted")
        if target[:3] == request.target[:3]:
            return request._replace(target=target._replace(userinfo=request.target.userinfo))
        kept = [field for field in request.headers if field[0].lower() not in _CONFIDENTIAL]
        return Request(target, kept, has_left_origin=True)


def _locations(response: Response) -> list[str]:
    return [value for name, value in response.headers if name.lower() == "location" and value]


def _resolve(base: Target, location: str) -> Target:
    """Return the server that Location names, relative to the URL of the request.

    :raises ValueError: if it is not the URL of a WebSocket.
    """
    location = location.encode("latin-1").decode()  # of old servers; RFC 3986 allows only ASCII
    check_characters(location)
    # urljoin() knows http, but not ws in all versions of Python.
    scheme = "https" if base.secure else "http"
    url = urldefrag(urljoin(f"{scheme}://{base.authority}{base.resource}", location)).url
    found, colon, rest = url.partition(":")
    if found.lower() not in _SCHEMES:
        raise ValueError(f"{location!r} is not the URL of a WebSocket")
    target = parse_url(f"{_SCHEMES[found.lower()]}{colon}{rest}")
    # The zone of an address is unknown to the server. A server has no credentials to give.
    host = base.host if target.host == base.name else target.host
    return target._replace(host=host, userinfo="")
