"""``geventwebsocket.gunicorn.workers``."""

from __future__ import annotations

from typing import Any

from gunicorn.workers.ggevent import GeventPyWSGIWorker, PyWSGIHandler, PyWSGIServer

from ..server.accepting import AcceptingServer
from ..server.configuration import combine_options
from ..typing import Environ
from .handler import WebSocketHandler


class _Handler(WebSocketHandler, PyWSGIHandler):
    """A handler with gunicorn's access log, and the variables that the log needs."""

    def get_environ(self) -> Environ:
        environ = super().get_environ()
        environ["gunicorn.sock"] = self.socket
        environ["RAW_URI"] = self.path
        return environ

    def log_request(self) -> None:
        if self.response_headers is None:
            self.response_headers = []  # the headers of a 101 are not stored
        if self.environ is None:
            # A request that could not be read has no environ, but gunicorn logs these variables.
            self.environ = dict.fromkeys(("REQUEST_METHOD", "RAW_URI", "SERVER_PROTOCOL"), "-")
        super().log_request()


class _Server(AcceptingServer, PyWSGIServer):
    """gunicorn's server, with limited log lines for faults of peers."""

    pool_setting = "--worker-connections"

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.options = combine_options(self.handler_class, {}, self.application)


class GeventWebSocketWorker(GeventPyWSGIWorker):
    """gunicorn's gevent_pywsgi worker with WebSockets. ``geventws.Worker`` has more features."""

    server_class = _Server
    wsgi_handler = _Handler
