"""``geventwebsocket.resource``: applications as classes, and which one a path belongs to."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from .exceptions import WebSocketError
from .protocols import BaseProtocol

__all__ = ["BaseProtocol", "OrderedDict", "Resource", "WebSocketApplication", "WebSocketError"]


class WebSocketApplication:
    """One connection: subclasses have ``on_open``, ``on_message`` and ``on_close``.

    At the end ``on_message(None)`` is called once, as gevent-websocket did, and then ``on_close``.
    """

    protocol_class: type[BaseProtocol] = BaseProtocol

    def __init__(self, ws: Any) -> None:
        self.protocol = self.protocol_class(self)
        self.ws = ws

    def handle(self) -> None:
        """Serve the connection to its end."""
        self.protocol.on_open()
        while True:
            try:
                message = self.ws.receive()
            except WebSocketError:
                break
            try:
                self.protocol.on_message(message)
            except WebSocketError:
                # It has answered somebody who had left, such as the None of the end.
                if not self.ws.closed:
                    raise
                break
        self.protocol.on_close()

    def on_open(self, *args: Any, **kwargs: Any) -> None:
        pass

    def on_close(self, *args: Any, **kwargs: Any) -> None:
        pass

    def on_message(self, message: Any, *args: Any, **kwargs: Any) -> None:
        self.ws.send(message, **kwargs)

    @classmethod
    def protocol_name(cls) -> str:
        """The subprotocol that it speaks."""
        return cls.protocol_class.PROTOCOL_NAME


class Resource:
    """A WSGI application made of others: WSGI applications and :class:`WebSocketApplication`\\ s.

    :param apps: pairs of a regular expression for the path and an application, or a mapping.
    """

    def __init__(self, apps: Any = None) -> None:
        self.apps: Iterable[tuple[str, Any]] = apps or []
        if isinstance(apps, dict):
            self.apps = apps.items()

    def _is_websocket_app(self, app: Any) -> bool:
        """Override this for applications of another kind."""
        if isinstance(app, type):
            return issubclass(app, WebSocketApplication)
        # A factory of them: tinyrpc's has what these had in older versions.
        return hasattr(app, "protocol_name") or hasattr(app, "protocol")

    def _app_by_path(self, environ_path: str, is_websocket_request: bool) -> Any:
        for path, app in self.apps:
            if re.match(path, environ_path) and (
                is_websocket_request == self._is_websocket_app(app)
            ):
                return app
        return None

    def app_protocol(self, path: str) -> str:
        """The subprotocol of the WebSocket application for a path."""
        app = self._app_by_path(path, True)
        return str(app.protocol_name()) if hasattr(app, "protocol_name") else ""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        is_websocket_call = "wsgi.websocket" in environ
        app = self._app_by_path(environ["PATH_INFO"], is_websocket_call)
        if app is None:
            raise Exception("No apps defined")
        if not is_websocket_call:
            return app(environ, start_response)
        ws = environ["wsgi.websocket"]
        app = app(ws)
        app.ws = ws
        app.handle()
        return []
