"""Broadcast: one message to many connections, also in other processes and on other machines.

From the bottom up:

- :mod:`.backend`: the interface of a backend; :mod:`.registry` finds one by its URL.
- :mod:`.memory`, :mod:`.redis` and :mod:`.postgresql`: the built-in backends.
- :mod:`.subscribers`: the subscribers of this process.
- :mod:`.members` and :mod:`.presence`: the members of channels, in all processes.
- :mod:`.broadcast`: the interface for applications.
"""

from __future__ import annotations

from .backend import Backend, History, Message, Receiver, Refusal
from .broadcast import Broadcast
from .members import PresenceEvent
from .subscribers import Listener, Subscription, Subscriptions

__all__ = [
    "Backend",
    "Broadcast",
    "History",
    "Listener",
    "Message",
    "PresenceEvent",
    "Receiver",
    "Refusal",
    "Subscription",
    "Subscriptions",
]
