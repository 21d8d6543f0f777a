"""WebSockets in Django::

    # views.py
    @login_required
    @websocket
    def chat(request, ws, room):
        for message in ws:
            ws.send(message)

    # urls.py
    urlpatterns = [path("chat/<room>", views.chat)]

    # wsgi.py
    application = get_wsgi_application()  # of geventws.django

Then run ``geventws project.wsgi:application``.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias, cast
from urllib.parse import urlsplit

from asgiref.sync import iscoroutinefunction
from django import urls
from django.conf import settings
from django.contrib.sessions.middleware import SessionMiddleware
from django.core import wsgi
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase

from .integration import run_view
from .server.exchange import WEBSOCKET
from .server.middleware import WebSocketMiddleware
from .server.websocket import WebSocket
from .typing import Environ, Headers, Keywords, Message, StartResponse

__all__ = ["get_wsgi_application", "path", "websocket"]

#: A view with a request and a WebSocket as its first arguments.
WebSocketView: TypeAlias = Callable[..., HttpResponseBase | None]
DjangoView: TypeAlias = Callable[..., HttpResponseBase]

logger = logging.getLogger("geventws")

#: The beginning of the names of options in the settings.
_PREFIX = "GEVENTWS_"
#: The attribute of decorated views. Other decorators copy it, as functools.wraps() does.
_MARK = "_takes_websocket"


def websocket(view: WebSocketView) -> DjangoView:
    """Decorate a WebSocket view: ``view(request, ws, …)``, with the variables of the URL.

    - Before the ``101``, everything works as in other views: middleware, ``request.session``,
      ``request.user``, ``PermissionDenied``, ``Http404``, and decorators such as
      ``login_required``, inside or outside of this one. A Host that ``ALLOWED_HOSTS`` does not
      contain gets 400.
    - The ``101`` is sent when the view first uses the WebSocket. A session that was changed until
      then is saved, and its cookie is sent with the ``101``. Later changes are not saved: other
      requests may have changed the session meanwhile.
    - The return value is the response if the ``101`` was not sent, and dropped otherwise. A view
      that returns ``None`` without using the WebSocket accepts it; then it is closed with 1000.
    - Database connections are closed, or returned to Django's pool, when the WebSocket opens, each
      time before the view waits for a message, after each callback of a detached WebSocket, and
      when the view ends, whatever ``CONN_MAX_AGE`` is. ``ATOMIC_REQUESTS`` does not apply. A view
      that waits inside ``transaction.atomic()`` keeps its connection.
    - A plain HTTP request gets the status 426.

    Class-based views work, too: ``websocket(Chat.as_view())`` calls ``get(request, ws, …)``.

    :raises TypeError: for an ``async def`` view.
    """
    if getattr(view, _MARK, False):
        return cast("DjangoView", view)
    if iscoroutinefunction(view):  # also for a class with async def methods
        raise TypeError(f"{view!r} must be a plain function: geventws runs it in a greenlet")

    @functools.wraps(view)
    def socket_view(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        ws: WebSocket | None = request.META.get(WEBSOCKET)
        if ws is None:
            return _answer_without_websocket(request)
        request.get_host()  # raises DisallowedHost, which Django answers with 400
        ws.__class__ = DjangoWebSocket
        try:
            response = run_view(
                ws,
                functools.partial(view, request, ws, *args, **kwargs),
                functools.partial(_open, request),
                _event,
            )
        finally:
            if ws.accepted and hasattr(request, "session"):
                # It may be hours old. SessionMiddleware must not overwrite a newer session with it.
                request.session = type(request.session)(request.session.session_key)
            _close_connections()
        # Django requires a response; it is not sent after the 101.
        return HttpResponse() if response is None else response

    setattr(socket_view, _MARK, True)
    for alias in connections:
        transaction.non_atomic_requests(using=alias)(socket_view)
    return socket_view


def path(
    route: str,
    view: WebSocketView,
    kwargs: dict[str, Any] | None = None,
    name: str | None = None,
) -> urls.URLPattern:
    """Return :func:`django.urls.path` for a view that need not be decorated with ``websocket``."""
    return urls.path(route, websocket(view), kwargs, name)


def get_wsgi_application() -> WebSocketMiddleware:
    """Return Django's WSGI application with the options in the settings. For ``wsgi.py``.

    - Pages of the server's own origin may connect, and those of ``CSRF_TRUSTED_ORIGINS``.
    - If ``SECURE_PROXY_SSL_HEADER`` is ``X-Forwarded-Proto``, the header is used to find the
      server's own origin, too.
    - ``GEVENTWS_MAX_MESSAGE_SIZE`` and the like are options of :class:`geventws.options.Options`.
      They take precedence over the server's options, and over the two rules above.

    It also works with other servers on gevent, such as ``gunicorn -k gevent``.

    :raises TypeError: for an unknown option, or an option of the wrong type.
    :raises ValueError: for an option out of range.
    """
    return _Application(wsgi.get_wsgi_application(), **_options())


class _Application(WebSocketMiddleware):
    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if _is_runserver(environ):  # the view answers
            return self.application(environ, start_response)
        return super().__call__(environ, start_response)


class DjangoWebSocket(WebSocket):
    """The WebSocket of a view. It holds no database connection while it waits."""

    __slots__ = ()

    def receive(self, timeout: float | None = None) -> Message | None:
        _close_connections()
        return super().receive(timeout)

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        _close_connections()
        return super().__next__()

    def wait_closed(self, timeout: float | None = None) -> bool:
        _close_connections()
        return super().wait_closed(timeout)


def _close_connections() -> None:
    """Close the database connections of this greenlet, except for those in a transaction.

    ``close_old_connections()`` would keep them for up to ``CONN_MAX_AGE`` seconds, in which no
    other greenlet can use them.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


@contextlib.contextmanager
def _event() -> Iterator[None]:
    """The context of a callback of a detached WebSocket."""
    try:
        yield
    finally:
        _close_connections()


def _open(request: HttpRequest) -> Headers:
    """Save the session if necessary; return its cookie for the ``101``."""
    response = HttpResponse()
    if hasattr(request, "session"):
        SessionMiddleware(lambda _: response).process_response(request, response)
    _close_connections()
    return [("Set-Cookie", cookie.OutputString()) for cookie in response.cookies.values()]


def _answer_without_websocket(request: HttpRequest) -> HttpResponse:
    """Answer a plain HTTP request, or a request to a server that has no WebSockets."""
    if request.headers.get("Upgrade", "").lower() == "websocket":
        name = ":".join((settings.WSGI_APPLICATION or "wsgi.application").rsplit(".", 1))
        sentence = f"This server has no WebSockets. Run this one instead: geventws {name}"
        logger.error("%s: %s", request.path, sentence)
        return HttpResponse(f"{sentence}\n", status=501, content_type="text/plain")
    # RFC 9110 section 15.5.22: "MUST send an Upgrade header field"; section 7.8 requires
    # "Connection: Upgrade" with it. wsgiref refuses both.
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    return HttpResponse(
        "This URL is a WebSocket endpoint, and the request is a plain HTTP request.\n",
        status=426,
        content_type="text/plain",
        headers={} if _is_runserver(request.META) else upgrade,
    )


def _is_runserver(environ: Environ) -> bool:
    """Whether the server is that of ``manage.py runserver``, which is based on wsgiref."""
    software: str = environ.get("SERVER_SOFTWARE", "")
    return software.startswith("WSGIServer/")


def _options() -> Keywords:
    """Return the options in the settings."""
    options: Keywords = {}
    if settings.CSRF_TRUSTED_ORIGINS:
        options["allowed_origins"] = ["self", *_origins(settings.CSRF_TRUSTED_ORIGINS)]
    if (settings.SECURE_PROXY_SSL_HEADER or ("",))[0] == "HTTP_X_FORWARDED_PROTO":
        options["trusted_proxies"] = "*"  # Django trusts every peer, too
    for name in dir(settings):
        if name.startswith(_PREFIX):
            options[name.removeprefix(_PREFIX).lower()] = getattr(settings, name)
    return options


def _origins(trusted: Iterable[str]) -> Iterator[str]:
    """Return patterns of geventws. Django's ``https://*.example.com`` is example.com, too."""
    for origin in trusted:
        yield origin
        if urlsplit(origin).netloc.startswith("*."):
            yield origin.replace("*.", "", 1)
