"""The settings for serving. Their names are gunicorn's."""

from __future__ import annotations

import argparse
import dataclasses
import os

LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclasses.dataclass(kw_only=True)
class Settings:
    """The arguments of ``geventws MODULE:APP``."""

    app: str
    bind: list[str]
    workers: int
    reload: bool
    certfile: str | None
    keyfile: str | None
    log_level: str
    graceful_timeout: int
    forwarded_allow_ips: str

    @property
    def logs_requests(self) -> bool:
        """Whether each request is logged."""
        return LEVELS.index(self.log_level) <= LEVELS.index("info")

    @property
    def trusted_proxies(self) -> list[str]:
        """The addresses of ``--forwarded-allow-ips``."""
        return [part.strip() for part in self.forwarded_allow_ips.split(",") if part.strip()]

    def arguments(self, bind: list[str]) -> list[str]:
        """Return command line arguments for another process, with other addresses."""
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
        "--workers",
        "-w",
        metavar="N",
        type=_positive,
        default=os.environ.get("WEB_CONCURRENCY", "1"),
        help="the number of processes; more than one need gunicorn"
        " (default: $WEB_CONCURRENCY, else 1)",
    )
    add(
        "--reload",
        action="store_true",
        help="restart when a Python file in this directory or below has changed",
    )
    add("--certfile", metavar="FILE", help="serve https:// and wss:// with this certificate")
    add(
        "--keyfile",
        metavar="FILE",
        help="the private key, if it is not in the file of the certificate",
    )
    add(
        "--log-level",
        choices=LEVELS,
        default="info",
        help="requests are logged with 'debug' and 'info' (default: %(default)s)",
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


def settings_from(options: argparse.Namespace) -> Settings:
    """Return the settings for parsed arguments."""
    values = dict(vars(options))
    if not values["bind"]:
        port = os.environ.get("PORT")
        values["bind"] = [f"0.0.0.0:{port}" if port else "127.0.0.1:8000"]
    return Settings(**values)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number
