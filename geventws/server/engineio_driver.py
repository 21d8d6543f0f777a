"""Engine.IO's interface to a WebSocket on the servers of geventws; see :mod:`geventws.engineio`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from ..typing import Environ, Message, StartResponse

#: The module of Engine.IO for ``async_mode="gevent"``.
DRIVER = "engineio.async_drivers.gevent"
#: The key of the environ; :mod:`.exchange` sets it.
_WEBSOCKET = "wsgi.websocket"


def use_if_imported() -> None:
    """Make Engine.IO's gevent driver use geventws, if the application has imported it.

    Engine.IO looks up the interface for each WebSocket: this may be called at any time.
    """
    driver = sys.modules.get(DRIVER)
    if driver is not None and not driver._async["websocket"].__module__.startswith("geventws."):
        driver._async["websocket"] = WebSocketWSGI


class WebSocketWSGI:
    """Engine.IO's interface to a WebSocket; one object for each connection."""

    # An attribute must not have the name `socket` or `_sock`: Engine.IO would set a timeout on it.

    # Any: python-engineio is not annotated.
    def __init__(self, handler: Callable[[WebSocketWSGI], Iterable[bytes]], server: Any) -> None:
        self._handler = handler
        self._max_size = int(server.max_http_buffer_size)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if _WEBSOCKET not in environ:
            return self.serve_elsewhere(environ, start_response)
        self._ws = ws = environ[_WEBSOCKET]
        ws._allow_messages_of(self._max_size)  # the size that Engine.IO announces to clients
        return self._handler(self)

    def serve_elsewhere(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request to another server."""
        raise RuntimeError(
            "call geventws.engineio.install() at the beginning of the program: this request did not"
            " reach the application through a server of geventws"
        )

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
