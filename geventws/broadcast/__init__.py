"""Broadcast: one message to many connections, also in other processes and on other machines.

From the bottom up:

- :mod:`.backend`: the interface of a backend.
- :mod:`.memory` and :mod:`.redis`: the built-in backends.
- :mod:`.subscribers`: the subscribers of this process.
- :mod:`.broadcast`: the interface for applications.
"""

from __future__ import annotations

from .backend import Backend, History, Message, Receiver
from .broadcast import Broadcast
from .subscribers import Listener, Subscription

__all__ = ["Backend", "Broadcast", "History", "Listener", "Message", "Receiver", "Subscription"]
