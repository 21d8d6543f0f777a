"""The :class:`~geventws.Stats` as metrics of prometheus_client: ``install()``.

``make_wsgi_app()`` shows them.
"""

from __future__ import annotations

import atexit
import os
from collections import Counter as Counts
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import prometheus_client
from gevent import get_hub
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from .server.registry import stats
from .server.stats import Stats

#: How often, in seconds, the metrics are brought up to date.
_INTERVAL = 1.0

_COUNTERS = {
    "connections_opened": "WebSockets that have been opened",
    "messages_received": "Messages that were received",
    "messages_sent": "Messages that were sent",
    "bytes_received": "Bytes that were received in WebSocket frames",
    "bytes_sent": "Bytes that were sent in WebSocket frames",
    "pings_sent": "Pings that were sent",
    "pongs_received": "Pongs that answered one",
    "slow_consumers_dropped": "Peers that were dropped because they did not read",
}
_BY_CODE = {
    "connections_closed": ("WebSockets that have ended, by close code", "code"),
    "connections_refused": ("Requests that were answered with HTTP, by status", "status"),
}
#: How many of the close codes that peers may choose, 3000 to 4999, have a series each. The others
#: are counted under the label "other": every series costs memory, here and in Prometheus.
_MAX_PEERS_CODES = 100
#: With the way in which the processes of a server become one figure.
_GAUGES: dict[str, tuple[str, Literal["livesum", "livemax"]]] = {
    "connections": ("WebSockets that are open", "livesum"),
    "receive_queue": ("Received messages that wait for their views", "livesum"),
    "receive_queue_size": ("The size of these", "livesum"),
    "send_buffer_size": ("Bytes that wait for their peers to read", "livesum"),
    "send_buffer_size_max": ("The most of these that wait for one peer", "livemax"),
}


class _Metrics:
    """The metrics, and what they have been told."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._told = Stats()
        self._peers_codes: set[int] = set()
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
        # It does not keep the loop alive, and goes on in a process that is forked.
        self._timer: Any = get_hub().loop.timer(_INTERVAL, _INTERVAL, ref=False)
        self._timer.start(self.update)
        atexit.register(self.update)

    def update(self) -> None:
        """Tell prometheus_client what has happened since the last time."""
        now, told = stats(), self._told
        for name, counter in self._counters.items():
            counter.inc(getattr(now, name) - getattr(told, name))
        for name, family in self._by_code.items():
            news = Counts[int](getattr(now, name)) - Counts[int](getattr(told, name))
            for code, count in news.items():
                family.labels(self._label(int(code))).inc(count)
        for name, gauge in self._gauges.items():
            gauge.set(getattr(now, name))
        self._told = now

    def _label(self, code: int) -> str:
        if code < 3000 or code in self._peers_codes:
            return str(code)
        if len(self._peers_codes) == _MAX_PEERS_CODES:
            return "other"
        self._peers_codes.add(code)
        return str(code)


def install(registry: CollectorRegistry = REGISTRY) -> None:
    """Let a registry of prometheus_client have ``geventws_…``; call it once, in any process.

    The metrics are brought up to date every second, and at the end of the process. They are those
    of :class:`geventws.Stats`, over all servers of the process. With several processes, such as
    gunicorn's, set ``PROMETHEUS_MULTIPROC_DIR`` as prometheus_client wants it: then every process
    adds its part, and a worker that has ended is not forgotten.

    :raises ValueError: when the registry has them already.
    """
    _Metrics(registry)


class _AllProcesses(MultiProcessCollector):
    """What all processes have written, also while one of them begins."""

    def collect(self) -> Iterable[Metric]:
        # A file is empty for a moment after it was made, or for good if its process was killed
        # then. prometheus_client would read its size from it.
        files = [str(file) for file in Path(self._path).glob("*.db") if _is_begun(file)]
        return self.merge(files)  # type: ignore[no-any-return, no-untyped-call]


def _is_begun(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False  # its process has ended


def make_wsgi_app(registry: CollectorRegistry = REGISTRY) -> Callable[..., Any]:
    """A WSGI application that answers Prometheus, as prometheus_client's of the same name.

    If ``PROMETHEUS_MULTIPROC_DIR`` is set it shows the sum of all processes, whatever the registry.

    :raises ValueError: when that is no folder.
    """
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        _AllProcesses(registry)  # type: ignore[no-untyped-call]
    return prometheus_client.make_wsgi_app(registry)
