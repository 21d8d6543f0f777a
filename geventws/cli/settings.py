"""The settings for serving. Their names are gunicorn's, and those of the options."""

from __future__ import annotations

import argparse
import dataclasses
import os
from functools import partial
from typing import Any

from ..options import Options
from ..typing import Keywords
from .errors import UsageError

LEVELS = ("debug", "info", "warning", "error", "critical")
LOG_FORMATS = ("text", "json")
#: Options that have an argument of another name, or a value that no text describes.
_ELSEWHERE = {"stop_timeout", "trusted_proxies", "json"}
_OPTIONS: dict[str, Any] = {
    field.name: field.default
    for field in dataclasses.fields(Options)
    if field.name not in _ELSEWHERE
}
_SWITCH = {"on": True, "off": False}


@dataclasses.dataclass(kw_only=True)
class Settings:
    """The arguments of ``geventws MODULE:APP``."""

    app: str
    bind: list[str]
    workers: int
    reload: bool
    reload_dir: list[str]
    inspect: bool
    certfile: str | None
    keyfile: str | None
    log_level: str
    log_format: str
    log_config: str | None
    graceful_timeout: int
    forwarded_allow_ips: str
    #: The options of WebSockets that were given.
    options: Keywords

    @property
    def logs_requests(self) -> bool:
        """Whether each request is logged."""
        return LEVELS.index(self.log_level) <= LEVELS.index("info")

    @property
    def trusted_proxies(self) -> list[str]:
        """The addresses of ``--forwarded-allow-ips``."""
        return [part.strip() for part in self.forwarded_allow_ips.split(",") if part.strip()]

    def arguments(self, bind: list[str]) -> list[str]:
        """Return command line arguments of gunicorn for the same settings, with other addresses."""
        arguments = [
            "--log-level",
            self.log_level,
            "--graceful-timeout",
            str(self.graceful_timeout),
            "--forwarded-allow-ips",
            self.forwarded_allow_ips,
        ]
        for address in bind:
            arguments += ["--bind", address]
        if self.certfile is not None:
            arguments += ["--certfile", self.certfile]
        if self.keyfile is not None:
            arguments += ["--keyfile", self.keyfile]
        return arguments

    def own_arguments(self) -> list[str]:
        """Return the command line arguments that gunicorn does not have."""
        values = {"log_format": self.log_format, "log_config": self.log_config}
        given = {name: value for name, value in values.items() if value is not None}
        given |= {name: _text(value) for name, value in self.options.items()}
        # A value may begin with a hyphen.
        arguments = [f"{_argument(name)}={text}" for name, text in given.items()]
        return [*arguments, "--inspect"] if self.inspect else arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for :class:`Settings`."""
    add = parser.add_argument
    add(
        "app",
        metavar="MODULE:APP",
        help="the application, such as chat:app or 'chat:create_app()'",
    )
    add(
        "--bind",
        "-b",
        metavar="ADDRESS",
        action="append",
        help="the address: HOST:PORT, unix:PATH or fd://NUMBER; may be repeated"
        " (default: 0.0.0.0:$PORT if that is set, else 127.0.0.1:8000)",
    )
    add(
        "--port",
        "-p",
        metavar="PORT",
        help="short for --bind 127.0.0.1:PORT",
    )
    add(
        "--workers",
        "-w",
        metavar="N",
        type=_positive,
        help="the number of processes; more than one need gunicorn"
        " (default: $WEB_CONCURRENCY, else 1)",
    )
    add(
        "--reload",
        action="store_true",
        help="restart when a Python file in this directory or below has changed",
    )
    add(
        "--reload-dir",
        metavar="DIRECTORY",
        action="append",
        help="with --reload: watch this directory instead; may be repeated",
    )
    add(
        "--inspect",
        action="store_true",
        help="serve a page that shows WebSockets, channels and messages, on another port of"
        " 127.0.0.1; only for development",
    )
    add("--certfile", metavar="FILE", help="serve https:// and wss:// with this certificate")
    add(
        "--keyfile",
        metavar="FILE",
        help="the private key, if it is not in the file of the certificate",
    )
    add(
        "--env-file",
        metavar="FILE",
        help="read environment variables from this file; those that are set already keep their"
        " values",
    )
    add(
        "--log-level",
        choices=LEVELS,
        default="info",
        help="requests are logged with 'debug' and 'info' (default: %(default)s)",
    )
    add(
        "--log-format",
        choices=LOG_FORMATS,
        default="text",
        help="'json' writes each record as one line of JSON (default: %(default)s)",
    )
    add(
        "--log-config",
        metavar="FILE",
        help="a configuration for logging: a .json file for dictConfig(), or another one for"
        " fileConfig(); the logger of requests is 'geventws.access'",
    )
    add(
        "--graceful-timeout",
        metavar="SECONDS",
        type=_positive,
        default=10,
        help="the time for closing WebSockets before the server stops (default: %(default)s)",
    )
    add(
        "--forwarded-allow-ips",
        metavar="IPS",
        default=os.environ.get("FORWARDED_ALLOW_IPS", ""),
        help="trusted proxies, whose X-Forwarded-* headers are used, separated by commas"
        " (default: $FORWARDED_ALLOW_IPS, else none)",
    )
    group = parser.add_argument_group(
        "options of WebSockets",
        "Sizes are in bytes, times in seconds. 'none' sets no limit. Items of lists are separated"
        " by commas. Options of the application take precedence. docs/options.md explains them.",
    )
    for name, default in _OPTIONS.items():
        group.add_argument(
            _argument(name),
            dest=name,
            metavar=_metavar(default),
            type=partial(_option, name),
            default=argparse.SUPPRESS,
            help=f"(default: {_text(default) or 'none'})",
        )


def settings_from(arguments: argparse.Namespace) -> Settings:
    """Return the settings for parsed arguments.

    :raises UsageError: if an environment variable is wrong, or arguments contradict each other.
    """
    if arguments.log_config is not None and arguments.log_format != "text":
        raise UsageError("--log-config sets the format, too: leave out --log-format")
    values = dict(vars(arguments))
    options = {name: values.pop(name) for name in _OPTIONS if name in values}
    del values["env_file"]  # was read before the arguments
    port = values.pop("port")
    values["bind"] = values["bind"] or []
    if port is not None:
        values["bind"].append(f"127.0.0.1:{port}")
    if not values["bind"]:
        port = os.environ.get("PORT")
        values["bind"] = [f"0.0.0.0:{port}" if port else "127.0.0.1:8000"]
    values["reload_dir"] = values["reload_dir"] or []
    if values["workers"] is None:
        try:
            values["workers"] = _positive(os.environ.get("WEB_CONCURRENCY", "1"))
        except argparse.ArgumentTypeError as problem:
            raise UsageError(f"the environment variable WEB_CONCURRENCY: {problem}") from None
    return Settings(options=options, **values)


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r:.50} is not a whole number of at least 1")
    return number


def _argument(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _metavar(default: object) -> str:
    if isinstance(default, bool):
        return "on|off"
    return {int: "NUMBER", float: "SECONDS"}.get(type(default), "LIST")


def _option(name: str, text: str) -> Any:
    """Return the value of an option.

    :raises argparse.ArgumentTypeError: if the option cannot have it.
    """
    default = _OPTIONS[name]
    value: Any = text
    try:
        if isinstance(default, tuple):
            value = [part.strip() for part in text.split(",") if part.strip()]
        elif isinstance(default, bool):
            value = _SWITCH.get(text, text)
        elif text == "none":
            value = None
        else:
            value = type(default)(text)
    except ValueError:
        pass  # the sentence of Options is better
    try:
        Options(**{name: value})
    except (TypeError, ValueError) as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None
    return value


def _text(value: object) -> str:
    """Return the text for which :func:`_option` returns the value."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (list, tuple)):
        return ",".join(value)
    return "none" if value is None else str(value)
