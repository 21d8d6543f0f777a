"""Test views without a port, without a thread, with the real handler::

from geventws.testing import connect

def test_echo():
    with connect(app, "/echo") as ws:
        ws.send("hello")
        assert ws.receive() == "hello"
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import gevent
from gevent import socket
from gevent.timeout import Timeout

from .client.client import ClientWebSocket, open_on, options_for
from .exceptions import ConnectionClosed, HandshakeError
from .options import Options
from .protocol.urls import Target, parse_url
from .server.configuration import application_options
from .server.server import WebSocketServer
from .typing import Application, Environ, StartResponse

#: Who the view sees as its client.
_ADDRESS = ("127.0.0.1", 50000)


def connect(
    app: Application,
    path: str = "/",
    *,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    cookies: Mapping[str, str] | None = None,
    origin: str | None = None,
    subprotocols: Sequence[str] = (),
    host: str = "localhost",
    timeout: float = 5.0,
    raise_app_exceptions: bool = True,
    **options: Any,
) -> TestedWebSocket:
    """Open a WebSocket to a WSGI application; returns the client's side.

    The application runs in :class:`geventws.WebSocketServer`'s own handler, on the other end of a
    socket pair, in a greenlet of this thread.

    :param path: the path and the query.
    :param headers: more headers of the request, a mapping or pairs.
    :param cookies: names and values for the header Cookie.
    :param origin: the header Origin; ``"http://localhost"`` is the application's own.
    :param subprotocols: what is offered, the preferred one first. What the *server* speaks, its
        option of the same name, is for the application to say: ``ws.accept(subprotocol=…)``.
    :param host: the header Host.
    :param timeout: how many seconds anything here may take: the opening, a ``receive()``, the end
        of the view.
    :param raise_app_exceptions: raise here what the application raises, in place of the HTTP
        status 500 or the close code 1011 that a client gets.
    :param options: those of :class:`geventws.WebSocketServer`.
    :raises HandshakeError: when the application answers with HTTP; it has ``status``, ``headers``
        and ``body``.
    :raises TimeoutError: when nothing comes in time.
    """
    if not path.startswith("/"):
        raise ValueError(f"the path {path!r} does not begin with a slash")
    target = parse_url(f"ws://{host}{path}")
    if cookies:
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
        headers = [*pairs, ("Cookie", cookie)]
    run = _Run(app, raise_app_exceptions, options)
    patience = {"close_timeout": timeout, "send_timeout": timeout}
    ws = TestedWebSocket(options_for(subprotocols, patience), target, run, timeout)
    try:
        return open_on(run.start(), ws, headers, origin, timeout)
    except HandshakeError:
        run.raise_failure()
        raise


class TestedWebSocket(ClientWebSocket):
    """The client's side of a WebSocket to a view under test.

    No wait is longer than the ``timeout`` of :func:`connect`. Leaving the ``with`` block closes it
    with 1000 and waits for the view to end.
    """

    __test__ = False  # for pytest
    __slots__ = ("_patience", "_run")

    def __init__(self, options: Options, target: Target, run: _Run, patience: float) -> None:
        super().__init__(options, target)
        self._run = run
        self._patience = patience

    def receive(self, timeout: float | None = None) -> str | bytes | None:
        """The next message, or None when the view has closed; see :class:`geventws.WebSocket`.

        :raises TimeoutError: after ``timeout`` seconds, by default those of :func:`connect`.
        """
        patience = self._patience if timeout is None else timeout
        with Timeout(patience, TimeoutError(f"no message within {patience} seconds")):
            message = super().receive()
        if message is None:
            self._run.raise_failure()
        return message

    def __iter__(self) -> Iterator[str | bytes]:
        while not self._end_reported and (message := self.receive()) is not None:
            yield message

    def __exit__(self, *exc_info: object) -> None:
        self.close()
        if exc_info[0] is None:
            self._run.join(self._patience)
            self._run.raise_failure()


class _Run:
    """An application that answers one request on a socket pair."""

    def __init__(self, app: Application, raises: bool, options: dict[str, Any]) -> None:
        self._app = app
        self._raises = raises
        self._failure: Exception | None = None
        self._greenlet: Any = None
        settings = {"log": None, "environ": {"SERVER_NAME": "localhost", "SERVER_PORT": "80"}}
        self._server = WebSocketServer(_ADDRESS, self, **{**settings, **options})
        self._server.update_environ()

    def start(self) -> Any:
        """Begin; returns the client's socket."""
        ours, theirs = socket.socketpair()
        self._greenlet = gevent.spawn(self._serve, theirs)
        return ours

    def _serve(self, sock: Any) -> None:
        try:
            self._server.handle(sock, _ADDRESS)  # type: ignore[arg-type] # typeshed: only unix
        finally:
            sock.close()

    def geventws_options(self) -> dict[str, Any]:
        """The application's own."""
        return application_options(self._app)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            result = self._app(environ, start_response)
        except ConnectionClosed:
            raise  # a normal end
        except Exception as failure:
            self._failure = failure
            raise
        return result if hasattr(result, "__len__") else self._watch(result)

    def _watch(self, result: Iterable[bytes]) -> Iterator[bytes]:
        """A view may be a generator: it fails only here."""
        try:
            yield from result
        except ConnectionClosed:
            raise
        except Exception as failure:
            self._failure = failure
            raise
        finally:
            if hasattr(result, "close"):
                result.close()

    def join(self, timeout: float) -> None:
        """Wait for the view to end.

        :raises TimeoutError: when it does not; it has been killed then.
        """
        self._greenlet.join(timeout)
        if not self._greenlet.dead:
            self._greenlet.kill()
            raise TimeoutError(f"the view has not ended within {timeout} seconds")

    def raise_failure(self) -> None:
        """Raise what the application raised, once, unless that is not wanted."""
        failure, self._failure = self._failure, None
        if failure is not None and self._raises:
            raise failure
