"""The WebSocket that a view finds in ``environ["wsgi.websocket"]``."""
from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable
from os import urandom
from typing import TYPE_CHECKING, Any

from gevent import getcurrent, spawn
from gevent.event import Event

from . import handshake
from .connection import Connection
from .exceptions import ConnectionClosed, WebSocketError
from .frames import CloseCode
from .logs import logger, peers, printable
from .permessage_deflate import Deflate, PerMessageDeflate
from .protocol import Protocol
from .threads import call_in_hub, get_ident

if TYPE_CHECKING:
    from .hosts import Host
    from .options import Options
    from .totals import Totals


class WebSocket(Connection):
    """One connection with a browser or another client, in plain blocking style::

        for message in ws:
            ws.send(message)

    The opening handshake waits for the view: the ``101`` goes out at the first :meth:`accept`,
    :meth:`receive`, :meth:`send`, :meth:`ping`, :meth:`close`, iteration, or look at
    :attr:`closed`. Until then the view may answer like any other, with a 401 or a redirect. When
    the view has done neither for ``accept_after`` seconds, the ``101`` goes out by itself; a
    refusal after that closes the WebSocket with 1008.

    Any number of greenlets may send; one at a time may receive. "Blocks" means that the greenlet
    waits and others run. :meth:`send`, :meth:`ping` and :meth:`close` may be called in any thread,
    such as one of ``gevent.get_hub().threadpool`` or of a scheduler; there they block the thread.
    Everything else must be called in the thread that the view runs in.
    """

    __slots__ = (
        "__dict__", "_accept_called", "_accepted_late", "_accepting", "_environ", "_extensions",
        "_host", "_id", "_left", "_more_headers", "_refused", "_subprotocol", "_view",
    )

    def __init__(
        self, environ: dict[str, Any], host: Host, options: Options, totals: Totals
    ) -> None:
        super().__init__(options, totals)
        self._environ = environ
        self._host = host
        self._subprotocol: str | None = None
        self._extensions = ""
        self._refused: str | None = None
        self._left = False
        self._id = ""
        #: True while a greenlet sends the 101, or the Event that others wait for meanwhile.
        self._accepting: Any = False
        #: Whether the 101 has been sent because the view did not answer in time; and whether the
        #: view has called accept() since.
        self._accepted_late = False
        self._accept_called = False
        #: The greenlet of the view, until it is done.
        self._view: Any = getcurrent()
        #: Asked by the 101 for headers that a framework has gathered until then: its cookies.
        self._more_headers: Callable[[], Iterable[tuple[str, str]]] | None = None

    def __repr__(self) -> str:
        if not self._opened:
            state = "refused" if self._refused else "not accepted yet"
        else:
            state = self._protocol.state.name.lower()
        return f"<{type(self).__name__} {self.path} {state}>"

    # -------------------------------------------------------------- handshake

    def accept(
        self, subprotocol: str | None = None, headers: Iterable[tuple[str, str]] = (),
        compression: bool | Deflate | None = None,
    ) -> None:
        """Send the ``101``: from here on this is a WebSocket (RFC 6455 section 4.2.2).

        :param subprotocol: one of :attr:`requested_subprotocols`; by default the first of the
            ``subprotocols`` option that the client offers, or none.
        :param headers: more headers for the ``101``, such as ``[("Set-Cookie", "seen=1")]``.
        :param compression: overrides the ``compression`` option for this connection.
        :raises ValueError: for a subprotocol that was not offered or a header that cannot be sent.
        :raises WebSocketError: when it is too late: accepted already, or answered with HTTP.
        :raises ConnectionClosed: when the client has gone meanwhile.
        """
        if get_ident() != self._thread:
            call_in_hub(self._hub, self.accept, subprotocol, headers, compression)
            return
        self._wait_while_accepting()
        headers = list(headers)
        if self._accepted_late and not self._accept_called:
            self._accept_called = True
            if headers or subprotocol not in {None, self._subprotocol}:
                peers.log(
                    logging.WARNING,
                    "The view of %s called accept() with headers or a subprotocol after its"
                    " WebSocket had been accepted (accept_after, %g seconds): they are not sent."
                    " Call it earlier, or raise accept_after [%s]",
                    printable(self.path), self._options.accept_after, self.id,
                    extra={"connection_id": self.id},
                )
            return
        if self._opened:
            raise WebSocketError("the WebSocket has been accepted already")
        if self._left:
            raise ConnectionClosed(CloseCode.ABNORMAL_CLOSURE)
        if self._refused is not None:
            raise WebSocketError(f"the request has been answered already: {self._refused}")
        self._accepting = True
        try:
            self._switch_protocols(subprotocol, headers, compression)
        finally:
            accepting, self._accepting = self._accepting, False
            if isinstance(accepting, Event):
                accepting.set()

    def _switch_protocols(
        self, subprotocol: str | None, headers: Iterable[tuple[str, str]],
        compression: bool | Deflate | None,
    ) -> None:
        """Send the ``101``, and take the connection over."""
        if subprotocol is None:
            subprotocol = handshake.choose_subprotocol(
                self.requested_subprotocols, self._options.subprotocols
            )
        options = self._options
        if compression is not None:
            options = dataclasses.replace(options, compression=compression)
        deflate = options.deflate
        extensions, agreement = handshake.choose_extension(self._environ, deflate)
        if self._more_headers is not None:
            headers = [*headers, *self._more_headers()]
        answer = handshake.response_headers(self._environ, subprotocol, extensions, headers)
        protocol = Protocol(
            max_message_size=options.max_message_size,
            deflate=PerMessageDeflate.of(agreement, deflate, client=False),
        )
        if self._options.check_interval < (self._options.accept_after or 0):
            self._sweeper.remove(self)  # _attach() asks for an earlier check
        try:
            sock, early = self._host.switch_protocols(answer)
            self._attach(sock, protocol, early)
        except BaseException as problem:
            # A part of the 101 may be out: whatever it was, there is no connection any more.
            self._refused = "the client has gone"
            self._left = True
            self._sweeper.remove(self)
            if isinstance(problem, OSError):
                raise ConnectionClosed(CloseCode.ABNORMAL_CLOSURE) from problem
            raise
        self._more_headers = None
        del self._host  # most of it is of no use any more, for hours
        self._subprotocol = subprotocol
        self._extensions = extensions

    def _wait_while_accepting(self) -> None:
        """Block while another greenlet sends the ``101``."""
        while self._accepting:
            if not isinstance(self._accepting, Event):
                self._accepting = Event()
            self._accepting.wait()

    def _open(self) -> None:
        self._wait_while_accepting()
        if not self._opened:
            self.accept()

    def _refuse(self, status: str) -> None:
        """Note that the view answers with HTTP; every later use raises."""
        self._refused = status
        self._totals.refused[int(status[:3])] += 1
        self._sweeper.remove(self)

    # ------------------------------------------------- a view that does not answer

    def _expect_answer(self) -> None:
        """Send the ``101`` if the view neither accepts nor refuses in time."""
        if self._options.accept_after is not None:
            self._sweeper.add(self, self._options.accept_after)

    def _check(self) -> float | None:
        if self._opened:
            return super()._check()
        spawn(self._accept_late)
        return None

    def _accept_late(self) -> None:
        if self._opened or self._accepting or self._refused is not None:
            return
        peers.log(
            logging.WARNING,
            "The view of %s has neither accepted nor refused its WebSocket for %g seconds"
            " (accept_after): it is accepted now. Call ws.accept() earlier in the view, or raise"
            " accept_after [%s]",
            printable(self.path), self._options.accept_after, self.id,
            extra={"connection_id": self.id},
        )
        try:
            self.accept()
            self._accepted_late = True
        except ConnectionClosed:
            pass  # the client has gone; the view learns it at its first use of the WebSocket
        except Exception:  # noqa: BLE001 - of the view's own hooks; nobody else would see it
            logger.exception("The WebSocket of %s cannot be accepted", printable(self.path))

    def _abandon(self) -> None:
        if self._opened:
            super()._abandon()

    def _drop(self) -> None:
        if not self._opened:
            self._sweeper.remove(self)
        super()._drop()

    @property
    def _is_over(self) -> bool:
        """Whether a :exc:`ConnectionClosed` that leaves a view may be this one's, a normal end."""
        return self._left or (self._opened and self._has_ended)

    @property
    def accepted(self) -> bool:
        """Whether the ``101`` has been sent; looking at it does not send it."""
        return self._opened

    # ------------------------------------------------------------- the request

    @property
    def id(self) -> str:
        """16 hexadecimal digits that no other connection has; geventws' own log shows them."""
        if not self._id:
            self._id = urandom(8).hex()
        return self._id

    @property
    def environ(self) -> dict[str, Any]:
        """The WSGI environ of the request."""
        return self._environ

    @property
    def requested_subprotocols(self) -> list[str]:
        """The subprotocols that the client offers, the preferred one first."""
        return handshake.requested_subprotocols(self._environ)

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that was agreed on in :meth:`accept`."""
        return self._subprotocol

    @property
    def extensions(self) -> str:
        """The extensions that were agreed on in :meth:`accept`: permessage-deflate or none."""
        return self._extensions

    @property
    def origin(self) -> str | None:
        """The Origin header: the page that connects, if it is a browser."""
        return self._environ.get("HTTP_ORIGIN")

    @property
    def path(self) -> str:
        """The path of the request, without the query."""
        return str(self._environ.get("PATH_INFO", ""))

    @property
    def version(self) -> str:
        """The version of the WebSocket protocol: ``"13"``."""
        return handshake.VERSION

    @property
    def remote_address(self) -> tuple[str, int] | None:
        """Address and port of the peer as the server sees it; ``None`` for a unix socket."""
        address = self._environ.get("REMOTE_ADDR")
        return (address, int(self._environ.get("REMOTE_PORT", 0))) if address else None
