"""``geventwebsocket.resource``: applications as classes, and their paths."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from ..typing import Environ, StartResponse
from .exceptions import WebSocketError
from .protocols import BaseProtocol

__all__ = ["BaseProtocol", "OrderedDict", "Resource", "WebSocketApplication", "WebSocketError"]


class WebSocketApplication:
    """The application of one connection. Override ``on_open``, ``on_message`` and ``on_close``.

    At the end of the connection, ``on_message(None)`` is called once, as in gevent-websocket, and
    then ``on_close()``. If ``handle()`` is not overridden, the WebSocket is detached after
    ``on_open()``: see :meth:`geventws.WebSocket.detach`.
    """

    protocol_class: type[BaseProtocol] = BaseProtocol

    # Any: a subclass may replace the WebSocket with a wrapper, and define the types of messages.
    def __init__(self, ws: Any) -> None:
        self.protocol = self.protocol_class(self)
        self.ws = ws

    def handle(self) -> None:
        """Serve the connection until its end."""
        self.protocol.on_open()
        while True:
            try:
                message = self.ws.receive()
            except WebSocketError:
                break
            try:
                self.protocol.on_message(message)
            except WebSocketError:
                # on_message() has called send() after the end, such as for the message None.
                if not self.ws.closed:
                    raise
                break
        self.protocol.on_close()

    def _detach(self) -> None:
        """Do the same as :meth:`handle`, without a greenlet."""
        self.protocol.on_open()
        self.ws.detach(self._take_message, self._take_end)

    def _take_message(self, _: object, message: Any) -> None:
        try:
            self.protocol.on_message(message)
        except WebSocketError:
            if not self.ws.closed:
                raise

    def _take_end(self, ws: object) -> None:
        try:
            message = self.ws.receive()
        except WebSocketError:
            pass  # the application has closed the WebSocket
        else:
            self._take_message(ws, message)  # None
        self.protocol.on_close()

    def on_open(self, *args: Any, **kwargs: Any) -> None:
        pass

    def on_close(self, *args: Any, **kwargs: Any) -> None:
        pass

    def on_message(self, message: Any, *args: Any, **kwargs: Any) -> None:
        self.ws.send(message, **kwargs)

    @classmethod
    def protocol_name(cls) -> str:
        """Return the subprotocol of this application."""
        return cls.protocol_class.PROTOCOL_NAME


class Resource:
    """A WSGI application that selects another application by the path of the request.

    :param apps: pairs of a regular expression for the path and an application, or a mapping. An
        application is a WSGI application or a :class:`WebSocketApplication` class.
    """

    # Any: an application is a WSGI application, a class, or a factory.
    def __init__(self, apps: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None) -> None:
        self.apps: Iterable[tuple[str, Any]]
        if isinstance(apps, dict):
            self.apps = apps.items()
        else:
            self.apps = apps or []  # type: ignore[assignment] # only a dict is treated as a mapping

    def _is_websocket_app(self, app: object) -> bool:
        """Return whether an application is for WebSocket requests. Override it for other types."""
        if isinstance(app, type):
            return issubclass(app, WebSocketApplication)
        # A factory: that of tinyrpc has an attribute of older WebSocketApplication classes.
        return hasattr(app, "protocol_name") or hasattr(app, "protocol")

    def _app_by_path(self, environ_path: str, is_websocket_request: bool) -> Any:
        for path, app in self.apps:
            if re.match(path, environ_path) and (
                is_websocket_request == self._is_websocket_app(app)
            ):
                return app
        return None

    def app_protocol(self, path: str) -> str:
        """Return the subprotocol of the WebSocket application for a path, or an empty string."""
        app = self._app_by_path(path, True)
        return str(app.protocol_name()) if hasattr(app, "protocol_name") else ""

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        is_websocket_call = "wsgi.websocket" in environ
        app = self._app_by_path(environ["PATH_INFO"], is_websocket_call)
        if app is None:
            raise Exception("No apps defined")
        if not is_websocket_call:
            body: Iterable[bytes] = app(environ, start_response)
            return body
        ws = environ["wsgi.websocket"]
        app = app(ws)
        app.ws = ws
        if getattr(app.handle, "__func__", None) is WebSocketApplication.handle:
            app._detach()
        else:
            app.handle()
        return []
