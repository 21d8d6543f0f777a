"""The WebSocket that a view finds in ``environ["wsgi.websocket"]``."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from gevent import GreenletExit, getcurrent, spawn
from gevent.event import Event

from ..connection.connection import Connection
from ..connection.greenlets import check_function
from ..connection.hub import hub_state
from ..connection.logs import connections, logger, name_of_peer, peers, printable
from ..connection.threads import call_in_hub, get_ident
from ..exceptions import ConnectionClosed, WebSocketError
from ..protocol import server_handshake as handshake
from ..protocol.frames import CloseCode
from ..protocol.headers import pairs_of
from ..protocol.permessage_deflate import Deflate
from ..protocol.state import State
from .adapters import MiddlewareError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from ..connection.counters import Totals
    from ..options import Options
    from ..typing import Environ, HeaderPairs
    from .adapters import Adapter
_PENDING = State.PENDING
_CLOSED = State.CLOSED


class _Request(NamedTuple):
    """What stays of the request of a detached WebSocket."""

    address: str
    port: str
    origin: str
    path: str

    @classmethod
    def of(cls, environ: Environ | str) -> _Request:
        """Read the environ, or what :meth:`pack` has returned."""
        if isinstance(environ, str):
            return cls(*environ.split("\n", 3))
        names = ("REMOTE_ADDR", "REMOTE_PORT", "HTTP_ORIGIN", "PATH_INFO")
        return cls(*(str(environ.get(name, "")) for name in names))

    def pack(self) -> str:
        """Return all in one string: separate ones would take three times the memory."""
        return "\n".join(self)  # only the path, the last one, may have line feeds


class Registry(Protocol):
    """The open WebSockets of a server."""

    def discard(self, ws: WebSocket, /) -> None:
        """Remove a WebSocket that has ended."""

    def forget(self, ws: WebSocket, /) -> None:
        """Remove a WebSocket of the parent process, after a fork."""


class WebSocket(Connection):
    """One connection with a browser or another client, in plain blocking style::

        for message in ws:
            ws.send(message)

    The opening handshake waits for the view. The ``101`` is sent by the first :meth:`accept`,
    :meth:`receive`, :meth:`send`, :meth:`ping`, :meth:`close` or iteration. Until then the view may
    answer with HTTP, for instance with a 401 or a redirect. When the view has done neither for
    ``accept_after`` seconds, the ``101`` is sent automatically; a later refusal closes the
    WebSocket with 1008.

    Any number of greenlets may send; one at a time may receive. "Blocks" means that the greenlet
    waits and others run. :meth:`accept`, :meth:`send`, :meth:`ping` and :meth:`close` may be called
    in any thread, such as one of ``gevent.get_hub().threadpool`` or of a scheduler; there they
    block the thread. All other methods must be called in the thread of the view.
    """

    __slots__ = (
        "__dict__",
        "_accepted_late",
        "_accepting",
        "_adapter",
        "_around",
        "_environ",
        "_headers_hook",
        "_keeps_environ",
        "_refusal",
        "_registry",
        "_view",
    )

    #: The time at which the opening was logged; None if it was not. A slot would take memory.
    _opened_at: float | None = None

    def __init__(
        self, environ: Environ, adapter: Adapter, options: Options, totals: Totals
    ) -> None:
        super().__init__(options, client=False, totals=totals)
        #: The environ, or a packed _Request.
        self._environ: Environ | str = environ
        self._keeps_environ = True
        #: The server's side of the request, until the 101.
        self._adapter: Any = adapter
        #: The HTTP status of a view that has refused.
        self._refusal = ""
        #: True while a greenlet sends the 101, or the Event that others wait for meanwhile.
        self._accepting: Any = False
        #: Whether the 101 was sent because of accept_after; None when the view has called accept()
        #: since.
        self._accepted_late: bool | None = False
        #: The greenlet of the view, until the view has ended.
        self._view: Any = getcurrent()
        self._headers_hook: Callable[[], HeaderPairs] | None = None
        #: Returns a context manager for each callback.
        self._around: Callable[[], AbstractContextManager[object]] | None = None
        #: The WebSockets of the server; set when the view of a detached WebSocket has ended.
        self._registry: Registry | None = None

    def __repr__(self) -> str:
        state = self._endpoint.state.name.lower()
        if self._endpoint.state is _PENDING:
            state = "not accepted yet"
        elif self._refusal:
            state = "refused"
        return f"<{type(self).__name__} {self.path} {state}>"

    # -------------------------------------------------------------- handshake

    def accept(
        self,
        subprotocol: str | None = None,
        headers: Mapping[str, str] | HeaderPairs = (),
        *,
        compression: bool | Deflate | None = None,
    ) -> None:
        """Send the ``101``, which opens the WebSocket (RFC 6455 section 4.2.2).

        :param subprotocol: one of :attr:`requested_subprotocols`; by default the first of the
            ``subprotocols`` option that the client offers, or none.
        :param headers: more headers for the ``101``, a mapping or pairs such as
            ``[("Set-Cookie", "seen=1")]``.
        :param compression: overrides the ``compression`` option for this connection.
        :raises TypeError: if the name or the value of a header is not a str.
        :raises ValueError: for a subprotocol that was not offered or a header that cannot be sent.
        :raises WebSocketError: if the view has already accepted, or has answered with HTTP.
        :raises ConnectionClosed: if the client has disconnected.
        """
        if get_ident() != self._thread:
            call_in_hub(
                self._hub,
                functools.partial(self.accept, subprotocol, headers, compression=compression),
            )
            return
        self._wait_while_accepting()
        fields = pairs_of(headers) if headers else []
        if self._accepted_late is True:
            self._accepted_late = None
            if fields or subprotocol not in {None, self._subprotocol}:
                self._warn(
                    "The view of %s called accept() with headers or a subprotocol after its"
                    " WebSocket had been accepted automatically (accept_after, %g seconds). They"
                    " are not sent. Call accept() earlier, or increase accept_after"
                )
            return
        if self.accepted:
            raise WebSocketError("the WebSocket has been accepted already")
        if self._endpoint.state is not _PENDING:
            raise self._closed_error()
        self._accept(subprotocol, fields, compression)

    def _accept(
        self,
        subprotocol: str | None = None,
        headers: HeaderPairs = (),
        compression: bool | Deflate | None = None,
    ) -> None:
        self._accepting = True
        try:
            self._switch_protocols(subprotocol, headers, compression)
        finally:
            accepting, self._accepting = self._accepting, False
            if isinstance(accepting, Event):
                accepting.set()

    def _switch_protocols(
        self,
        subprotocol: str | None,
        headers: HeaderPairs,
        compression: bool | Deflate | None,
    ) -> None:
        """Send the ``101``, and take the connection over."""
        environ: Any = self._environ
        options = self._options
        if subprotocol is None and options.subprotocols:
            subprotocol = handshake.choose_subprotocol(
                self.requested_subprotocols, options.subprotocols
            )
        if compression is not None:
            options = dataclasses.replace(options, compression=compression)
        extensions, extension = handshake.choose_extension(environ, options.compression_parameters)
        if self._headers_hook is not None:
            headers = [*headers, *self._headers_hook()]
        answer = handshake.response_headers(environ, subprotocol, extensions, headers)
        if self._options.check_interval < (self._options.accept_after or 0):
            self._sweeper.remove(self)  # _start() asks for an earlier check
        try:
            sock, early = self._adapter.switch_protocols(answer)
            self._start(sock, extension, early)
        except MiddlewareError:
            raise  # nothing was sent: the server may answer 500
        except BaseException as problem:
            # A part of the 101 may have been sent: the connection is unusable.
            is_lost = isinstance(problem, OSError)
            self._refuse(lost_by_peer=is_lost)
            if is_lost:
                raise ConnectionClosed(CloseCode.ABNORMAL_CLOSURE) from problem
            raise
        # The adapter holds memory that is not needed any more.
        self._headers_hook = self._adapter = None
        self._subprotocol = subprotocol
        self._extensions = extensions
        self._log_opening()

    def _wait_while_accepting(self) -> None:
        """Block while another greenlet sends the ``101``."""
        while self._accepting:
            if not isinstance(self._accepting, Event):
                self._accepting = Event()
            self._accepting.wait()

    def _open(self) -> None:
        if self._accepting:
            self._wait_while_accepting()
        if self._endpoint.state is _PENDING:
            self._accept()

    def _closed_error(self) -> WebSocketError:
        if self._refusal:
            return WebSocketError(f"the request has been answered already: {self._refusal}")
        return super()._closed_error()

    @property
    def accepted(self) -> bool:
        """Whether the ``101`` has been sent. Reading this attribute does not send it."""
        return self._sock is not None

    # --------------------------------------------------------------- detaching

    def detach(
        self,
        on_message: Callable[[WebSocket, str | bytes], object] | None = None,
        on_close: Callable[[WebSocket], object] | None = None,
        *,
        keep_environ: bool = False,
    ) -> None:
        """Let the WebSocket stay open after the view has returned, without a greenlet.

        Sends the ``101`` if it has not been sent. When the view returns, its value is dropped, and
        the request ends as every other: the access log gets its line, and the framework cleans up.
        An exception of the view closes the WebSocket with 1011. After that, callbacks are called in
        greenlets of a pool, for one event of a connection at a time, in order. A callback may
        block, and may call every method, also :meth:`receive`. While it runs, messages wait, within
        the limits of the options. What one callback leaves behind, another one does not find: each
        has a :class:`contextvars.Context` of its own, and no timeout of another one.

        All options stay in effect. The WebSocket counts for ``max_connections``, and is closed with
        1001 when the server stops. May be called again, also in a callback, to replace the
        callbacks.

        :param on_message: called as ``on_message(ws, message)``. ``None`` drops the messages. An
            exception is logged, drops the messages behind, and closes the WebSocket with 1011,
            except for a :exc:`ConnectionClosed` of this connection.
        :param on_close: called once as ``on_close(ws)``, when the connection has ended for any
            reason, and ``on_message`` has returned for the messages before. Not called in a forked
            child process.
        :param keep_environ: whether to keep :attr:`environ`, which takes one to four KiB, after the
            end of the view. :attr:`path`, :attr:`origin` and :attr:`remote_address` always stay.
        :raises ConnectionClosed: if the client disconnected before the ``101``.
        :raises TypeError: for a callback that cannot be called, or is an ``async def`` function.
        :raises WebSocketError: if the view has answered with HTTP.
        :raises RuntimeError: in another thread than the view's.
        """
        if get_ident() != self._thread:
            raise RuntimeError("detach() must be called in the thread of the view")
        for callback in (on_message, on_close):
            if callback is not None and not callable(callback):
                raise TypeError(f"a callback must be callable, not {callback!r:.100}")
            check_function(callback)
        self._open()
        if not self.accepted:
            raise self._closed_error()
        if not self._is_detached:
            self._is_detached = self._receives = True
            self._busy = True  # until the view has ended
        self._on_message, self._on_close = self._inside(on_message), self._inside(on_close)
        self._keeps_environ = keep_environ

    def _inside(self, callback: Callable[..., object] | None) -> Callable[..., object] | None:
        """Return a callback that calls another one inside the context of the framework."""
        around = self._around
        if callback is None or around is None:
            return callback

        def call(*arguments: object) -> None:
            with around():
                callback(*arguments)

        return call

    def _leave_view(self, registry: Registry) -> None:
        """The view of a detached WebSocket has ended: callbacks take over."""
        self._registry = registry
        if not self._keeps_environ:
            self._environ = _Request.of(self._environ).pack()
        if self._on_message is None and self._on_close is None:
            self._around = None  # it may keep the environ, too
        if self._endpoint.state is not _CLOSED:
            self._release_from_server()
        self._busy = False
        self._resume_later()

    def _callback_failed(self, problem: BaseException) -> None:
        if isinstance(problem, ConnectionClosed) and self._is_over:
            return
        self._on_message = None
        if isinstance(problem, (GreenletExit, SystemExit, KeyboardInterrupt)):
            # The server is stopping, and cannot wait for the peer.
            hub_state().buffers.pool.leave(getcurrent())
            self._start_close(CloseCode.GOING_AWAY)
            self._drop()
            self._hub.handle_error(self, type(problem), problem, problem.__traceback__)
        else:
            logger.error(
                "Exception in a callback of %s [%s]",
                printable(self.path),
                self.id,
                exc_info=problem,
                extra={"connection_id": self.id},
            )
            self._start_close(CloseCode.INTERNAL_ERROR)

    def _abandon(self) -> None:
        super()._abandon()
        if self._registry is not None:
            self._registry.forget(self)

    def _finish(self) -> None:
        registry, on_close = self._registry, self._on_close
        self._registry = self._on_close = self._on_message = None
        self._is_detached, self._received = False, None
        try:
            self._log_fault()
            if on_close is not None:
                self._call_on_close(on_close)
        finally:
            if registry is not None:
                registry.discard(self)

    def _call_on_close(self, on_close: Callable[[WebSocket], object]) -> None:
        try:
            on_close(self)
        except BaseException as problem:  # noqa: BLE001 - it is logged
            self._callback_failed(problem)
        getcurrent().gr_context = None
        hub_state().buffers.leader = None  # another connection gets another greenlet

    def _log_fault(self) -> None:
        """Log why the peer was dropped, if it was."""
        if self._fault_of_peer is not None:
            peers.log(
                logging.INFO,
                "%s %s [%s]",
                name_of_peer(self.remote_address, self._sock),
                self._fault_of_peer,
                self.id,
                extra={"connection_id": self.id},
            )

    def _log_opening(self) -> None:
        if connections.isEnabledFor(logging.INFO):
            self._opened_at = monotonic()
            self._log_event("opened")

    def _log_event(self, text: str, **fields: float) -> None:
        peer, path = name_of_peer(self.remote_address, self._sock), printable(self.path)
        names = {"event": text.partition(" ")[0], "client": peer, "path": path}
        extra = {**names, **fields, "connection_id": self.id}
        connections.info("%s %s %s [%s]", peer, path, text, self.id, extra=extra)

    # ------------------------------------------------------ internal interface

    def _log_end(self, code: int) -> None:
        """Log the end of the WebSocket, if its opening was logged."""
        if self._opened_at is None:
            return
        seconds = monotonic() - self._opened_at
        received, sent = self._messages_received, self._messages_sent
        duration = f"{seconds:.0f}" if seconds >= 9.5 else f"{round(seconds, 3):.2g}"
        self._log_event(
            f"closed {code:d} after {duration} s, {received} in, {sent} out",
            code=int(code),
            seconds=round(seconds, 3),
            received=received,
            sent=sent,
        )

    def _note_response(self, status: str) -> None:
        """The view answers with HTTP. A later ``send()`` or ``receive()`` raises."""
        self._refusal = status
        self._totals.refused[int(status[:3])] += 1
        self._refuse()

    def _expect_answer(self) -> None:
        """Send the ``101`` if the view neither accepts nor refuses within ``accept_after``."""
        self._sweeper.add(self, self._options.accept_after or self._options.check_interval)

    def _allow_messages_of(self, size: int) -> None:
        """Increase ``max_message_size`` to at least ``size`` bytes."""
        limit = self._options.max_message_size
        if limit is not None and limit < size:
            self._options = dataclasses.replace(self._options, max_message_size=size)
            if self.accepted:
                self._endpoint.allow_messages_of(size)

    def _stop_expecting_answer(self) -> None:
        """Cancel the automatic acceptance: the view has set the status of a response."""
        if self._endpoint.state is _PENDING:
            self._sweeper.remove(self)

    def _warn(self, message: str, *arguments: object) -> None:
        """Log a mistake of the view; the first two arguments are the path and ``accept_after``."""
        peers.log(
            logging.WARNING,
            f"{message} [%s]",
            printable(self.path),
            self._options.accept_after,
            *arguments,
            self.id,
            extra={"connection_id": self.id},
        )

    @property
    def _waits_for_greenlet(self) -> bool:
        """Whether too many callbacks are running to call one of this WebSocket."""
        return self._busy and self._worker is None and self._registry is not None

    @property
    def _client_left(self) -> bool:
        """Whether the client was lost before the ``101``."""
        is_closed = self._endpoint.state is _CLOSED
        return is_closed and not self.accepted and not self._refusal

    @property
    def _has_ended(self) -> bool:
        """Whether the connection has ended after the ``101``, and no callback is to be called."""
        return self._endpoint.state is _CLOSED and self.accepted and not self._is_detached

    @property
    def _is_used_by_application(self) -> bool:
        """Whether another library has taken the socket from the environ, and sent its own 101."""
        return (
            self._endpoint.state is _PENDING
            and not self._accepting
            and self._adapter.is_used_by_application()
        )

    @property
    def _was_accepted_late(self) -> bool:
        """Whether the ``101`` was sent because of ``accept_after``."""
        return self._accepted_late is not False

    @property
    def _is_over(self) -> bool:
        """Whether a :exc:`ConnectionClosed` that leaves the view may be this connection's."""
        return self._client_left or (self.accepted and self._is_ending)

    # ------------------------------------------------------- automatic acceptance

    def _check(self) -> float | None:
        if self._endpoint.state is not _PENDING:
            return super()._check()
        if self._options.accept_after is None:
            return self._options.check_interval  # stays in the sweeper, for a fork
        spawn(self._accept_late)
        return None

    def _accept_late(self) -> None:
        if self._endpoint.state is not _PENDING or self._accepting:
            return
        if self._is_used_by_application:
            return
        self._warn(
            "The view of %s has neither accepted nor refused its WebSocket for %g seconds"
            " (accept_after). It is accepted automatically. Call ws.accept() earlier in the view,"
            " or increase accept_after"
        )
        try:
            self.accept()
            self._accepted_late = True
        except ConnectionClosed:
            pass  # the first use of the WebSocket raises it in the view
        except Exception:  # noqa: BLE001 - raised by a hook of the view; only the log can show it
            logger.exception("The WebSocket of %s cannot be accepted", printable(self.path))

    # ------------------------------------------------------------- the request

    @property
    def environ(self) -> Environ:
        """The WSGI environ of the request.

        :raises WebSocketError: if :meth:`detach` has dropped it.
        """
        if isinstance(self._environ, str):
            raise WebSocketError("detach() has dropped the environ; pass keep_environ=True to it")
        return self._environ

    @property
    def requested_subprotocols(self) -> list[str]:
        """The subprotocols that the client offers, in its order of preference.

        :raises WebSocketError: as :attr:`environ`.
        """
        return handshake.requested_subprotocols(self.environ)

    @property
    def origin(self) -> str | None:
        """The Origin header: the page that connects, if the client is a browser."""
        return _Request.of(self._environ).origin or None

    @property
    def path(self) -> str:
        """The path of the request, without the query."""
        return _Request.of(self._environ).path

    @property
    def remote_address(self) -> tuple[str, int] | None:
        """Address and port of the peer, as the server sees them; ``None`` for a unix socket."""
        request = _Request.of(self._environ)
        return (request.address, int(request.port or 0)) if request.address else None
