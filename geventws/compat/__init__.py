"""The names of gevent-websocket 0.10.1, for code that was written for it.

Call this before anything imports ``geventwebsocket``::

    from geventws.compat import install_as_geventwebsocket

    install_as_geventwebsocket()

New code should use :mod:`geventws` directly: with this package, the ``101`` is sent before the
application runs, and a view cannot refuse the WebSocket.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from ..options import Options
from . import (
    exceptions,
    gunicorn,
    handler,
    logs,
    names,
    protocols,
    python,
    resource,
    server,
    utf8validator,
    websocket,
)

__all__ = ["install_as_geventwebsocket"]

#: The modules of gevent-websocket, and the modules of this package with their names.
_MODULES = {
    "geventwebsocket": names,
    "geventwebsocket._compat": python,
    "geventwebsocket.exceptions": exceptions,
    "geventwebsocket.gunicorn": gunicorn,
    "geventwebsocket.gunicorn.workers": gunicorn,
    "geventwebsocket.handler": handler,
    "geventwebsocket.logging": logs,
    "geventwebsocket.protocols": protocols,
    "geventwebsocket.protocols.base": protocols,
    "geventwebsocket.protocols.wamp": protocols,
    "geventwebsocket.resource": resource,
    "geventwebsocket.server": server,
    "geventwebsocket.utf8validator": utf8validator,
    "geventwebsocket.utils": names,
    "geventwebsocket.websocket": websocket,
}


def install_as_geventwebsocket(*, replace_installed: bool = False, **options: Any) -> None:
    """Make ``import geventwebsocket`` import geventws, with all modules of gevent-websocket.

    :param replace_installed: whether to hide an installed gevent-websocket.
    :param options: the options of :class:`geventws.options.Options`, for all handlers. The default
        of ``allowed_origins`` refuses pages of other origins; gevent-websocket accepted them.
    :raises RuntimeError: if gevent-websocket is installed or imported, without
        ``replace_installed``.
    :raises TypeError: for an unknown option, or an option of the wrong type.
    :raises ValueError: for an option out of range.
    """
    loaded = sys.modules.get("geventwebsocket")
    if (
        loaded is not names
        and not replace_installed
        and (loaded is not None or importlib.util.find_spec("geventwebsocket") is not None)
    ):
        raise RuntimeError(
            "gevent-websocket is installed or imported, and geventws would hide it: uninstall it,"
            " or call install_as_geventwebsocket(replace_installed=True) before anything imports it"
        )
    Options(**options)  # raises an exception for an invalid option
    for name, value in options.items():
        setattr(handler.WebSocketHandler, name, value)
    sys.modules.update(_MODULES)
    for name, module in _MODULES.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(_MODULES[parent], child, module)
