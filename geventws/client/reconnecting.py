"""A client that connects again after each end: :func:`reconnect`."""

from __future__ import annotations

from collections.abc import Iterator
from random import random
from ssl import SSLCertVerificationError
from time import monotonic
from typing import Any

from gevent import sleep

from ..connection.logs import logger, printable
from ..exceptions import HandshakeError
from ..options import MAX_SECONDS
from ..protocol.frames import MESSAGE_TIMEOUT, CloseCode
from ..protocol.urls import parse_url
from ..typing import Keywords
from .client import ClientWebSocket, connect

#: The limit of the first delay, in seconds.
_FIRST_LIMIT = 1.0
#: HTTP statuses below 500 that ask to try again: Request Timeout, Too Early, Too Many Requests.
_TEMPORARY = {408, 425, 429}
#: Close codes of an application that correspond to the HTTP statuses 400 to 499.
_REFUSALS = range(4400, 4500)


# Any: the arguments of connect().
def reconnect(url: str, *, max_delay: float = 30.0, **arguments: Any) -> Iterator[ClientWebSocket]:
    """Connect to a server, and connect again after each end, in an endless loop::

        for ws in reconnect("wss://example.com/prices"):
            with ws:
                ws.send_json({"subscribe": "EUR"})
                for message in ws:
                    print(message)

    The ``with`` block of these WebSockets suppresses the :exc:`ConnectionClosed` of its own
    connection: whatever ends the connection ends the block, and the loop goes on. ``break`` ends
    the loop.

    Another attempt follows, too, if the server cannot be reached, does not answer, or answers with
    5xx, 408, 425 or 429. Before it, the loop waits for a random time between 0 and a limit. The
    limit is one second, and doubles with every attempt up to ``max_delay``. A connection that has
    lasted for ``max_delay`` seconds resets it. Each attempt has a line in the log.

    :param max_delay: in seconds.
    :param arguments: the arguments of :func:`connect`, except for ``sock``.
    :raises HandshakeError: if the server or the proxy gives another answer, such as 401 or 404.
    :raises ConnectionClosed: if the server closes with 1008 or a code from 4400 to 4499, which
        mean a refusal, as 4xx does. 1008 with the reason ``message timeout`` means none: a message
        was too slow for the server's ``message_timeout``.
    :raises ssl.SSLCertVerificationError: if the server's certificate is not valid.
    :raises TypeError: as :func:`connect`.
    :raises ValueError: as :func:`connect`, or if ``max_delay`` is not positive.
    """
    target = parse_url(url)
    if "sock" in arguments:
        raise TypeError("reconnect() needs a new socket for each connection: it takes no sock")
    if not 0 < max_delay <= MAX_SECONDS:
        raise ValueError(f"max_delay must be a positive number of seconds, not {max_delay!r}")
    name = printable(f"{target.host}:{target.port}{target.resource.partition('?')[0]}")
    return _connections(name, url, max_delay, arguments)


def _connections(
    name: str, url: str, max_delay: float, arguments: Keywords
) -> Iterator[ClientWebSocket]:
    limit = _FIRST_LIMIT
    while True:
        problem: OSError
        try:
            ws = connect(url, **arguments)
        except OSError as failure:
            if _is_final(failure):
                raise
            problem = failure
        else:
            opened = monotonic()
            ws._is_reconnecting = True
            yield ws
            ws.close()
            problem = ws._closed_error()
            if ws._endpoint.closed_by_peer and _is_refusal(ws.close_code, ws.close_reason):
                raise problem
            if monotonic() - opened >= max_delay:
                limit = _FIRST_LIMIT
        limit = min(limit, max_delay)
        delay = limit * random()  # noqa: S311 - not a secret
        limit *= 2
        reason = printable(str(problem))
        logger.warning("%s: %s; the next attempt is in %.1f seconds", name, reason, delay)
        sleep(delay)


def _is_final(failure: OSError) -> bool:
    """Whether another attempt would fail, too."""
    if isinstance(failure, HandshakeError):
        code = failure.status_code
        return bool(code) and code < 500 and code not in _TEMPORARY
    return isinstance(failure, SSLCertVerificationError)


def _is_refusal(code: int | None, reason: str) -> bool:
    if code == CloseCode.POLICY_VIOLATION:
        return reason != MESSAGE_TIMEOUT
    return code in _REFUSALS
