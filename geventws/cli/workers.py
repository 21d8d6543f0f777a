"""``--workers``: several processes, managed by gunicorn."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import NoReturn

from .application import find_module
from .errors import UsageError
from .listeners import open_listeners
from .settings import Settings


def exec_gunicorn(settings: Settings) -> NoReturn:
    """Replace this process with gunicorn and ``geventws.Worker``. It inherits the open sockets.

    :raises UsageError: if gunicorn is not installed, or an address cannot be used.
    """
    if importlib.util.find_spec("gunicorn") is None:
        raise UsageError("--workers needs gunicorn: pip install 'geventws[gunicorn]'")
    module = find_module(settings.app)
    listeners = []
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        # Otherwise gunicorn uses the sockets of systemd.
        listeners = open_listeners(settings.bind)
    for listener in listeners:
        listener.set_inheritable(True)
    binds = [f"fd://{listener.fileno()}" for listener in listeners]
    arguments = [
        sys.executable,
        "-m",
        "gunicorn",
        "--worker-class",
        "geventws.Worker",
        "--workers",
        str(settings.workers),
        *settings.arguments(binds),
    ]
    if settings.logs_requests:
        arguments += ["--access-logfile", "-"]
    if settings.reload:
        arguments.append("--reload")
    arguments.append(f"{module}:{settings.app.partition(':')[2] or 'app'}")
    os.execv(sys.executable, arguments)  # noqa: S606 - no shell is needed
