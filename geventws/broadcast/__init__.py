"""One message to many connections: in this process, in others, and on other machines.

From the bottom up: :mod:`.base` is what a backend is, :mod:`.memory` and :mod:`.redis` are two,
:mod:`.local` is who listens in this process, :mod:`.broadcast` brings them together.
"""

from __future__ import annotations

from .backend import Backend, History, Local, Message
from .broadcast import Broadcast
from .subscribers import Listener, Subscription

__all__ = ["Backend", "Broadcast", "History", "Listener", "Local", "Message", "Subscription"]
