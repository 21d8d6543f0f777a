"""Socket.IO: python-socketio and Flask-SocketIO with geventws and ``async_mode="gevent"``.

``geventws.Worker`` and ``python -m geventws`` install it automatically. With other servers, call
:func:`install`, before or after the Socket.IO server is created::

    import geventws.engineio

    geventws.engineio.install()
"""

from __future__ import annotations

from .server.engineio import install

__all__ = ["install"]
