"""Socket.IO: python-socketio and Flask-SocketIO on geventws, with ``async_mode="gevent"``.

``geventws.Worker`` and ``python -m geventws`` do this automatically. Elsewhere, before or after the
Socket.IO server is created::

    import geventws.engineio

    geventws.engineio.install()
"""

from __future__ import annotations

from .server.engineio import install

__all__ = ["install"]
