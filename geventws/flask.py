"""WebSockets in Flask; the names of flask-sockets and flask-sock, so that their users feel at home.

::

    app = Flask(__name__)
    sockets = Sockets(app)

    @sockets.route("/echo")
    def echo(ws):
        for message in ws:
            ws.send(message)
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from contextvars import copy_context
from typing import Any, TypeVar
from weakref import WeakSet

from flask import Blueprint, Flask, current_app, request
from flask.ctx import RequestContext
from flask.globals import request_ctx
from werkzeug.exceptions import BadRequest, HTTPException, RequestTimeout
from werkzeug.routing.exceptions import WebsocketMismatch

from .integration import run_view
from .options import Options
from .protocol.frames import CloseCode
from .server.exchange import WEBSOCKET
from .server.middleware import WebSocketMiddleware
from .server.registry import OpenWebSockets
from .server.request_body import BodyError, BodyTimeoutError
from .server.websocket import WebSocket
from .typing import Headers

__all__ = ["Sock", "Sockets", "UpgradeRequired"]

View = TypeVar("View", bound=Callable[..., Any])

logger = logging.getLogger("geventws")

#: Under this name ``app.extensions`` knows what :meth:`Sockets.init_app` has added.
_EXTENSION = "geventws"


class UpgradeRequired(HTTPException):
    """``426 Upgrade Required``: a plain request for an address that has WebSockets only."""

    code = 426
    description = "This address speaks WebSocket, and your request is a plain one."

    def get_headers(self, *args: Any, **kwargs: Any) -> list[tuple[str, str]]:
        # RFC 9110 section 15.5.22: "MUST send an Upgrade header field", and 7.8 about Connection
        upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
        return [*super().get_headers(*args, **kwargs), *upgrade]


class Sockets:
    """Flask extension: views that get a :class:`~geventws.WebSocket` as their first argument.

    Everything that Flask does before a view works before the upgrade: ``before_request``,
    ``abort(401)``, redirects, logins. The ``101`` goes out when the view first uses the
    WebSocket; the session as it is then, and what ``after_this_request`` functions add, travel
    with it. The request context lives until the view returns. What it returns after the upgrade
    is dropped; without one it is the response, or, if it is ``None``, the WebSocket is closed
    with 1000.

    ``url_for`` the name of a view is its ``ws://`` or ``wss://`` URL.

    A plain request gets the page that another route has for the same path, or
    :exc:`UpgradeRequired`, for which an application may have an ``errorhandler``.

    Works under :class:`geventws.WebSocketServer`, ``gunicorn -k geventws.Worker`` and every other
    server on gevent. The options of :class:`geventws.options.Options` are taken from
    ``app.config["GEVENTWS_MAX_MESSAGE_SIZE"]`` and the like when the server starts; they go
    before the server's own. Middleware belongs around ``app.wsgi_app``, as Flask has it: around
    ``app`` itself it hides these options from the server.

    :param app: the application, or None to call :meth:`init_app` later.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self._rules: list[tuple[str, str | None, Callable[..., Any], dict[str, Any]]] = []
        self._blueprints: list[tuple[Blueprint, dict[str, Any]]] = []
        self._apps: WeakSet[Flask] = WeakSet()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Add all views to an application, those that are defined later too."""
        if _EXTENSION not in app.extensions:
            app.geventws_options = functools.partial(_options_in, app)  # type: ignore[attr-defined]
            middleware = app.extensions[_EXTENSION] = _Middleware(app)
            app.wsgi_app = middleware  # type: ignore[method-assign]
            app.register_error_handler(WebsocketMismatch, _answer_mismatch)
            app.register_error_handler(BodyError, _answer_body_error)
        self._apps.add(app)
        for rule, endpoint, view, options in self._rules:
            app.add_url_rule(rule, endpoint, view, **options)
        for blueprint, options in self._blueprints:
            blueprint.register(_ForSockets(app, self), options)  # type: ignore[arg-type]

    def route(
        self, rule: str, bp: Blueprint | None = None, **options: Any
    ) -> Callable[[View], View]:
        """Decorate a view for WebSockets: ``view(ws)``, with the URL's variables as keywords.

        :param rule: the path, as for :meth:`flask.Flask.route`.
        :param bp: a blueprint that the view belongs to. It may be nested in others; it is
            registered with Flask as usual.
        :param options: more of :meth:`flask.Flask.route`, such as ``endpoint``.
        """

        def decorate(view: View) -> View:
            if bp is None:
                self.add_url_rule(rule, options.pop("endpoint", None), view, **options)
            else:
                bp.route(rule, **{**options, "websocket": True})(self._flask_view(view))
            return view

        return decorate

    def add_url_rule(
        self, rule: str, endpoint: str | None, view_func: Callable[..., Any], **options: Any
    ) -> None:
        """What :meth:`route` does, without a decorator."""
        options["websocket"] = True
        view = self._flask_view(view_func)
        self._rules.append((rule, endpoint, view, options))
        for app in self._apps:
            app.add_url_rule(rule, endpoint, view, **options)

    def register_blueprint(self, blueprint: Blueprint, **options: Any) -> None:
        """Register a blueprint whose views, and those of the blueprints in it, are for WebSockets.

        :param options: those of :meth:`flask.Flask.register_blueprint`, such as ``url_prefix``.
        """
        self._blueprints.append((blueprint, options))
        for app in self._apps:
            blueprint.register(_ForSockets(app, self), options)  # type: ignore[arg-type]

    def _flask_view(self, view: Callable[..., Any]) -> Callable[..., Any]:
        """A view as Flask wants it: no argument of its own, and a response in the end."""

        @functools.wraps(view)
        def socket_view(**values: Any) -> Any:
            ws: WebSocket = request.environ[WEBSOCKET]
            context = request_ctx._get_current_object()  # type: ignore[attr-defined]
            response = run_view(
                ws,
                functools.partial(view, self._adapt(ws), **values),
                # A greenlet without these contexts may be the first to use the WebSocket.
                functools.partial(copy_context().run, _gathered_headers, context),
            )
            # Flask needs a response, though nobody reads it after the 101.
            return current_app.response_class() if response is None else response

        return socket_view

    def _adapt(self, ws: WebSocket) -> Any:
        return ws


class Sock(Sockets):
    """flask-sock's extension by its own name: ``@sock.route("/echo")``.

    Its views get a WebSocket with simple-websocket's manners, see :class:`SockWebSocket`.
    ``ping_interval``, ``max_message_size`` and ``subprotocols`` in
    ``app.config["SOCK_SERVER_OPTIONS"]`` are obeyed.
    """

    def _adapt(self, ws: WebSocket) -> Any:
        return SockWebSocket(ws)


class SockWebSocket:
    """A :class:`~geventws.WebSocket` in which some methods do as simple-websocket's.

    Everything else is as it is there.
    """

    def __init__(self, ws: WebSocket) -> None:
        self._ws = ws

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ws, name)

    def __iter__(self) -> Iterable[str | bytes]:
        return iter(self._ws)

    @property
    def connected(self) -> bool:
        """Whether messages can be sent."""
        return not self._ws.closed

    def receive(self, timeout: float | None = None) -> str | bytes | None:
        """The next message; None if there is none in time.

        :raises ConnectionClosed: when the connection has ended.
        """
        try:
            message = self._ws.receive(timeout)
        except TimeoutError:
            return None
        return self._ws.receive() if message is None else message  # the second time it raises

    def close(self, reason: int | None = None, message: str | None = None) -> None:
        """Close with a code, which is called ``reason``, and a text, which is not."""
        self._ws.close(CloseCode.NORMAL_CLOSURE if reason is None else reason, message or "")


class _Middleware(WebSocketMiddleware):
    """What makes the extension work under servers that know nothing of geventws."""

    def __init__(self, app: Flask) -> None:
        self.application = app.wsgi_app
        self.websockets = OpenWebSockets()
        self._app = app
        self._has_checked = False

    @functools.cached_property
    def options(self) -> Options:  # type: ignore[override]
        return Options(**_options_in(self._app))

    def geventws_options(self) -> dict[str, Any]:
        return _options_in(self._app)


class _ForSockets:
    """An application as a blueprint sees it when its views are for WebSockets."""

    def __init__(self, app: Flask, sockets: Sockets) -> None:
        self._app = app
        self._sockets = sockets

    def __getattr__(self, name: str) -> Any:
        return getattr(self._app, name)

    def add_url_rule(
        self,
        rule: str,
        endpoint: str | None = None,
        view_func: Callable[..., Any] | None = None,
        **options: Any,
    ) -> None:
        if view_func is None:
            raise TypeError(f"the route {rule} of a WebSocket blueprint has no view")
        options["websocket"] = True
        self._app.add_url_rule(rule, endpoint, self._sockets._flask_view(view_func), **options)


def _options_in(app: Flask) -> dict[str, Any]:
    """The options in an application's configuration."""
    old = app.config.get("SOCK_SERVER_OPTIONS", {})
    known = {"max_message_size", "ping_interval", "subprotocols"} & old.keys()
    return {
        **{name: old[name] for name in known if old[name] is not None},
        **app.config.get_namespace("GEVENTWS_"),
    }


def _answer_mismatch(mismatch: WebsocketMismatch) -> Any:
    """A plain request for a WebSocket's address, or the other way round."""
    problem = BadRequest() if WEBSOCKET in request.environ else UpgradeRequired()
    return current_app.handle_http_exception(problem)


def _answer_body_error(error: BodyError) -> Any:
    """Answer a client whose body is malformed, cut off or late, without a traceback."""
    problem = RequestTimeout() if isinstance(error, BodyTimeoutError) else BadRequest()
    return current_app.handle_http_exception(problem)


def _gathered_headers(context: RequestContext) -> Headers:
    """What a response to this request would have of headers if it were sent now."""
    app = context.app
    response = app.response_class(status=101)
    response.headers.clear()
    for function in context._after_request_functions:
        response = app.ensure_sync(function)(response)
    context._after_request_functions.clear()
    session = context.session
    if session is not None and not app.session_interface.is_null_session(session):
        app.session_interface.save_session(app, session, response)
    response.headers.pop("Vary", None)  # no cache keeps a 101
    return list(response.headers)


def __getattr__(name: str) -> Any:
    if name in {"Worker", "worker"}:
        # flask-sockets has it for ``gunicorn -k flask_sockets.worker``.
        from .server.worker import Worker  # noqa: PLC0415 - gunicorn is optional

        return Worker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
