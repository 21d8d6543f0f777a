"""``geventwebsocket.logging``."""

from __future__ import annotations

import logging


def create_logger(name: str, debug: bool = False, format: str | None = None) -> logging.Logger:  # noqa: A002
    """The logger of a name; with ``debug`` it writes everything to stderr."""
    logger = logging.getLogger(name)
    logger.handlers.clear()
    if debug:
        handler = logging.StreamHandler()
        if format:
            handler.setFormatter(logging.Formatter(format))
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    return logger
