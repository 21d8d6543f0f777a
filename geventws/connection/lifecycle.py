"""The reasons for the change to :attr:`State.CLOSED`, and the action of each one on TCP.

The states and their transitions are in :mod:`geventws.protocol.state`. Everything that ends a
connection goes through ``Connection._end()`` with one of these reasons; only in a child process,
where the peer belongs to the parent, ``Connection._abandon()`` leaves TCP untouched.
"""

from __future__ import annotations

import enum


class TCP(enum.Enum):
    """The action on the socket at the end of a connection."""

    #: Output that the kernel has is still delivered.
    SHUTDOWN = enum.auto()
    #: Output that the kernel has is discarded.
    RESET = enum.auto()
    #: The descriptor may belong to another connection already.
    DISOWNED = enum.auto()


class End(enum.Enum):
    """The reason for the end of a connection, and the action on its socket.

    :ivar tcp: the action on the socket.
    """

    COMPLETE = TCP.SHUTDOWN, "both Close frames have passed, and all output is with the kernel"
    EOF = TCP.SHUTDOWN, "the peer has shut down its side of TCP"
    ERROR = TCP.SHUTDOWN, "TCP has failed"
    DROPPED = TCP.SHUTDOWN, "the view has ended, or the peer has not answered a Close frame"
    TIMEOUT = TCP.RESET, "the peer has neither read nor answered in time"
    FAULT = TCP.SHUTDOWN, "an unexpected exception was raised in the hub"
    DESCRIPTOR = TCP.DISOWNED, "other code has closed the descriptor"

    def __init__(self, tcp: TCP, reason: str) -> None:  # with the reason, each value is unique
        self.tcp = tcp
