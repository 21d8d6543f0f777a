"""``geventwebsocket.gunicorn.workers``."""

from __future__ import annotations

from typing import Any

from gunicorn.workers.ggevent import GeventPyWSGIWorker, PyWSGIHandler

from .handler import WebSocketHandler


class _Handler(WebSocketHandler, PyWSGIHandler):
    """With gunicorn's access log, and the variables that it wants."""

    def get_environ(self) -> dict[str, Any]:
        environ = super().get_environ()
        environ["gunicorn.sock"] = self.socket
        environ["RAW_URI"] = self.path
        return environ

    def log_request(self) -> None:
        if self.response_headers is None:
            self.response_headers = []  # those of a 101 are not kept
        if self.environ is None:
            # A request that could not be read has none, and gunicorn wants these.
            self.environ = dict.fromkeys(("REQUEST_METHOD", "RAW_URI", "SERVER_PROTOCOL"), "-")
        super().log_request()


class GeventWebSocketWorker(GeventPyWSGIWorker):
    """gunicorn's gevent_pywsgi worker, with WebSockets; ``geventws.Worker`` can do more."""

    wsgi_handler = _Handler
