"""``geventws check URL``: open a WebSocket as a browser does, and say what prevents it."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ssl import SSLCertVerificationError
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from gevent import spawn

from ..client.client import ClientWebSocket
from ..client.client import connect as open_websocket
from ..client.dialling import time_limit
from ..client.response import read_response
from ..client.route import Route
from ..exceptions import ConnectionClosed, HandshakeError
from ..protocol import client_handshake
from ..protocol.permessage_deflate import Deflate, offer
from ..protocol.urls import Target, parse_url
from ..typing import HeaderPairs, Keywords
from .connect import headers_from
from .diagnosis import Facts, diagnose, summary
from .errors import UsageError

if TYPE_CHECKING:
    from gevent.socket import socket

#: Seconds for an upgrade, for each further request, for a Pong, and for the closing handshake.
_UPGRADE, _QUESTION, _PONG, _CLOSE = 10.0, 3.0, 5.0, 1.0
#: Seconds between two checks whether the Pong has arrived.
_INTERVAL = 0.01
#: The maximum of --idle in seconds.
_MAX_IDLE = 3600.0
#: The parameters that browsers offer.
_DEFLATE = Deflate(server_context_takeover=True, client_context_takeover=True)
#: Other headers that browsers send.
_BROWSER = [
    (
        "User-Agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"
        " Chrome/140.0.0.0 Safari/537.36",
    ),
    ("Pragma", "no-cache"),
    ("Cache-Control", "no-cache"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Accept-Language", "en-US,en;q=0.9"),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument of this command that ``connect`` does not have."""
    parser.add_argument(
        "--idle",
        metavar="SECONDS",
        type=float,
        default=0.0,
        help="the time to wait in silence, to find a proxy that closes silent connections"
        f" (default: %(default)g, at most {_MAX_IDLE:g})",
    )


def check(options: argparse.Namespace) -> int:
    """Print a sentence for each problem; return the exit status.

    :raises UsageError: if the arguments are wrong.
    """
    if not 0 <= options.idle <= _MAX_IDLE:
        raise UsageError(f"--idle must be from 0 to {_MAX_IDLE:g} seconds")
    facts = _Check(options).observe()
    problems = diagnose(facts)
    for sentence in problems or [summary(facts)]:
        print(sentence)
    return 1 if problems else 0


class _Attempt(NamedTuple):
    """An upgrade: a WebSocket or an error, and the seconds that it took."""

    ws: ClientWebSocket | None
    error: OSError | None
    seconds: float


class _Check:
    """The requests of one check, and what they show."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._headers = headers_from(options)
        try:
            self._target = parse_url(options.url)
            self._route = Route(options.proxy, None, None, None, options.unix_socket)
            proxy = self._route.proxy_for(self._target)
        except (ValueError, ImportError) as problem:
            raise UsageError(str(problem)) from problem
        given = {name.lower(): value for name, value in self._headers}
        self._browser = [field for field in _BROWSER if field[0].lower() not in given]
        host = given.get("host", self._target.authority)
        own_origin = f"{'https' if self._target.secure else 'http'}://{host}"
        self._facts = Facts(
            target=self._target,
            origin=options.origin or own_origin,
            own_origin=own_origin,
            proxy="" if proxy is None else f"{proxy.host}:{proxy.port}",
            idle=options.idle,
        )

    def observe(self) -> Facts:
        """Send the requests, and return what they show. Blocks."""
        plain = self._upgrade()
        browser = plain
        if plain.error is None or isinstance(plain.error, HandshakeError):
            browser = self._upgrade(self._browser, self._facts.origin, _DEFLATE)
        self._note(plain_error=plain.error, browser_error=browser.error)
        if browser.ws is not None:
            if plain.ws is not None:
                plain.ws.close()
            self._watch(browser.ws, browser.seconds)
            if not browser.ws.extensions:
                self._note(reads_extensions=self._reads_extensions())
        elif plain.ws is not None:
            self._note_refused_header()
            self._watch(plain.ws, plain.seconds)
        else:
            self._note_failure(browser.error)
        return self._facts

    def _note(self, **facts: Any) -> None:  # Any: the type of a fact depends on its name
        self._facts = dataclasses.replace(self._facts, **facts)

    def _upgrade(
        self,
        headers: HeaderPairs = (),
        origin: str | None = None,
        compression: bool | Deflate = False,
    ) -> _Attempt:
        """Try to open a WebSocket, also with the headers of the command line."""
        options = self._options
        started = monotonic()
        ws = error = None
        try:
            ws = open_websocket(
                options.url,
                headers=[*self._headers, *headers],
                origin=origin,
                subprotocols=options.subprotocol,
                proxy=options.proxy,
                unix_socket=options.unix_socket,
                compression=compression,
                open_timeout=_UPGRADE,
                ping_interval=None,  # only the server sends Pings
                close_timeout=_CLOSE,
            )
        except OSError as problem:  # first: an SSLCertVerificationError is a ValueError, too
            error = problem
        except ValueError as problem:
            raise UsageError(str(problem)) from problem
        return _Attempt(ws, error, monotonic() - started)

    def _fails(self, **changes: Any) -> bool:  # Any: the arguments of _upgrade()
        """Whether an upgrade with these headers fails."""
        ws = self._upgrade(**changes).ws
        if ws is not None:
            ws.close()
        return ws is None

    # ------------------------------------------------- browsers alone are refused

    def _note_refused_header(self) -> None:
        """Find out which header of browsers is refused, and which Origin is accepted."""
        requests: dict[str, Keywords] = {
            "Origin": {"origin": self._facts.origin},
            "Sec-WebSocket-Extensions": {"compression": _DEFLATE},
            "User-Agent": {"headers": self._browser},
        }
        refused = next((name for name, request in requests.items() if self._fails(**request)), "")
        self._note(refused_header=refused)
        if refused == "Origin" and self._facts.origin == self._facts.own_origin:
            accepted = (each for each in self._similar_origins() if not self._fails(origin=each))
            self._note(accepted_origin=next(accepted, ""))

    def _similar_origins(self) -> list[str]:
        """The origins of a server that does not know its port, or does not know about TLS."""
        scheme, _, host = self._facts.own_origin.partition("://")
        schemes = (scheme, "http" if scheme == "https" else "https")
        hosts = (host, re.sub(r":[0-9]+\Z", "", host))
        origins = dict.fromkeys(f"{scheme}://{host}" for host in hosts for scheme in schemes)
        return list(origins)[1:]

    # ------------------------------------------------------------ further requests

    @contextmanager
    def _connected(self, target: Target) -> Iterator[socket]:
        """Connect for a ``with`` block.

        :raises ValueError: if the proxy cannot be used for this target.
        :raises OSError: if it fails or takes too long.
        """
        with time_limit(_QUESTION):
            sock = self._route.open(target, self._route.proxy_for(target))
            try:
                yield sock
            finally:
                sock.close()

    def _ask(self, target: Target, head: bytes) -> client_handshake.Response | None:
        """Send a request, and return the head of the response; ``None`` without one."""
        try:
            with self._connected(target) as sock:
                sock.sendall(head)
                return read_response(sock)[0]
        except (OSError, ValueError):
            return None

    def _head(self) -> bytes:
        return client_handshake.request_head(
            self._target,
            client_handshake.new_key(),
            subprotocols=self._options.subprotocol,
            origin=self._facts.origin,
            compression=_DEFLATE,
            headers=[*self._headers, *self._browser],
        )

    def _reads_extensions(self) -> bool:
        """Whether a server refuses a malformed header Sec-WebSocket-Extensions."""
        response = self._ask(self._target, self._head().replace(offer(_DEFLATE).encode(), b"="))
        return response is None or response.code != 101

    def _reads_upgrade(self) -> bool:
        """Whether a server answers to an unknown version as RFC 6455 section 4.4 says."""
        known, unknown = b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 255"
        response = self._ask(self._target, self._head().replace(known, unknown))
        return response is not None and response.get("Sec-WebSocket-Version") != ""

    def _note_failure(self, error: OSError | None) -> None:
        """Find out what answers instead of a WebSocket server."""
        if isinstance(error, HandshakeError) and error.status_code not in {0, 400}:
            self._note(reads_upgrade=self._reads_upgrade())
        elif self._connects(self._target._replace(secure=False)):
            self._note(
                is_reachable=True,
                is_other_scheme=self._is_other_scheme(),
                reads_upgrade=self._reads_upgrade(),
            )

    def _connects(self, target: Target) -> bool:
        """Whether a connection can be opened, with TLS if the target asks for it."""
        try:
            with self._connected(target):
                return True
        except SSLCertVerificationError:
            return True
        except (OSError, ValueError):
            return False

    def _is_other_scheme(self) -> bool:
        """Whether the port speaks TLS in spite of ws://, or HTTP without TLS in spite of wss://."""
        if not self._target.secure:
            return self._connects(self._target._replace(secure=True))
        # Without the headers of the command line and the path: they may be confidential.
        target = self._target._replace(secure=False, resource="/", userinfo="")
        head = client_handshake.request_head(target, client_handshake.new_key())
        response = self._ask(target, head)
        # Many servers answer 400 if a port for TLS gets a request without it.
        return response is not None and response.code != 400

    # ------------------------------------------------------------- an open WebSocket

    def _watch(self, ws: ClientWebSocket, seconds_to_open: float) -> None:
        """Send a Ping, wait in silence, and close the WebSocket."""
        reader = spawn(_discard_messages, ws)
        pinged = monotonic()
        try:
            ws.ping()
        except ConnectionClosed:
            pass  # the close code shows it
        while ws.latency is None and not reader.dead and monotonic() < pinged + _PONG:
            reader.join(_INTERVAL)
        if self._options.idle and ws.latency is not None and not reader.dead:
            print(f"Waiting for {self._options.idle:g} seconds ...", file=sys.stderr, flush=True)
        silent = monotonic()
        if ws.latency is not None:
            reader.join(self._options.idle)
        self._note(
            extensions=ws.extensions,
            seconds_to_open=seconds_to_open,
            seconds_to_pong=ws.latency,
            silence=monotonic() - silent,
            close_code=ws.close_code,
            close_reason=ws.close_reason,
        )
        ws.close()
        reader.join()


def _discard_messages(ws: ClientWebSocket) -> None:
    while ws.receive() is not None:
        pass
