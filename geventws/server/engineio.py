"""The driver for Engine.IO, which is the transport of Socket.IO; see :mod:`geventws.engineio`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from ..typing import Environ, Message, StartResponse
from .exchange import WEBSOCKET
from .middleware import WebSocketMiddleware

_DRIVER = "engineio.async_drivers.gevent"
#: The module that the driver imports without gevent-websocket. It needs simple-websocket.
_FALLBACK = "engineio.async_drivers._websocket_wsgi"


def install() -> None:
    """Make Engine.IO's gevent driver use geventws.

    gevent-websocket and simple-websocket are not needed, and are not used if they are installed.

    This works with every server on gevent, including ``socketio.run(app)``. Engine.IO checks the
    Origin header (``cors_allowed_origins``). The servers of geventws check ``allowed_origins`` as
    well.

    :raises ImportError: if python-engineio is not installed.
    """
    try:
        driver = importlib.import_module(_DRIVER)
    except ImportError:
        fallback = ModuleType(_FALLBACK)
        fallback.SimpleWebSocketWSGI = WebSocketWSGI  # type: ignore[attr-defined]
        sys.modules[_FALLBACK] = fallback
        driver = importlib.import_module(_DRIVER)
    driver._async["websocket"] = WebSocketWSGI


def install_if_present() -> None:
    """Call :func:`install` if python-engineio is installed."""
    if importlib.util.find_spec("engineio") is not None:
        install()


class WebSocketWSGI:
    """Engine.IO's interface to a WebSocket; one object for each connection."""

    # An attribute must not have the name `socket` or `_sock`: Engine.IO would set a timeout on it.

    # Any: python-engineio is not annotated.
    def __init__(self, handler: Callable[[WebSocketWSGI], Iterable[bytes]], server: Any) -> None:
        self._handler = handler
        self._max_size = int(server.max_http_buffer_size)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if WEBSOCKET not in environ:
            # The server is not one of geventws. Engine.IO has checked the Origin header.
            middleware = WebSocketMiddleware(self, allowed_origins="*")
            return middleware(environ, start_response)
        self._ws = ws = environ[WEBSOCKET]
        ws._allow_messages_of(self._max_size)  # the size that Engine.IO announces to clients
        return self._handler(self)

    def send(self, message: Message) -> None:
        """Send one packet."""
        self._ws.send(message)

    def wait(self) -> Message | None:
        """Return the next packet; ``None`` if the connection has ended."""
        message: Message | None = self._ws.receive()
        return message

    def close(self) -> None:
        """Close the connection."""
        self._ws.close()
