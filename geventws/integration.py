"""The interface for framework extensions: :func:`run_view` runs a view with a WebSocket.

An extension finds the :class:`~geventws.WebSocket` in ``environ["wsgi.websocket"]``, and calls its
view through :func:`run_view`. Plain HTTP requests do not have this key. :mod:`geventws.flask`,
:mod:`geventws.bottle` and :mod:`geventws.django` use nothing else. For Pyramid::

    @view_config(route_name="echo")
    def echo(request):
        ws = request.environ["wsgi.websocket"]
        response = run_view(ws, lambda: converse(ws), lambda: cookies_of(request.response))
        return request.response if response is None else response
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from .connection.greenlets import coroutine_error
from .exceptions import ConnectionClosed
from .server.websocket import WebSocket
from .typing import HeaderPairs

__all__ = ["run_view"]

Response = TypeVar("Response")


def run_view(
    ws: WebSocket,
    view: Callable[[], Response | None],
    headers: Callable[[], HeaderPairs] | None = None,
    around: Callable[[], AbstractContextManager[object]] | None = None,
) -> Response | None:
    """Call a view; return the HTTP response that the framework must send, or ``None``.

    - If the view returns ``None`` and has not used the WebSocket, the WebSocket is accepted.
    - If the view returns a response before the ``101``, the WebSocket is refused.
    - If the view returns a response after the ``101``, the response is dropped. If the ``101`` was
      sent automatically (``accept_after``), the response is returned instead, and its status sets
      the close code.
    - If the view raises :exc:`~geventws.ConnectionClosed` of this connection, that is a normal
      end. A ``ConnectionClosed`` of another connection is raised again.

    :param view: called without arguments.
    :param headers: called once, when the ``101`` is sent. Returns headers for it that the framework
        has collected, such as cookies. May be called in another greenlet than the view.
    :param around: called for every callback of a detached WebSocket. Returns a context manager that
        is entered around the callback: it sets up what the framework's views have, and releases
        what they use, such as connections to a database.
    :raises TypeError: if the view is an ``async def`` function.
    """
    ws._headers_hook = headers
    ws._around = around
    response = None
    try:
        response = view()
        if inspect.iscoroutine(response):
            response.close()
            raise coroutine_error(response.__qualname__)
        if response is None and not ws.accepted:
            ws.accept()
    except ConnectionClosed:
        if not ws._is_over:
            raise
    return response if not ws.accepted or ws._was_accepted_late else None
