"""``gunicorn -k geventws.Worker``: gunicorn's gevent worker, with WebSockets."""
from __future__ import annotations

from typing import Any

from gevent import sleep, spawn
from gunicorn.workers.ggevent import GeventWorker

from .middleware import WebSocketMiddleware
from .server import close_all

#: How often, in seconds, the worker looks whether gunicorn wants it to stop.
_POLL = 0.1


class Worker(GeventWorker):
    """Serves an application that finds its WebSockets in ``environ["wsgi.websocket"]``.

    All of gunicorn's settings hold as they do for ``-k gevent``; a WebSocket counts as one of
    ``worker_connections`` and has one line in the access log when it ends. Before the worker
    stops (SIGTERM, SIGHUP, ``max_requests``) it closes every WebSocket with 1001, and it leaves
    within a second after the last view has ended, or after ``graceful_timeout``.

    The options of :class:`geventws.options.Options` are set in a subclass, which a
    ``gunicorn.conf.py`` may hold: ``worker_class`` takes a class, too. ::

        class Worker(geventws.Worker):
            websocket_options = {"max_message_size": 10 << 20}

        worker_class = Worker

    An application that is a :class:`~geventws.WebSocketMiddleware` already keeps its options.
    """

    #: The options of every connection of this worker.
    websocket_options: dict[str, Any] = {}  # noqa: RUF012 - replaced as a whole, never changed

    wsgi: Any

    def load_wsgi(self) -> None:
        super().load_wsgi()
        if not isinstance(self.wsgi, WebSocketMiddleware):
            self.wsgi = WebSocketMiddleware(self.wsgi, **self.websocket_options)

    def run(self) -> None:
        spawn(self._close_websockets_at_the_end)
        super().run()

    def _close_websockets_at_the_end(self) -> None:
        while self.alive:
            sleep(_POLL)
        while True:  # until the process ends: a last connection may have been accepted meanwhile
            close_all(self.wsgi.websockets, self.cfg.graceful_timeout)
            sleep(_POLL)
