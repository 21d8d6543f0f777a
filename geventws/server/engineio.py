"""Socket.IO: python-socketio and Flask-SocketIO on geventws, with ``async_mode="gevent"``.

``geventws.Worker`` and ``python -m geventws`` do this by themselves; elsewhere, before or after the
Socket.IO server is made::

    import geventws.engineio

    geventws.engineio.install()
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from ..typing import Environ, StartResponse
from .exchange import WEBSOCKET
from .middleware import WebSocketMiddleware

_DRIVER = "engineio.async_drivers.gevent"
#: What the driver imports if there is no gevent-websocket, and what needs simple-websocket.
_FALLBACK = "engineio.async_drivers._websocket_wsgi"


def install() -> None:
    """Make Engine.IO's gevent driver use geventws, whatever else is installed.

    Neither gevent-websocket nor simple-websocket is needed. Works under every server on gevent,
    ``socketio.run(app)`` included. There Engine.IO alone decides who may connect
    (``cors_allowed_origins``); under ``geventws``' own servers ``allowed_origins`` must agree.

    :raises ImportError: when python-engineio is not installed.
    """
    try:
        driver = importlib.import_module(_DRIVER)
    except ImportError:
        fallback: Any = ModuleType(_FALLBACK)
        fallback.SimpleWebSocketWSGI = WebSocketWSGI
        sys.modules[_FALLBACK] = fallback
        driver = importlib.import_module(_DRIVER)
    driver._async["websocket"] = WebSocketWSGI


def install_if_present() -> None:
    """:func:`install`, unless python-engineio is not there."""
    if importlib.util.find_spec("engineio") is not None:
        install()


class WebSocketWSGI:
    """What Engine.IO wants of a WebSocket; one for each connection."""

    # No attribute may be called `socket` or `_sock`: Engine.IO would set a timeout on it.

    def __init__(self, handler: Callable[[WebSocketWSGI], Iterable[bytes]], server: Any) -> None:
        self._handler = handler
        self._max_size = int(server.max_http_buffer_size)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if WEBSOCKET not in environ:
            # A server that knows nothing of geventws. Engine.IO has checked the Origin.
            middleware = WebSocketMiddleware(self, allowed_origins="*")
            return middleware(environ, start_response)
        self._ws = ws = environ[WEBSOCKET]
        ws._allow_messages_of(self._max_size)  # Engine.IO has announced this size to the client
        return self._handler(self)

    def send(self, message: str | bytes) -> None:
        """Send one packet."""
        self._ws.send(message)

    def wait(self) -> str | bytes | None:
        """The next packet; None when the connection has ended."""
        message: str | bytes | None = self._ws.receive()
        return message

    def close(self) -> None:
        """End the connection."""
        self._ws.close()
