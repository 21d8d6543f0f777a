"""``geventwebsocket.gunicorn.workers``."""
from __future__ import annotations

from gunicorn.workers.ggevent import GeventPyWSGIWorker, PyWSGIHandler

from .handler import WebSocketHandler


class _Handler(WebSocketHandler, PyWSGIHandler):
    """With gunicorn's access log."""


class GeventWebSocketWorker(GeventPyWSGIWorker):
    """gunicorn's gevent_pywsgi worker, with WebSockets; ``geventws.Worker`` can do more."""

    wsgi_handler = _Handler
