"""``geventwebsocket.gunicorn`` and ``geventwebsocket.gunicorn.workers``; gunicorn is optional."""

from __future__ import annotations


def __getattr__(name: str) -> object:
    if name == "GeventWebSocketWorker":
        from .workers import GeventWebSocketWorker  # noqa: PLC0415 - gunicorn is optional

        return GeventWebSocketWorker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
