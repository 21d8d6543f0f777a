"""Where the options of a server come from: its class, its keywords and its application."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..connection.logs import logger
from ..options import Options

#: The names of all options.
NAMES = frozenset(field.name for field in dataclasses.fields(Options))


def take_options(keywords: dict[str, Any]) -> dict[str, Any]:
    """Remove the options from ``keywords`` and return them."""
    return {name: keywords.pop(name) for name in NAMES & keywords.keys()}


def combine_options(
    holder: object, overrides: Mapping[str, Any], application: object = None
) -> Options:
    """The options that a class or an object has as attributes, with some overridden.

    The options that the application asks for take precedence over both. The log reports an option
    that both set to different values.

    :raises TypeError: for an option of the wrong type.
    :raises ValueError: for an option out of range.
    """
    chosen = {name: getattr(holder, name) for name in NAMES if hasattr(holder, name)}
    chosen.update(overrides)
    own = application_options(application)
    for name in chosen.keys() & own.keys():
        if chosen[name] != own[name]:
            logger.warning(
                "The application asks for %s=%r, the server for %r: the former is used",
                name,
                own[name],
                chosen[name],
            )
    return Options(**{**chosen, **own})


def application_options(application: object) -> dict[str, Any]:
    """The options that an application asks for: the result of its ``geventws_options()``, if any.

    :class:`geventws.WebSocketMiddleware` returns its keywords there, and
    :class:`geventws.flask.Sockets` the configuration of the Flask application.
    """
    ask = getattr(application, "geventws_options", None)
    return dict(ask()) if callable(ask) else {}
