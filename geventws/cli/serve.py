"""``geventws MODULE:APP``: serve an application."""

from __future__ import annotations

import signal
import sys
import warnings
from ssl import SSLError
from typing import TYPE_CHECKING

import gevent
import gevent.socket
from gevent import monkey
from gevent.event import Event

from ..connection.logs import logger
from ..connection.memory import (
    exempt_application_from_collection,
    keep_memory_for_greenlets,
    keep_memory_for_messages,
)
from ..protocol.reader import NOT_COMPILED
from ..server.engineio import install_if_present
from ..server.server import WebSocketServer
from .application import load_application
from .errors import UsageError
from .inspector import Inspector
from .listeners import close_listeners, open_listeners, url_of
from .logs import access_log, configure_early, configure_late, show_connections
from .reload import serve_and_reload
from .settings import Settings
from .start import say_start
from .workers import exec_gunicorn

if TYPE_CHECKING:
    import socket

    from ..typing import Application


def serve(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM arrives; return the exit status.

    :raises UsageError: if the settings are wrong, or the server cannot start.
    """
    if settings.keyfile is not None and settings.certfile is None:
        raise UsageError("--keyfile needs --certfile")
    if settings.reload_dir and not settings.reload:
        raise UsageError("--reload-dir needs --reload")
    if sys.platform == "win32" and (settings.reload or settings.workers > 1):
        raise UsageError("--reload and --workers do not work on Windows")
    if settings.inspect and settings.workers > 1:
        raise UsageError("--inspect works with one process only")
    if settings.workers > 1:
        exec_gunicorn(settings)
    if settings.reload:
        return serve_and_reload(settings)
    return serve_here(settings)


def serve_here(settings: Settings) -> int:
    """Serve in this process; see :func:`serve`."""
    with warnings.catch_warnings():
        # ssl was imported before patching, but no object of it exists yet.
        warnings.simplefilter("ignore", monkey.MonkeyPatchWarning)
        monkey.patch_all()
    keep_memory_for_messages()
    keep_memory_for_greenlets()
    install_if_present()
    configure_early(settings)
    application = load_application(settings.app)
    return serve_application(application, settings)


def serve_application(application: Application, settings: Settings) -> int:
    """Serve an application in this process; see :func:`serve`."""
    show_connections()
    if settings.log_config is None:
        configure_late(settings.log_level)
    listeners = open_listeners(settings.bind)
    try:
        servers = [_create_server(listener, application, settings) for listener in listeners]
        urls = [url_of(listener, secure=bool(settings.certfile)) for listener in listeners]
        say_start(settings.app, f"on {', '.join(urls)}")
        if settings.inspect:
            inspector = Inspector(servers)
            servers.append(inspector)
            print(f"Inspect it on {inspector.url}", file=sys.stderr, flush=True)
        if NOT_COMPILED:
            logger.warning(NOT_COMPILED)
        exempt_application_from_collection()
        _run(servers, settings.graceful_timeout)
    finally:
        close_listeners(listeners, settings.bind)
    return 0


def _create_server(
    listener: socket.socket, application: Application, settings: Settings
) -> WebSocketServer:
    options = dict(settings.options)
    options["log"] = access_log(settings) if settings.logs_requests else None
    if settings.log_format == "json":
        options["error_log"] = logger  # wsgi.errors, to which Bottle writes tracebacks
    if settings.trusted_proxies:
        options["trusted_proxies"] = settings.trusted_proxies
    if settings.certfile is not None:
        options.update(certfile=settings.certfile, keyfile=settings.keyfile)
    try:
        if not monkey.is_module_patched("socket"):
            listener = gevent.socket.fromfd(listener.fileno(), listener.family, listener.type)
        return WebSocketServer(listener, application, **options)
    except OSError as problem:
        files = " with ".join(filter(None, (settings.certfile, settings.keyfile)))
        reason = "they must be PEM files that belong together"
        if not isinstance(problem, SSLError):
            reason = problem.strerror or str(problem)
        raise UsageError(f"cannot use the certificate {files}: {reason}") from problem
    except ValueError as problem:
        reason = str(problem).removeprefix("trusted_proxies: ")
        raise UsageError(f"--forwarded-allow-ips: {reason}") from problem


def _run(servers: list[WebSocketServer], stop_timeout: float) -> None:
    """Serve until SIGINT or SIGTERM arrives. A second signal, or SIGQUIT, kills the views."""
    finished = Event()
    received = []

    def stop(signum: int) -> None:
        received.append(signum)
        timeout = stop_timeout if received in ([signal.SIGINT], [signal.SIGTERM]) else 0
        gevent.joinall([gevent.spawn(server.stop, timeout) for server in servers])
        finished.set()

    signums = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGQUIT"):  # not on Windows
        signums.append(signal.SIGQUIT)
    watchers = [gevent.signal_handler(signum, stop, signum) for signum in signums]
    for server in servers:
        server.start()
    finished.wait()
    for watcher in watchers:
        watcher.cancel()
