"""Where the options of a server come from: its class, its keywords and its application."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable

from ..connection.logs import logger
from ..options import Options
from ..typing import Keywords

#: The names of all options.
NAMES = frozenset(field.name for field in dataclasses.fields(Options))


def take_options(keywords: Keywords) -> Keywords:
    """Remove the options from ``keywords`` and return them."""
    return {name: keywords.pop(name) for name in NAMES & keywords.keys()}


def combine_options(holder: object, overrides: Keywords, application: object = None) -> Options:
    """The options that a class or an object has as attributes, with some overridden.

    The options that the application asks for take precedence over both. The log reports an option
    that both set to different values.

    :raises TypeError: for an unknown option, or an option of the wrong type.
    :raises ValueError: for an option out of range.
    """
    own = application_options(application)
    check_names({**overrides, **own})
    chosen = {name: getattr(holder, name) for name in NAMES if hasattr(holder, name)}
    server = Options(**{**chosen, **overrides})
    combined = dataclasses.replace(server, **own)
    for name in own.keys() & {*chosen, *overrides}:
        if getattr(combined, name) != getattr(server, name):
            logger.warning(
                "The application sets %s=%r, the server sets %r: the application's value is used",
                name,
                getattr(combined, name),
                getattr(server, name),
            )
    return combined


def check_names(options: Iterable[str]) -> None:
    """Check that options with these names exist.

    :raises TypeError: for an unknown option; names a similar one.
    """
    for name in options:
        if name not in NAMES:
            similar = difflib.get_close_matches(name, NAMES, 1)
            hint = f"; did you mean {similar[0]!r}?" if similar else ""
            raise TypeError(f"geventws has no option {name!r}{hint}")


def application_options(application: object) -> Keywords:
    """The options that an application asks for: the result of its ``geventws_options()``, if any.

    :class:`geventws.WebSocketMiddleware` returns its keywords there, and
    :class:`geventws.flask.Sockets` the configuration of the Flask application.
    """
    ask = getattr(application, "geventws_options", None)
    return dict(ask()) if callable(ask) else {}
