"""The ways in which a connection comes to :attr:`State.CLOSED`, and what each does to TCP.

The states and their transitions are in :mod:`geventws.protocol.state`. Everything that ends a
connection goes through ``Connection._end()`` with one of these reasons.
"""

from __future__ import annotations

import enum


class End(enum.Enum):
    """Why TCP is given up."""

    COMPLETE = "both Close frames have passed, and all output is with the kernel"
    EOF = "the peer has shut down its side of TCP"
    ERROR = "TCP has failed, or the client has closed after the server"
    DROPPED = "the view has ended or was killed, or the peer has not answered a Close frame"
    TIMEOUT = "the peer has neither read nor answered in time"
    FAULT = "an unexpected exception was raised in the hub"
    DESCRIPTOR = "other code has closed the descriptor"
    FORK = "this is a child process: the peer belongs to the parent"


class TCP(enum.Enum):
    """What happens to the socket."""

    SHUTDOWN = "output that the kernel has is still delivered"
    RESET = "output that the kernel has is discarded"
    UNTOUCHED = "the parent process goes on with it"
    DISOWNED = "the descriptor may be another connection's already"


#: What each reason does to TCP.
TCP_AT_END = {
    End.COMPLETE: TCP.SHUTDOWN,
    End.EOF: TCP.SHUTDOWN,
    End.ERROR: TCP.SHUTDOWN,
    End.DROPPED: TCP.SHUTDOWN,
    End.TIMEOUT: TCP.RESET,
    End.FAULT: TCP.SHUTDOWN,
    End.DESCRIPTOR: TCP.DISOWNED,
    End.FORK: TCP.UNTOUCHED,
}
