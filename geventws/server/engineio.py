"""The driver for Engine.IO, which is the transport of Socket.IO; see :mod:`geventws.engineio`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from types import ModuleType

from ..typing import Environ, StartResponse
from .engineio_driver import DRIVER, WebSocketWSGI
from .middleware import WebSocketMiddleware

#: The module that the driver imports without gevent-websocket. It needs simple-websocket, and is
#: replaced.
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
        driver = importlib.import_module(DRIVER)
    except ImportError:
        _replace_fallback()
        driver = importlib.import_module(DRIVER)
    driver._async["websocket"] = WebSocketAnywhere


def install_if_present() -> None:
    """Serve an application that imports python-engineio later, on a server of geventws.

    Importing it here would take half a second. The driver of gevent-websocket is replaced by
    :func:`.engineio_driver.use_if_imported`.
    """
    if importlib.util.find_spec("engineio") is not None and _FALLBACK not in sys.modules:
        _replace_fallback()


def _replace_fallback() -> None:
    fallback = ModuleType(_FALLBACK)
    fallback.SimpleWebSocketWSGI = WebSocketAnywhere  # type: ignore[attr-defined]
    sys.modules[_FALLBACK] = fallback


class WebSocketAnywhere(WebSocketWSGI):
    """Engine.IO's interface to a WebSocket, on every server with gevent."""

    def serve_elsewhere(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        # Engine.IO has checked the Origin header.
        return WebSocketMiddleware(self, allowed_origins="*")(environ, start_response)
