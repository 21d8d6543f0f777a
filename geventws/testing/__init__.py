"""Test views with the real handler, without a port or a thread::

    from geventws.testing import connect

    def test_echo():
        with connect(app, "/echo") as ws:
            ws.send("hello")
            assert ws.receive() == "hello"

:mod:`.broadcast` has the tests that every broadcast backend must pass; only it needs pytest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from gevent import socket
from gevent.timeout import Timeout

from ..client.client import ClientWebSocket, open_on, options_for
from ..exceptions import ConnectionClosed, HandshakeError
from ..options import Options
from ..protocol.urls import Target, parse_url
from ..server.configuration import application_options
from ..server.exchange import WEBSOCKET
from ..server.server import WebSocketServer
from ..typing import Application, Environ, HeaderPairs, Keywords, Message, StartResponse

if TYPE_CHECKING:
    from gevent import Greenlet

#: The client's address in the environ.
_ADDRESS = ("127.0.0.1", 50000)


def connect(
    app: Application,
    path: str = "/",
    *,
    headers: Mapping[str, str] | HeaderPairs = (),
    cookies: Mapping[str, str] | None = None,
    origin: str | None = None,
    subprotocols: Sequence[str] = (),
    host: str = "localhost",
    timeout: float = 5.0,
    raise_app_exceptions: bool = True,
    **options: Any,
) -> TestedWebSocket:
    """Open a WebSocket to a WSGI application; return the client's side.

    The application runs in the handler of :class:`geventws.WebSocketServer`, at the other end of a
    socket pair, in another greenlet of this thread. Blocks until the WebSocket is open.

    :param app: the WSGI application.
    :param path: the path and the query.
    :param headers: additional request headers, a mapping or pairs.
    :param cookies: names and values for the Cookie header.
    :param origin: the Origin header; ``"http://localhost"`` is the same origin.
    :param subprotocols: the subprotocols that the client offers, the preferred one first. The
        server's option of the same name cannot be set here: the application calls
        ``ws.accept(subprotocol=…)``.
    :param host: the Host header.
    :param timeout: the maximum number of seconds for each operation: the opening handshake, a
        ``receive()``, the end of the view.
    :param raise_app_exceptions: raise exceptions of the application here, instead of the HTTP
        status 500 or the close code 1011 that a client gets.
    :param options: the options of :class:`geventws.WebSocketServer`.
    :raises HandshakeError: if the application answers with an HTTP response. The exception has
        ``status``, ``headers`` and ``body``.
    :raises TimeoutError: if the WebSocket is not open in time.
    :raises ValueError: if the path does not begin with a slash.
    """
    if not path.startswith("/"):
        raise ValueError(f"the path {path!r} does not begin with a slash")
    target = parse_url(f"ws://{host}{path}")
    if cookies:
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
        headers = [*pairs, ("Cookie", cookie)]
    run = _Run(app, raise_app_exceptions, options)
    timeouts = {"close_timeout": timeout, "send_timeout": timeout}
    ws = TestedWebSocket(options_for(subprotocols, timeouts), target, run, timeout)
    try:
        return open_on(run.start(), ws, headers, origin, timeout)
    except HandshakeError:
        run.raise_failure()
        raise


class TestedWebSocket(ClientWebSocket):
    """The client's side of a WebSocket to a view under test.

    No operation blocks longer than the ``timeout`` of :func:`connect`. The end of the ``with``
    block closes the WebSocket with 1000 and waits for the end of the view.
    """

    __test__ = False  # for pytest: this class is not a test
    __slots__ = ("_run", "_timeout")

    def __init__(self, options: Options, target: Target, run: _Run, timeout: float) -> None:
        super().__init__(options, target)
        self._run = run
        self._timeout = timeout

    def receive(self, timeout: float | None = None) -> Message | None:
        """Return the next message, or ``None`` after the view has closed the WebSocket.

        Raises the exception of the application, if there is one. See :class:`geventws.WebSocket`.

        :raises TimeoutError: after ``timeout`` seconds, by default the ``timeout`` of
            :func:`connect`.
        """
        limit = self._timeout if timeout is None else timeout
        with Timeout(limit, TimeoutError(f"no message within {limit} seconds")):
            message = super().receive()
        if message is None:
            self._run.raise_failure()
        return message

    def wait_closed(self, timeout: float | None = None) -> bool:
        """As :meth:`geventws.WebSocket.wait_closed`, by default with the ``timeout`` of
        :func:`connect`.
        """
        return super().wait_closed(self._timeout if timeout is None else timeout)

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        message = None if self._end_reported else self.receive()
        if message is None:
            raise self._end_of_iteration()
        return message

    def __exit__(self, *exc_info: object) -> None:
        self.close()
        if exc_info[0] is None:
            self._run.join(self._timeout)
            self._run.raise_failure()


class _Run:
    """One request to an application on a socket pair."""

    def __init__(self, app: Application, raises: bool, options: Keywords) -> None:
        self._app = app
        self._raises = raises
        self._failure: Exception | None = None
        self._greenlet: Greenlet[..., None]
        settings: Keywords = {
            "log": None,
            "environ": {"SERVER_NAME": "localhost", "SERVER_PORT": "80"},
        }
        self._server = WebSocketServer(_ADDRESS, self, **{**settings, **options})
        self._server.update_environ()

    def start(self) -> socket.socket:
        """Start the handler in a greenlet; return the client's socket."""
        client, server = socket.socketpair()
        self._greenlet = gevent.spawn(self._serve, server)
        return client

    def _serve(self, sock: socket.socket) -> None:
        try:
            self._server.handle(sock, _ADDRESS)  # type: ignore[arg-type] # typeshed: only unix
        finally:
            sock.close()

    def geventws_options(self) -> Keywords:
        """Return the options that the application asks for."""
        return application_options(self._app)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        ws = environ[WEBSOCKET]
        ws._callback_failed = partial(self._note_failure, ws._callback_failed)
        try:
            result = self._app(environ, start_response)
        except ConnectionClosed:
            raise  # a normal end of a view
        except Exception as failure:
            self._failure = failure
            raise
        return result if hasattr(result, "__len__") else self._watch(result)

    def _note_failure(
        self, handle: Callable[[BaseException], None], problem: BaseException
    ) -> None:
        """A callback of a detached WebSocket has raised an exception."""
        if isinstance(problem, Exception) and not isinstance(problem, ConnectionClosed):
            self._failure = problem
        handle(problem)

    def _watch(self, result: Iterable[bytes]) -> Iterator[bytes]:
        """Iterate over the body: the view may be a generator, which runs only here."""
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
        """Wait for the end of the view and of its callbacks, at most ``timeout`` seconds.

        :raises TimeoutError: if they have not ended; they are killed.
        """
        deadline = monotonic() + timeout
        self._greenlet.join(timeout)
        if not self._greenlet.dead:
            self._greenlet.kill()
            raise TimeoutError(f"the view has not ended within {timeout} seconds")
        if not self._server.websockets.wait_until_empty(deadline - monotonic()):
            self._server.websockets.kill()
            raise TimeoutError(f"the callbacks have not ended within {timeout} seconds")

    def raise_failure(self) -> None:
        """Raise the exception of the application once, if ``raise_app_exceptions`` is true."""
        failure, self._failure = self._failure, None
        if failure is not None and self._raises:
            raise failure
