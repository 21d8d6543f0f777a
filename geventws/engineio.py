"""Socket.IO: python-socketio and Flask-SocketIO with geventws and ``async_mode="gevent"``.

This works without a call on ``WebSocketServer``, ``WebSocketHandler``, ``WebSocketMiddleware``,
``Worker`` and ``python -m geventws``. Call :func:`install` if the application is served otherwise,
such as with ``socketio.run(app)``, or if neither simple-websocket nor gevent-websocket is
installed; before or after the Socket.IO server is created::

    import geventws.engineio

    geventws.engineio.install()
"""

from __future__ import annotations

from .server.engineio import install

__all__ = ["install"]
