"""The server: gevent's own, with WebSockets."""
from __future__ import annotations

from ssl import PROTOCOL_TLS_SERVER
from typing import Any

from gevent import Greenlet, spawn
from gevent.pool import Group
from gevent.pywsgi import WSGIServer
from gevent.ssl import SSLContext

from .frames import CloseCode
from .handler import WebSocketHandler
from .middleware import Application
from .options import Options
from .websocket import WebSocket

#: What gevent's server takes beside a certificate; whoever knows these wants them as they are.
_OTHER_TLS_OPTIONS = {"ssl_context", "ssl_version", "cert_reqs", "ca_certs", "ciphers"}


class _Greenlet(Greenlet):  # type: ignore[type-arg] # generic for the type checker only
    """Does not keep where it was spawned: that is the same place for all connections."""

    spawning_stack_limit = 0


def _spawn(_run: Any, handle: Any, close: Any, arguments: tuple[Any, Any]) -> _Greenlet:
    """Spawn the handler of a connection as gevent does, for 1 KiB less."""
    return _Greenlet.spawn(_handle, handle, close, *arguments)


def _handle(handle: Any, close: Any, sock: Any, address: Any) -> None:
    # gevent calls with a star. That goes by way of C, and what is on the C stack is saved in a
    # copy for every greenlet that waits.
    try:
        handle(sock, address)
    finally:
        close(sock, address)


class WebSocketServer(WSGIServer):
    """A :class:`gevent.pywsgi.WSGIServer` whose application also gets WebSockets::

        WebSocketServer(("127.0.0.1", 8000), application).serve_forever()

    :param listener: an address, a ``host:port`` string or a listening socket, as for gevent.
    :param application: any WSGI application; it finds its :class:`~geventws.WebSocket` in
        ``environ["wsgi.websocket"]``.
    :param options: those of :class:`geventws.options.Options`, beside those of gevent's server
        (``log``, ``spawn``, ``backlog``, ``certfile``, ``keyfile``, ``ssl_context``, ...).
    """

    handler_class = WebSocketHandler

    def __init__(self, listener: Any, application: Application, **options: Any) -> None:
        chosen = Options.take_from(options)
        if "certfile" in options and options.keys().isdisjoint(_OTHER_TLS_OPTIONS):
            # The context that gevent makes from a bare certificate is of a deprecated kind.
            context = SSLContext(PROTOCOL_TLS_SERVER)
            context.load_cert_chain(options.pop("certfile"), options.pop("keyfile", None))
            options["ssl_context"] = context
        #: False spares the handler the formatting of lines that nobody reads.
        self.logs_requests = options.get("log", "default") is not None
        options.setdefault("spawn", _spawn)
        super().__init__(listener, application, **options)
        #: The options of every connection.
        self.websocket_options = Options.of(self.handler_class, chosen)
        #: The WebSockets that views are busy with.
        self.websockets: set[WebSocket] = set()

    def stop(self, timeout: float | None = None) -> None:
        """Stop accepting, close every WebSocket with 1001, and wait for their views to end.

        :param timeout: how many seconds all of that may take; by default ``stop_timeout``, one
            second. What is left then is dropped.
        """
        self.close()
        timeout = self.stop_timeout if timeout is None else timeout
        close_all(self.websockets, timeout)
        super().stop(timeout)


def close_all(websockets: set[WebSocket], timeout: float) -> None:
    """Close them side by side with 1001 (going away); drop those that do not answer in time."""
    closing = Group()
    for ws in list(websockets):
        if ws._opened:
            closing.start(spawn(ws.close, CloseCode.GOING_AWAY))
    closing.join(timeout)
    closing.kill()
