"""For authors of framework extensions: run a view that gets a WebSocket.

An extension finds the :class:`~geventws.WebSocket` in ``environ["wsgi.websocket"]``, which plain
requests do not have, and calls its view through :func:`run_view`. This is all that
:mod:`geventws.flask` and :mod:`geventws.bottle` use. For Pyramid::

    @view_config(route_name="echo")
    def echo(request):
        ws = request.environ["wsgi.websocket"]
        response = run_view(ws, lambda: converse(ws), lambda: cookies_of(request.response))
        return request.response if response is None else response
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .exceptions import ConnectionClosed
from .server.websocket import WebSocket
from .typing import HeaderPairs

__all__ = ["run_view"]

Response = TypeVar("Response")


def run_view(
    ws: WebSocket,
    view: Callable[[], Response | None],
    headers: Callable[[], HeaderPairs] | None = None,
) -> Response | None:
    """Call a view, and return the HTTP response that the framework must send; ``None`` for none.

    - A view that returns ``None`` without using the WebSocket accepts it.
    - A response that is returned before the ``101`` refuses the WebSocket.
    - A response that is returned after the ``101`` is dropped; but when the ``101`` was sent
      automatically (``accept_after``), it is returned here, and its status becomes the close code.
    - :exc:`~geventws.ConnectionClosed` of this connection is a normal end. Of another connection,
      it is raised.

    :param headers: called once, when the ``101`` is sent; returns headers that the framework has
        gathered until then, such as cookies. May run in another greenlet than the view.
    """
    ws._headers_hook = headers
    response = None
    try:
        response = view()
        if response is None and not ws.accepted:
            ws.accept()
    except ConnectionClosed:
        if not ws._is_over:
            raise
    return response if not ws.accepted or ws._was_accepted_late else None
