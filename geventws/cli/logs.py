"""``--log-level``, ``--log-format`` and ``--log-config``: what the command line sets in logging."""

from __future__ import annotations

import json
import logging.config
import os
import sys
from types import TracebackType
from typing import TextIO

import gevent

from ..connection.logs import OFF, connections, logger
from ..protocol.frames import CloseCode
from .errors import UsageError
from .settings import Settings

_ACCESS = "geventws.access"
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_RED, _GREEN, _YELLOW, _CYAN = 31, 32, 33, 36
#: The close codes of WebSockets that have ended as intended.
_USUAL_CODES = {CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RECEIVED}


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
    handler = logging.StreamHandler()
    handler.setFormatter(formatter_for(handler.stream))
    logging.basicConfig(handlers=[handler])
    logger.setLevel(log_level.upper())


def show_connections() -> None:
    """Log opened and closed WebSockets with ``info``, unless the application chose their level."""
    if connections.level == OFF:
        connections.setLevel(logging.NOTSET)


def formatter_for(stream: TextIO) -> logging.Formatter:
    """Return the formatter for lines of text: with colors if the stream is a terminal."""
    has_colors = stream.isatty() and not os.environ.get("NO_COLOR") and sys.platform != "win32"
    return _ColorFormatter(_FORMAT) if has_colors else logging.Formatter(_FORMAT)


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


class _ColorFormatter(logging.Formatter):
    """Colors warnings, errors, and the lines of WebSockets."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        color = _color_of(record)
        return f"\x1b[{color}m{text}\x1b[0m" if color else text


def _color_of(record: logging.LogRecord) -> int | None:
    if record.levelno >= logging.WARNING:
        return _RED if record.levelno >= logging.ERROR else _YELLOW
    if record.name != connections.name:
        return None
    code = getattr(record, "code", None)
    if code is None:
        return _GREEN
    return _CYAN if code in _USUAL_CODES else _YELLOW
