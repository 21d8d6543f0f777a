"""The names of gevent-websocket 0.10.1, for code that was written for it.

Call this before anything imports ``geventwebsocket``::

    from geventws.compat import install_as_geventwebsocket

    install_as_geventwebsocket()

New code should use :mod:`geventws` directly: with this package, the ``101`` is sent before the
application runs, and a view cannot refuse the WebSocket.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ..options import Options

__all__ = ["install_as_geventwebsocket"]

#: The modules of gevent-websocket, and the modules with their names here.
_MODULES = {
    "": "geventws.compat.names",
    "_compat": "geventws.compat.python",
    "exceptions": "geventws.compat.exceptions",
    "gunicorn": "geventws.compat.python",
    "gunicorn.workers": "geventws.compat.workers",
    "handler": "geventws.compat.handler",
    "logging": "geventws.compat.logs",
    "protocols": "geventws.compat.protocols",
    "protocols.base": "geventws.compat.protocols",
    "protocols.wamp": "geventws.compat.protocols",
    "resource": "geventws.compat.resource",
    "server": "geventws.compat.server",
    "utf8validator": "geventws.compat.utf8validator",
    "utils": "geventws.compat.names",
    "websocket": "geventws.compat.websocket",
}
_PACKAGES = {"", "gunicorn", "protocols"}


class _Alias(ModuleType):
    """A module with the names of another one, which is imported on first use."""

    def __init__(self, name: str, target: str, is_package: bool) -> None:
        super().__init__(name, "geventws instead of gevent-websocket")
        self.__spec__ = ModuleSpec(name, None, is_package=is_package)
        self.__package__ = name if is_package else name.rpartition(".")[0]
        if is_package:
            self.__path__: list[str] = []
        self._geventws_target = target

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(importlib.import_module(self._geventws_target), name)
        setattr(self, name, value)
        return value


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
    from .handler import WebSocketHandler  # noqa: PLC0415 - imports gevent's server only if needed

    loaded = sys.modules.get("geventwebsocket")
    if (
        not isinstance(loaded, _Alias)
        and not replace_installed
        and (loaded is not None or importlib.util.find_spec("geventwebsocket") is not None)
    ):
        raise RuntimeError(
            "gevent-websocket is installed or imported, and geventws would hide it: uninstall it,"
            " or call install_as_geventwebsocket(replace_installed=True) before anything imports it"
        )
    Options(**options)  # raises an exception for an invalid option
    for name, value in options.items():
        setattr(WebSocketHandler, name, value)
    modules = {
        name: _Alias(f"geventwebsocket.{name}".rstrip("."), target, name in _PACKAGES)
        for name, target in _MODULES.items()
    }
    for name, module in modules.items():
        sys.modules[module.__name__] = module
        if name:
            parent, _, child = name.rpartition(".")
            setattr(modules[parent], child, module)
