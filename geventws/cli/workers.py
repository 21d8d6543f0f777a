"""``--workers``: several processes, managed by gunicorn."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from typing import NoReturn

from .application import find_module
from .errors import UsageError
from .listeners import open_listeners
from .logs import json_formatter, load
from .settings import Settings
from .start import say_start

_WORKER = f"{__package__}.gunicorn_worker"  # it imports gunicorn
#: The environment variable in which the workers get the options of WebSockets, in JSON.
OPTIONS = "GEVENTWS_CLI_OPTIONS"
#: The environment variable with the file of ``--log-config``.
LOG_CONFIG = "GEVENTWS_CLI_LOG_CONFIG"
#: More connections than a process can have. As with one process, ``--max-connections`` limits the
#: WebSockets; gunicorn would let all connections after the thousandth wait.
_UNLIMITED = 1_000_000


def exec_gunicorn(settings: Settings) -> NoReturn:
    """Replace this process with gunicorn and ``geventws.Worker``. It inherits the open sockets.

    :raises UsageError: if gunicorn or another package is not installed, or an address cannot be
        used.
    """
    if settings.reload_dir:
        raise UsageError("--reload-dir works with one process only")
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
        f"{_WORKER}.Worker",
        "--workers",
        str(settings.workers),
        "--worker-connections",
        str(_UNLIMITED),
        *settings.arguments(binds),
    ]
    if settings.logs_requests:
        arguments += ["--access-logfile", "-"]
    if settings.reload:
        arguments.append("--reload")
    if settings.log_config is not None:
        load(settings.log_config)  # raises if the file is wrong
        arguments += ["--logger-class", f"{_WORKER}.FileLogger"]
    elif settings.log_format == "json":
        json_formatter()  # raises if the package is missing
        arguments += ["--logger-class", f"{_WORKER}.JSONLogger"]
    os.environ[OPTIONS] = json.dumps(settings.options)
    os.environ[LOG_CONFIG] = settings.log_config or ""
    arguments.append(f"{module}:{settings.app.partition(':')[2] or 'app'}")
    say_start(settings.app, f"with {settings.workers} workers")
    os.execv(sys.executable, arguments)  # noqa: S606 - no shell is needed
