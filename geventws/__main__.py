"""``python -m geventws module:app``: serve a WSGI application with WebSockets."""
from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import warnings
from typing import Any

import gevent
from gevent import monkey

from . import __core__, __version__
from .engineio import install_if_present
from .server import WebSocketServer


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m geventws",
        description="Serve a WSGI application with WebSockets. Ctrl-C closes them and stops.",
    )
    parser.add_argument("app", metavar="MODULE:APP",
                        help="where the application is, such as chat:app")
    parser.add_argument("--bind", metavar="HOST:PORT", default="127.0.0.1:8000",
                        help="where to listen (default: %(default)s)")
    parser.add_argument("--version", action="version",
                        version=f"geventws {__version__} ({__core__} core)")
    options = parser.parse_args(arguments)

    with warnings.catch_warnings():
        # ssl has been imported, but nothing of it is in use yet.
        warnings.simplefilter("ignore", monkey.MonkeyPatchWarning)
        monkey.patch_all()
    install_if_present()
    try:
        server = WebSocketServer(parse_address(options.bind), load_application(options.app))
        server.start()
    except LookupError as problem:
        return _fail(str(problem.args[0]))
    except OSError as problem:
        return _fail(f"cannot listen on {options.bind}: {problem.strerror or problem}")
    print(f"Serving {options.app} on {url_of(server)}", file=sys.stderr, flush=True)

    def stop() -> None:
        server.stop(None if server.started else 0)  # whoever says it twice is in a hurry

    for signum in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(signum, stop)
    server.serve_forever()
    return 0


def load_application(name: str) -> Any:
    """The application that ``module:attribute`` names.

    :raises LookupError: when there is no such module or attribute, in one sentence.
    """
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        application = importlib.import_module(module_name)
    except ModuleNotFoundError as problem:
        if problem.name is None or not f"{module_name}.".startswith(f"{problem.name}."):
            raise  # something that the module itself imports
        raise LookupError(f"there is no module {module_name} here") from None
    for part in (attribute or "app").split("."):
        try:
            application = getattr(application, part)
        except AttributeError:
            raise LookupError(f"{module_name} has no {attribute or 'app'}") from None
    if not callable(application):
        raise LookupError(f"{name} is not a WSGI application: it cannot be called")
    return application


def parse_address(text: str) -> tuple[str, int]:
    """``HOST:PORT``, ``:PORT`` or ``[IPV6]:PORT``.

    :raises LookupError: for anything else.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise LookupError(f"{text} is not of the form HOST:PORT")
    return host.strip("[]"), int(port)


def url_of(server: WebSocketServer) -> str:
    """Where the server can be reached."""
    host, port = server.server_host or "", server.server_port
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _fail(sentence: str) -> int:
    print(f"geventws: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
