"""``geventws MODULE:APP``: serve an application in this process."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from ssl import SSLError
from typing import Any

import gevent
from gevent import monkey
from gevent.event import Event

from ..server.engineio import install_if_present
from ..server.server import WebSocketServer
from .application import load_application
from .errors import UsageError
from .listeners import close_listeners, open_listeners, url_of
from .reload import serve_and_reload
from .settings import Settings
from .workers import hand_over

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def serve(settings: Settings) -> int:
    """Serve until a signal comes; returns the exit status.

    :raises UsageError: when it cannot begin.
    """
    if settings.keyfile is not None and settings.certfile is None:
        raise UsageError("--keyfile needs --certfile")
    if settings.workers > 1:
        hand_over(settings)
    if settings.reload:
        return serve_and_reload(settings)
    return serve_here(settings)


def serve_here(settings: Settings) -> int:
    """Serve in this very process."""
    with warnings.catch_warnings():
        # ssl has been imported, but nothing of it is in use yet.
        warnings.simplefilter("ignore", monkey.MonkeyPatchWarning)
        monkey.patch_all()
    install_if_present()
    application = load_application(settings.app)
    logging.basicConfig(format=_FORMAT)  # without effect if the application has done it
    logging.getLogger(__package__.partition(".")[0]).setLevel(settings.log_level.upper())
    listeners = open_listeners(settings.bind)
    try:
        servers = [_server(listener, application, settings) for listener in listeners]
        urls = [url_of(listener, secure=bool(settings.certfile)) for listener in listeners]
        print(f"Serving {settings.app} on {', '.join(urls)}", file=sys.stderr, flush=True)
        _run(servers, settings.graceful_timeout)
    finally:
        close_listeners(listeners, settings.bind)
    return 0


def _server(listener: Any, application: Any, settings: Settings) -> WebSocketServer:
    options: dict[str, Any] = {}
    if settings.trusted_proxies:
        options["trusted_proxies"] = settings.trusted_proxies
    if settings.certfile is not None:
        options.update(certfile=settings.certfile, keyfile=settings.keyfile)
    if not settings.logs_requests:
        options["log"] = None
    try:
        return WebSocketServer(listener, application, **options)
    except OSError as problem:
        files = " with ".join(filter(None, (settings.certfile, settings.keyfile)))
        why = "they must be PEM files that belong together"
        if not isinstance(problem, SSLError):
            why = problem.strerror or str(problem)
        raise UsageError(f"cannot use the certificate {files}: {why}") from problem
    except ValueError as problem:
        why = str(problem).removeprefix("trusted_proxies: ")
        raise UsageError(f"--forwarded-allow-ips: {why}") from problem


def _run(servers: list[WebSocketServer], patience: float) -> None:
    """Serve until SIGINT or SIGTERM; at the second one the views that are left are killed."""
    finished = Event()
    signals = 0

    def stop() -> None:
        nonlocal signals
        signals += 1
        timeout = patience if signals == 1 else 0
        gevent.joinall([gevent.spawn(server.stop, timeout) for server in servers])
        finished.set()

    watchers = [gevent.signal_handler(signum, stop) for signum in (signal.SIGINT, signal.SIGTERM)]
    for server in servers:
        server.start()
    finished.wait()
    for watcher in watchers:
        watcher.cancel()
