"""``--workers``: several processes are gunicorn's business."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import NoReturn

from .application import find_module
from .errors import UsageError
from .listeners import open_listeners
from .settings import Settings


def hand_over(settings: Settings) -> NoReturn:
    """Become gunicorn, with the sockets open already and ``geventws.Worker``.

    :raises UsageError: when gunicorn is not installed, or an address is not to be had.
    """
    if importlib.util.find_spec("gunicorn") is None:
        raise UsageError("--workers needs gunicorn: pip install 'geventws[gunicorn]'")
    module = find_module(settings.app)
    listeners = []
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        # Else gunicorn takes systemd's sockets by itself.
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
    os.execv(sys.executable, arguments)  # noqa: S606 - no shell is wanted
