"""``geventwebsocket.logging``."""

from __future__ import annotations

import logging


def create_logger(name: str, debug: bool = False, format: str | None = None) -> logging.Logger:  # noqa: A002
    """Return a logger. With ``debug``, it writes all records to stderr."""
    logger = logging.getLogger(name)
    logger.handlers.clear()
    if debug:
        handler = logging.StreamHandler()
        if format:
            handler.setFormatter(logging.Formatter(format))
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    return logger
