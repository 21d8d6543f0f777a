"""``--log-level``, ``--log-format`` and ``--log-config``: what the command line sets in logging."""

from __future__ import annotations

import json
import logging.config
from types import TracebackType

import gevent

from ..connection.logs import logger
from .errors import UsageError
from .settings import Settings

_ACCESS = "geventws.access"
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure_early(settings: Settings) -> None:
    """Configure what the application must not change unless it means to, before it is loaded.

    :raises UsageError: if the configuration cannot be used, or a package is missing.
    """
    if settings.log_config is not None:
        load(settings.log_config)
    elif settings.log_format == "json":
        log_as_json()
    else:
        return
    # gevent prints the exceptions of views, in several lines.
    gevent.get_hub().print_exception = _log_exception  # type: ignore[assignment]


def configure_late(log_level: str) -> None:
    """Configure the log of geventws. A configuration of the application has been made before."""
    logging.basicConfig(format=_FORMAT)
    logger.setLevel(log_level.upper())


def access_log(settings: Settings) -> logging.Logger:
    """Return the logger of requests. As text, their lines have a date of their own."""
    access = logging.getLogger(_ACCESS)
    is_configured = settings.log_config is not None or access.handlers
    if settings.log_format == "text" and not is_configured:
        access.addHandler(logging.StreamHandler())
        access.propagate = False
    return access


def log_as_json() -> logging.Formatter:
    """Configure the root logger, unless it is configured; return its formatter."""
    formatter = json_formatter()
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler])
    return formatter


def json_formatter() -> logging.Formatter:
    """Return a formatter that writes a record as one line of JSON.

    :raises UsageError: if python-json-logger is not installed.
    """
    try:
        from pythonjsonlogger.json import JsonFormatter  # noqa: PLC0415 - an optional dependency
    except ImportError:
        raise UsageError(
            "--log-format json needs python-json-logger: pip install 'geventws[cli]'"
        ) from None
    names = {"levelname": "level", "name": "logger"}
    return JsonFormatter(
        "%(levelname)s %(name)s %(message)s", rename_fields=names, timestamp="time"
    )


def load(file: str) -> None:
    """Configure logging as a file says.

    :raises UsageError: if the configuration cannot be used.
    """
    try:
        if file.endswith(".json"):
            with open(file, encoding="utf-8") as text:
                # The loggers of geventws exist already.
                logging.config.dictConfig({"disable_existing_loggers": False, **json.load(text)})
        else:
            logging.config.fileConfig(file, disable_existing_loggers=False)
    # The functions of logging.config raise nearly anything.
    except Exception as problem:
        raise UsageError(f"--log-config {file}: {problem}") from problem


def _log_exception(
    context: object,
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType | None,
) -> None:
    logger.error("An exception was not caught", exc_info=(kind, error, traceback))
