"""``sockets.run(app)``: serve the application of a script, and restart it after a change."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from gevent import monkey

from .errors import UsageError
from .reload import STOP_TIMEOUT, start_and_restart
from .serve import serve_application
from .settings import add_arguments, settings_from

if TYPE_CHECKING:
    from ..typing import Application

#: The variables of Werkzeug's reloader. Programs read the first one, to do something only once.
_IS_CHILD, _LISTENER = "WERKZEUG_RUN_MAIN", "WERKZEUG_SERVER_FD"


def say(sentence: str) -> None:
    """Print a line for the developer."""
    print(f"geventws: {sentence}", file=sys.stderr, flush=True)


def serve_script(
    application: Application, name: str, host: str, port: int, folder: str | None
) -> None:
    """Serve an application until SIGINT or SIGTERM arrives.

    :param folder: watched with the current folder, to restart this program after a change of a
        Python file; ``None`` disables this.
    :raises SystemExit: if the server cannot start.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    is_child = os.environ.get(_IS_CHILD) == "true"
    try:
        if folder is not None and not is_child and _can_restart():
            start_and_restart([address], _start, [".", folder])
            return
        if not monkey.is_module_patched("socket"):
            say(
                "gevent.monkey.patch_all() was not called at the beginning of the program. While a"
                " view sleeps, or waits for a database or another server, no other view runs"
            )
        arguments = [name, "--bind", address]
        if is_child:
            arguments = [name, "--bind", f"fd://{os.environ[_LISTENER]}"]
            arguments += ["--graceful-timeout", str(STOP_TIMEOUT)]
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        serve_application(application, settings_from(parser.parse_args(arguments)))
    except UsageError as problem:
        sys.exit(f"geventws: {problem}")


def _can_restart() -> bool:
    """Return whether the program can be restarted; print the reason if not."""
    if sys.platform == "win32":
        say("the program is not restarted after a change: this does not work on Windows")
    elif importlib.util.find_spec("watchfiles") is None:
        say(
            "the program is not restarted after a change: this needs watchfiles, pip install"
            " 'geventws[cli]'"
        )
    else:
        return True
    return False


def _start(numbers: list[int]) -> subprocess.Popen[bytes]:
    """Run this program again, in another process that inherits the listening socket."""
    return subprocess.Popen(  # noqa: S603 - the same program
        [sys.executable, *sys.orig_argv[1:]],
        env={**os.environ, _IS_CHILD: "true", _LISTENER: str(numbers[0])},
        pass_fds=numbers,
    )
