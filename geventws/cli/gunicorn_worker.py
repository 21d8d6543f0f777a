"""What ``--workers`` passes on to gunicorn's workers, beyond the arguments of gunicorn."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from gunicorn import glogging

from .. import Worker as _Worker
from .logs import configure_late, load, log_as_json, show_connections
from .workers import LOG_CONFIG, OPTIONS

if TYPE_CHECKING:
    from gunicorn.config import Config


class Worker(_Worker):
    """:class:`geventws.Worker` with the options of the command line."""

    websocket_options = json.loads(os.environ.get(OPTIONS, "{}"))

    def load_wsgi(self) -> None:
        super().load_wsgi()
        show_connections()
        if not os.environ.get(LOG_CONFIG):
            configure_late(self.cfg.loglevel)


class FileLogger(glogging.Logger):
    """gunicorn's logger, which a file configures as it does with one process.

    gunicorn's own arguments for this fail if a .json file does not name the loggers of gunicorn.
    """

    def setup(self, cfg: Config) -> None:
        super().setup(cfg)
        for each in (self.error_log, self.access_log):
            each.handlers.clear()
            each.propagate = True
        load(os.environ[LOG_CONFIG])


class JSONLogger(glogging.Logger):
    """gunicorn's logger with lines of JSON, also for the records of applications."""

    def setup(self, cfg: Config) -> None:
        super().setup(cfg)
        formatter = log_as_json()
        for each in (*self.error_log.handlers, *self.access_log.handlers):
            each.setFormatter(formatter)
