"""``geventwebsocket.server``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from logging import Logger
from typing import Any

from gevent.pywsgi import WSGIServer

from ..server import server as _server
from .handler import Client, WebSocketHandler
from .logs import create_logger

__all__ = ["WSGIServer", "WebSocketHandler", "WebSocketServer", "create_logger"]


class WebSocketServer(_server.WebSocketServer):
    """A server with the attribute ``clients``.

    :param debug: whether to write all log records to stderr.
    :param pre_start_hook: called with the handler of each request. If it returns a true value, a
        WebSocket request is served as a plain HTTP request.
    """

    handler_class = WebSocketHandler
    debug_log_format = f"{'-' * 80}\n%(levelname)s in %(module)s:\n%(message)s\n{'-' * 80}"

    def __init__(
        self,
        *args: Any,
        debug: bool = False,
        pre_start_hook: Callable[[WebSocketHandler], object] | None = None,
        **kwargs: Any,
    ) -> None:
        self.debug = debug
        self.pre_start_hook = pre_start_hook
        #: The connected clients, by their addresses.
        self.clients: dict[object, Client] = {}
        super().__init__(*args, **kwargs)

    @cached_property
    def logger(self) -> Logger:
        """The logger of the server; it is created on first use."""
        return create_logger(__name__, self.debug, self.debug_log_format)
