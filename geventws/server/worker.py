"""``gunicorn -k geventws.Worker``: gunicorn's gevent worker, with WebSockets."""

from __future__ import annotations

from time import monotonic
from typing import Any

from gevent import sleep, spawn
from gunicorn.workers.ggevent import GeventWorker

from .engineio import install_if_present
from .middleware import WebSocketMiddleware

#: How often, in seconds, the worker looks whether gunicorn wants it to stop.
_POLL = 0.1
#: When gunicorn's master kills the worker, it should have left: it looks once a second.
_MARGIN = 1.5


class Worker(GeventWorker):
    """Serves an application that finds its WebSockets in ``environ["wsgi.websocket"]``.

    All of gunicorn's settings hold as they do for ``-k gevent``; a WebSocket counts as one of
    ``worker_connections`` and has one line in the access log when it ends. Before the worker
    stops (SIGTERM, SIGHUP, ``max_requests``) it closes every WebSocket with 1001, spread over the
    first half of ``graceful_timeout``, and it leaves within a second after the last view has
    ended, or when that time is over.

    The options of :class:`geventws.options.Options` are set in a subclass, which a
    ``gunicorn.conf.py`` may hold: ``worker_class`` takes a class, too. ::

        class Worker(geventws.Worker):
            websocket_options = {"max_message_size": 10 << 20}

        worker_class = Worker

    Those of the application go first: of a :class:`~geventws.WebSocketMiddleware` around it, or of
    Flask's configuration.
    """

    #: The options of every connection of this worker.
    websocket_options: dict[str, Any] = {}  # noqa: RUF012 - replaced as a whole, never changed

    wsgi: Any
    sockets: Any
    _is_quitting = False

    def load_wsgi(self) -> None:
        install_if_present()
        super().load_wsgi()
        if isinstance(self.wsgi, WebSocketMiddleware):
            self.wsgi.use_defaults(self.websocket_options)
        else:
            self.wsgi = WebSocketMiddleware(self.wsgi, **self.websocket_options)

    def run(self) -> None:
        spawn(self._close_websockets_at_the_end)
        super().run()

    def handle_quit(self, sig: int, frame: Any) -> None:
        # Ctrl-C comes twice, from the terminal and from gunicorn's master. GeventWorker would print
        # a traceback for the second one.
        if self._is_quitting:
            return
        self._is_quitting = True
        # SIGINT and SIGQUIT: there is no time to wait for anybody, but to say good-bye.
        spawn(self.wsgi.websockets.drain, 0)
        super().handle_quit(sig, frame)

    def _close_websockets_at_the_end(self) -> None:
        while self.alive:
            sleep(_POLL)
        decided = monotonic()
        # Not before gunicorn has closed the listening sockets, a second after its decision:
        # clients that come back at once would be refused here, and another worker has room.
        while any(sock.fileno() >= 0 for sock in self.sockets):
            sleep(_POLL)
        left = self.cfg.graceful_timeout - (monotonic() - decided)
        websockets = self.wsgi.websockets
        if not websockets.drain(max(left / 2, left - _MARGIN)):
            websockets.kill()
