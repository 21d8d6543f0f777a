"""Export :class:`~geventws.Stats` as metrics of prometheus_client.

:func:`install` registers the metrics; :func:`make_wsgi_app` serves them.
"""

from __future__ import annotations

import atexit
import os
from collections import Counter as Counts
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import prometheus_client
from gevent import get_hub
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from .server.registry import stats
from .server.stats import Stats

if TYPE_CHECKING:
    from .typing import Application

#: Seconds between two updates of the metrics.
_INTERVAL = 1.0

_COUNTERS = {
    "connections_opened": "Accepted WebSockets",
    "messages_received": "Received messages",
    "messages_sent": "Sent messages",
    "bytes_received": "Bytes received in WebSocket frames",
    "bytes_sent": "Bytes sent in WebSocket frames",
    "pings_sent": "Sent Ping frames",
    "pongs_received": "Received Pong frames that answer a Ping",
    "slow_consumers_dropped": "Connections dropped because the peer did not read",
    "broadcast_gaps": "WebSockets that missed messages of a broadcast",
}
_BY_CODE = {
    "connections_closed": ("Ended WebSockets, by close code", "code"),
    "connections_refused": ("Refused WebSocket requests, by HTTP status", "status"),
}
#: The maximum number of series for close codes from 3000 to 4999, which peers may choose. Further
#: codes are counted with the label "other": every series costs memory, here and in Prometheus.
_MAX_PRIVATE_CODES = 100
#: The description, and the way to combine the values of several processes.
_GAUGES: dict[str, tuple[str, Literal["livesum", "livemax"]]] = {
    "connections": ("Open WebSockets", "livesum"),
    "callbacks_running": ("Detached WebSockets whose callback is running", "livesum"),
    "callbacks_waiting": ("Detached WebSockets that wait for a greenlet", "livesum"),
    "receive_queue": ("Received messages that wait for the view", "livesum"),
    "receive_queue_size": ("Bytes of memory of received messages that wait", "livesum"),
    "send_buffer_size": ("Bytes in all send buffers", "livesum"),
    "send_buffer_size_max": ("Bytes in the largest send buffer", "livemax"),
}


class _Metrics:
    """The metrics of one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        #: The statistics of the latest update.
        self._exported = Stats()
        #: The close codes from 3000 to 4999 that have a series.
        self._private_codes: set[int] = set()
        self._counters = {
            name: Counter(f"geventws_{name}", text, registry=registry)
            for name, text in _COUNTERS.items()
        }
        self._by_code = {
            name: Counter(f"geventws_{name}", text, [label], registry=registry)
            for name, (text, label) in _BY_CODE.items()
        }
        self._gauges = {
            name: Gauge(f"geventws_{name}", text, registry=registry, multiprocess_mode=mode)
            for name, (text, mode) in _GAUGES.items()
        }
        # ref=False: the timer does not keep the loop running. It also works in a forked process.
        self._timer = get_hub().loop.timer(_INTERVAL, _INTERVAL, ref=False)
        self._timer.start(self.update)
        atexit.register(self.update)

    def update(self) -> None:
        """Add the changes since the latest update to the metrics."""
        current, previous = stats(), self._exported
        for name, counter in self._counters.items():
            counter.inc(getattr(current, name) - getattr(previous, name))
        for name, family in self._by_code.items():
            new = Counts[int](getattr(current, name)) - Counts[int](getattr(previous, name))
            for code, count in new.items():
                family.labels(self._label(int(code))).inc(count)
        for name, gauge in self._gauges.items():
            gauge.set(getattr(current, name))
        self._exported = current

    def _label(self, code: int) -> str:
        if code < 3000 or code in self._private_codes:
            return str(code)
        if len(self._private_codes) == _MAX_PRIVATE_CODES:
            return "other"
        self._private_codes.add(code)
        return str(code)


def install(registry: CollectorRegistry = REGISTRY) -> None:
    """Add the metrics ``geventws_…`` to a registry of prometheus_client. Call this once.

    The metrics are those of :class:`geventws.Stats`, for all servers of the process. They are
    updated every second, and at the end of the process.

    With several processes, such as gunicorn's workers, set ``PROMETHEUS_MULTIPROC_DIR`` as
    prometheus_client documents it. Then the metrics are the sum of all processes, and counters
    include workers that have ended.

    :raises ValueError: if the registry has these metrics already.
    """
    _Metrics(registry)


class _AllProcesses(MultiProcessCollector):
    """A collector for the files of all processes, also while a process starts."""

    def collect(self) -> Iterable[Metric]:
        # A file is empty for a moment after its creation, and stays empty if its process was
        # killed in that moment. prometheus_client fails on an empty file.
        files = [str(file) for file in Path(self._path).glob("*.db") if _is_not_empty(file)]
        return self.merge(files)  # type: ignore[no-any-return, no-untyped-call]


def _is_not_empty(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False  # prometheus_client has removed it: the process has ended


def make_wsgi_app(registry: CollectorRegistry = REGISTRY) -> Application:
    """Return a WSGI application for Prometheus, like ``prometheus_client.make_wsgi_app()``.

    If ``PROMETHEUS_MULTIPROC_DIR`` is set, it serves the sum of all processes, and ignores
    ``registry``.

    :raises ValueError: if ``PROMETHEUS_MULTIPROC_DIR`` is not a directory.
    """
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        _AllProcesses(registry)  # type: ignore[no-untyped-call]
    return prometheus_client.make_wsgi_app(registry)
