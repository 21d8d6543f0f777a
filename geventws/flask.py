"""WebSockets in Flask, with the names of flask-sockets and flask-sock.

::

    app = Flask(__name__)
    sockets = Sockets(app)

    @sockets.route("/echo")
    def echo(ws):
        for message in ws:
            ws.send(message)
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from ipaddress import ip_address
from typing import Any, TypeAlias, TypeVar, cast
from weakref import WeakSet

from flask import Blueprint, Flask, Response, current_app, request
from flask.ctx import RequestContext
from flask.globals import request_ctx
from flask.sessions import SecureCookieSession
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import CallbackDict
from werkzeug.exceptions import BadRequest, HTTPException, RequestTimeout
from werkzeug.routing.exceptions import WebsocketMismatch

from .connection.greenlets import check_function
from .connection.logs import logger, printable
from .integration import run_view
from .options import Options
from .protocol.frames import CloseCode
from .protocol.server_handshake import is_websocket_request
from .server.configuration import combine_options
from .server.exchange import WEBSOCKET
from .server.middleware import WebSocketMiddleware
from .server.registry import OpenWebSockets
from .server.request_body import BodyError, BodyTimeoutError
from .server.websocket import WebSocket
from .typing import Environ, Headers, Keywords, Message, StartResponse

__all__ = ["Sock", "Sockets", "UpgradeRequired"]

#: A view with a WebSocket as its first argument, followed by the variables of the URL.
WebSocketView: TypeAlias = Callable[..., ResponseReturnValue | None]
FlaskView: TypeAlias = Callable[..., ResponseReturnValue]
View = TypeVar("View", bound=WebSocketView)

#: The key in ``app.extensions``.
_EXTENSION = "geventws"


class UpgradeRequired(HTTPException):
    """``426 Upgrade Required``: the response to a plain HTTP request for a WebSocket URL."""

    code = 426
    description = "This URL is a WebSocket endpoint, and the request is a plain HTTP request."

    def get_headers(self, *args: Any, **kwargs: Any) -> Headers:
        # RFC 9110 section 15.5.22: "MUST send an Upgrade header field"; section 7.8 requires
        # "Connection: Upgrade" with it.
        upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
        return [*super().get_headers(*args, **kwargs), *upgrade]


class Sockets:
    """A Flask extension for views with a :class:`~geventws.WebSocket` as their first argument.

    - Before the upgrade, everything works as in other views: ``before_request``, ``abort(401)``,
      redirects, logins.
    - The ``101`` is sent when the view first uses the WebSocket. It contains the session of that
      time, and the headers of ``after_this_request`` functions.
    - The request context exists until the view returns. The return value is the response if the
      ``101`` was not sent, and dropped otherwise. A view that returns ``None`` without using the
      WebSocket accepts it; then it is closed with 1000.
    - ``url_for()`` returns the ``ws://`` or ``wss://`` URL of a view.
    - A plain HTTP request gets the page of another route for the same path, or
      :exc:`UpgradeRequired`. An ``errorhandler`` may handle this exception.

    The extension works with :class:`geventws.WebSocketServer`, ``gunicorn -k geventws.Worker`` and
    every other server on gevent. The options of :class:`geventws.options.Options` are read from
    the configuration when the server starts, such as
    ``app.config["GEVENTWS_MAX_MESSAGE_SIZE"]``. They take precedence over the server's options.

    Wrap ``app.wsgi_app`` with middleware, as Flask documents it. Middleware around ``app`` hides
    the options from the server.

    :param app: the application; ``None`` to call :meth:`init_app` later.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self._rules: list[tuple[str, str | None, FlaskView, Keywords]] = []
        self._blueprints: list[tuple[Blueprint, Keywords]] = []
        self._apps: WeakSet[Flask] = WeakSet()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Add all views to an application, including views that are defined later."""
        if _EXTENSION not in app.extensions:
            app.geventws_options = functools.partial(_options_in, app)  # type: ignore[attr-defined]
            middleware = app.extensions[_EXTENSION] = _Middleware(app)
            app.wsgi_app = middleware  # type: ignore[method-assign]
            app.add_url_rule = functools.partial(  # type: ignore[method-assign]
                _add_url_rule, app, app.add_url_rule
            )
            app.register_error_handler(WebsocketMismatch, _answer_mismatch)
            app.register_error_handler(BodyError, _answer_body_error)
        self._apps.add(app)
        for rule, endpoint, view, options in self._rules:
            app.add_url_rule(rule, endpoint, view, **options)
        for blueprint, options in self._blueprints:
            blueprint.register(_WebSocketApp(app, self), options)  # type: ignore[arg-type]

    def route(
        self, rule: str, bp: Blueprint | None = None, **options: Any
    ) -> Callable[[View], View]:
        """Decorate a WebSocket view: ``view(ws, **variables)``, with the variables of the URL.

        :param rule: the path, as for :meth:`flask.Flask.route`.
        :param bp: the blueprint of the view. Register it with Flask; it may be nested.
        :param options: other options of :meth:`flask.Flask.route`, such as ``endpoint``.
        :raises TypeError: for an ``async def`` view, or a view of :meth:`flask.Flask.route`.
        """

        def decorate(view: View) -> View:
            if bp is None:
                self.add_url_rule(rule, options.pop("endpoint", None), view, **options)
            else:
                bp.route(rule, **{**options, "websocket": True})(_SocketView(view, self._adapt))
            return view

        return decorate

    def add_url_rule(
        self, rule: str, endpoint: str | None, view_func: WebSocketView, **options: Any
    ) -> None:
        """Add a WebSocket view; see :meth:`route`."""
        options["websocket"] = True
        view = _SocketView(view_func, self._adapt)
        self._rules.append((rule, endpoint, view, options))
        for app in self._apps:
            app.add_url_rule(rule, endpoint, view, **options)

    def register_blueprint(self, blueprint: Blueprint, **options: Any) -> None:
        """Register a blueprint of WebSocket views. Nested blueprints contain only such views, too.

        :param options: the options of :meth:`flask.Flask.register_blueprint`, such as
            ``url_prefix``.
        """
        self._blueprints.append((blueprint, options))
        for app in self._apps:
            blueprint.register(_WebSocketApp(app, self), options)  # type: ignore[arg-type]

    def run(
        self, app: Flask, host: str = "127.0.0.1", port: int = 5000, debug: bool | None = None
    ) -> None:
        """Serve an application during development. Replaces :meth:`flask.Flask.run`.

        Blocks until SIGINT or SIGTERM arrives. In debug mode, Werkzeug's debugger shows exceptions
        of HTTP views in the browser, and the program restarts when a Python file below the current
        folder or the folder of the application changes. The debugger runs code that is entered in
        the browser: it is only enabled if ``host`` is a loopback address.

        Inside a command of ``flask``, this method returns at once.

        :param host: the address. ``"0.0.0.0"`` accepts connections of other machines.
        :param port: the port; 0 selects a free one.
        :param debug: sets ``app.debug``, which is ``--debug`` or ``$FLASK_DEBUG`` by default.
        :raises SystemExit: if the server cannot start.
        """
        from werkzeug.debug import DebuggedApplication  # noqa: PLC0415 - for development only

        from .cli.script import say, serve_script  # noqa: PLC0415

        if os.environ.get("FLASK_RUN_FROM_CLI") == "true":
            say("ignoring sockets.run(): call it only if __name__ == '__main__'")
            return
        if debug is not None:
            app.debug = debug
        if app.debug and _is_loopback(host):
            app.wsgi_app = DebuggedApplication(app.wsgi_app, evalex=True)  # type: ignore[method-assign]
        elif app.debug:
            say(f"the debugger is disabled, because other machines may connect to {host}")
        serve_script(app, app.name, host, port, app.root_path if app.debug else None)

    def _adapt(self, ws: WebSocket) -> object:
        """Return the first argument of a view."""
        return ws


class Sock(Sockets):
    """A replacement for flask-sock's class of the same name: ``@sock.route("/echo")``.

    The views get a :class:`SockWebSocket`, with the interface of simple-websocket. Of
    ``app.config["SOCK_SERVER_OPTIONS"]``, the options ``ping_interval``, ``max_message_size`` and
    ``subprotocols`` are used.

    :ivar app: the application, or ``None`` before :meth:`init_app`.
    :ivar bp: the blueprint of the views that were defined before :meth:`init_app`, or ``None``.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self.app: Flask | None = None
        self.bp: Blueprint | None = None
        super().__init__(app)

    def init_app(self, app: Flask) -> None:
        super().init_app(app)
        if self.bp is not None:
            app.register_blueprint(self.bp)
        self.app = app

    def route(  # type: ignore[override] # flask-sock's name for the rule
        self, path: str, bp: Blueprint | None = None, **options: Any
    ) -> Callable[[View], View]:
        if bp is None and self.app is None:
            # url_for() has flask-sock's name, too: "__flask_sock.echo".
            bp = self.bp = self.bp or Blueprint("__flask_sock", __name__)
        return super().route(path, bp, **options)

    def _adapt(self, ws: WebSocket) -> SockWebSocket:
        return SockWebSocket(ws)


class SockWebSocket:
    """A :class:`~geventws.WebSocket` with simple-websocket's interface.

    ``receive()``, ``close()``, ``connected``, ``close_reason`` and ``close_message`` are those of
    simple-websocket; all other attributes are the WebSocket's. Callbacks of a detached WebSocket
    get the WebSocket itself, which is equal to this object, and a Broadcast accepts both.
    """

    def __init__(self, ws: WebSocket) -> None:
        self.__wrapped__ = ws

    def __getattr__(self, name: str) -> Any:  # the type of the WebSocket's attribute
        return getattr(self.__wrapped__, name)

    def __iter__(self) -> Iterator[Message]:
        return iter(self.__wrapped__)

    def __eq__(self, other: object) -> bool:
        return self.__wrapped__ is getattr(other, "__wrapped__", other)

    def __hash__(self) -> int:
        return hash(self.__wrapped__)

    @property
    def close_reason(self) -> int | None:
        """The close code; ``None`` while open."""
        return self.__wrapped__.close_code

    @property
    def close_message(self) -> str | None:
        """The close reason; ``None`` while open."""
        return None if self.__wrapped__.close_code is None else self.__wrapped__.close_reason

    @property
    def connected(self) -> bool:
        """Whether messages can be sent."""
        return not self.__wrapped__.closed

    def receive(self, timeout: float | None = None) -> Message | None:
        """Return the next message; ``None`` if there is none within ``timeout`` seconds.

        :raises ConnectionClosed: if the connection has ended.
        """
        try:
            message = self.__wrapped__.receive(timeout)
        except TimeoutError:
            return None
        # None means the end of the connection: the second call raises ConnectionClosed.
        return self.__wrapped__.receive() if message is None else message

    def close(self, reason: int | None = None, message: str | None = None) -> None:
        """Close the connection.

        :param reason: the close code, with simple-websocket's name; 1000 by default.
        :param message: the close reason.
        """
        self.__wrapped__.close(
            CloseCode.NORMAL_CLOSURE if reason is None else reason, message or ""
        )


class _Middleware(WebSocketMiddleware):
    """The middleware for servers without WebSocket support. Its options are in ``app.config``."""

    def __init__(self, app: Flask) -> None:
        self.application = app.wsgi_app
        self.websockets = OpenWebSockets()
        self._app = app
        self._has_checked = False
        #: The functions of all WebSocket views.
        self.socket_views: list[WebSocketView] = []
        #: Whether the log has the warning about a changed session.
        self.has_warned = False

    @functools.cached_property
    def options(self) -> Options:  # type: ignore[override]
        return combine_options(None, _options_in(self._app))

    def geventws_options(self) -> Keywords:
        return _options_in(self._app)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        is_werkzeug = environ.get("SERVER_SOFTWARE", "").startswith("Werkzeug/")
        if is_werkzeug and is_websocket_request(environ):
            return _answer_in_werkzeug(environ, start_response)
        return super().__call__(environ, start_response)


class _SocketView:
    """A view for Flask: without the WebSocket argument, and with a response."""

    __wrapped__: WebSocketView

    def __init__(self, view: WebSocketView, adapt: Callable[[WebSocket], object]) -> None:
        check_function(view)
        functools.update_wrapper(self, view)
        self._adapt = adapt

    # Flask compares the views of one endpoint: a view may have several rules.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SocketView) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, object]:
        return self.__wrapped__, self._adapt

    def __call__(self, **variables: Any) -> ResponseReturnValue:
        ws: WebSocket = request.environ[WEBSOCKET]
        context = request_ctx._get_current_object()  # type: ignore[attr-defined]
        response = run_view(
            ws,
            functools.partial(self.__wrapped__, self._adapt(ws), **variables),
            # Another greenlet, without Flask's contexts, may send the 101.
            functools.partial(copy_context().run, _collect_headers, context),
            functools.partial(_context_of_event, context.app, request.environ),
        )
        if ws._is_detached:
            # The callbacks keep the environ, and need not keep the request of the view.
            request.environ.pop("werkzeug.request", None)
        if response is None:
            return current_app.response_class()  # Flask requires one; it is not sent
        return cast("ResponseReturnValue", response)  # mypy infers object


class _WebSocketApp:
    """A proxy for an application, which registers the views of a blueprint for WebSockets."""

    def __init__(self, app: Flask, sockets: Sockets) -> None:
        self._app = app
        self._sockets = sockets

    def __getattr__(self, name: str) -> Any:  # the type of the application's attribute
        return getattr(self._app, name)

    def add_url_rule(
        self,
        rule: str,
        endpoint: str | None = None,
        view_func: WebSocketView | None = None,
        **options: Any,
    ) -> None:
        if view_func is None:
            raise TypeError(f"the route {rule} of a WebSocket blueprint has no view")
        options["websocket"] = True
        view = _SocketView(view_func, self._sockets._adapt)
        self._app.add_url_rule(rule, endpoint, view, **options)


def _options_in(app: Flask) -> Keywords:
    """Return the options in an application's configuration."""
    sock_options = app.config.get("SOCK_SERVER_OPTIONS", {})
    known = {"max_message_size", "ping_interval", "subprotocols"} & sock_options.keys()
    options = {name: sock_options[name] for name in known}
    if options.get("subprotocols", ()) is None:
        options["subprotocols"] = ()
    return {**options, **app.config.get_namespace("GEVENTWS_")}


def _add_url_rule(
    app: Flask,
    add_url_rule: Callable[..., None],
    rule: str,
    endpoint: str | None = None,
    view_func: FlaskView | None = None,
    *args: Any,
    **options: Any,
) -> None:
    """Call Flask's method of this name, except for a function that is a view of both kinds.

    :raises TypeError: if a WebSocket view is also a view for HTTP.
    """
    socket_views = app.extensions[_EXTENSION].socket_views
    view: WebSocketView | None = view_func
    if isinstance(view_func, _SocketView):
        view = view_func.__wrapped__
        socket_views.append(view)
        is_wrong = view in app.view_functions.values()
    else:
        is_wrong = view in socket_views or _lacks_websocket(view, rule, options)
    if is_wrong:
        name = getattr(view, "__name__", view)
        raise TypeError(f"{name} is a WebSocket view: use @sockets.route, without @app.route")
    add_url_rule(rule, endpoint, view_func, *args, **options)


def _lacks_websocket(view: object, rule: str, options: Keywords) -> bool:
    """Return whether the first argument of a view is ``ws``, and Flask would not pass it."""
    code = getattr(view, "__code__", None)
    if code is None or "ws" in (options.get("defaults") or ()) or re.search(r"[<:]ws>", rule):
        return False
    required = code.co_argcount - len(getattr(view, "__defaults__", None) or ())
    return bool(code.co_varnames[: min(required, 1)] == ("ws",))


def _answer_in_werkzeug(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Refuse a WebSocket of Werkzeug's server, which has a thread for each request."""
    sentence = (
        f"The server of flask run and app.run() cannot open the WebSocket"
        f" {printable(environ['PATH_INFO'])}. Run the application with the command"
        " python -m geventws MODULE:APP --reload, or call sockets.run(app) instead of app.run()"
    )
    logger.error(sentence)
    return Response(f"{sentence}\n", 501, mimetype="text/plain")(environ, start_response)


def _answer_mismatch(mismatch: WebsocketMismatch) -> ResponseReturnValue:
    """Answer a plain HTTP request for a WebSocket URL, or a WebSocket request for another URL."""
    problem = BadRequest() if WEBSOCKET in request.environ else UpgradeRequired()
    return current_app.handle_http_exception(problem)


def _answer_body_error(error: BodyError) -> ResponseReturnValue:
    """Answer a request whose body is malformed, incomplete or late, without a traceback."""
    problem = RequestTimeout() if isinstance(error, BodyTimeoutError) else BadRequest()
    return current_app.handle_http_exception(problem)


@contextlib.contextmanager
def _context_of_event(app: Flask, environ: Environ) -> Iterator[None]:
    """Push new contexts for a callback of a detached WebSocket, of the same request."""
    # Werkzeug stores the request object of the view in the environ.
    with app.request_context({**environ, "werkzeug.request": None}) as context:
        _warn_of_changes(context)
        yield


def _collect_headers(context: RequestContext) -> Headers:
    """Return the headers that a response to this request would have if it were sent now."""
    app = context.app
    response = app.response_class(status=101)
    response.headers.clear()
    for function in context._after_request_functions:
        response = app.ensure_sync(function)(response)
    context._after_request_functions.clear()
    session = context.session
    if session is not None and not app.session_interface.is_null_session(session):
        app.session_interface.save_session(app, session, response)
        if isinstance(session, SecureCookieSession):  # others are saved on the server later
            _warn_of_changes(context)
    response.headers.pop("Vary", None)  # caches do not store a 101
    return list(response.headers)


def _warn_of_changes(context: RequestContext) -> None:
    """In debug mode, log the first change of a session that is not going to be saved."""
    session, middleware = context.session, context.app.extensions[_EXTENSION]
    if not context.app.debug or not isinstance(session, CallbackDict):
        return
    on_update = session.on_update

    def warn(changed: Any) -> None:  # the session
        if on_update is not None:
            on_update(changed)
        if not middleware.has_warned:
            middleware.has_warned = True
            logger.warning(
                "The session was changed after the WebSocket %s had been accepted. The change is"
                " lost: it would need a cookie, and the headers were already sent. Change the"
                " session before the first use of the WebSocket, or in an HTTP request",
                printable(context.request.path),
            )

    session.on_update = warn


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def __getattr__(name: str) -> object:
    if name in {"Worker", "worker"}:
        # flask-sockets had these names for ``gunicorn -k flask_sockets.worker``.
        from .server.worker import Worker  # noqa: PLC0415 - gunicorn is optional

        return Worker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
