"""The states of a connection, the events that change them, and the table of transitions.

========================== ==================================================================
State                      Meaning
========================== ==================================================================
:attr:`State.PENDING`      The opening handshake is not finished.
:attr:`State.OPEN`         Messages travel both ways (RFC 6455 section 6).
:attr:`State.CLOSING`      This side has sent a Close frame and waits for the peer's.
:attr:`State.DRAINING`     The closing handshake is over or has failed. No input is parsed any
                           more; output may still be on its way to the peer.
:attr:`State.CLOSED`       TCP has ended, or belongs to other code. Nothing is read or written.
========================== ==================================================================

Every way to the end of a connection is a row of :data:`TRANSITIONS`:

- The peer's Close frame: ``RECEIVE_CLOSE``, then ``END_TRANSPORT`` when the answer has been sent.
- Our Close frame (``close()``, the end of a view, a drain, a message that takes too long):
  ``SEND_CLOSE``, ``RECEIVE_CLOSE``, ``END_TRANSPORT``.
- A protocol error of the peer, or an exception in the parser: ``FAIL``, ``END_TRANSPORT``.
- The loss of TCP, a deadline without progress, a killed view, a fork: ``END_TRANSPORT``.
- A request that is answered with HTTP instead: ``REFUSE``.
"""

from __future__ import annotations

import enum


class State(enum.IntEnum):
    """The state of a connection."""

    PENDING = 0
    OPEN = 1
    CLOSING = 2
    DRAINING = 3
    CLOSED = 4


class Event(enum.IntEnum):
    """An event that changes the state of a connection."""

    #: The opening handshake is finished.
    ACCEPT = 0
    #: The opening handshake has failed.
    REFUSE = 1
    #: This side sends the first Close frame.
    SEND_CLOSE = 2
    #: A Close frame of the peer arrives.
    RECEIVE_CLOSE = 3
    #: _Fail the WebSocket Connection_, RFC 6455 section 7.1.7.
    FAIL = 4
    #: TCP has ended, or this side drops it.
    END_TRANSPORT = 5


#: The state that follows, for every event that a state allows.
TRANSITIONS: dict[State, dict[Event, State]] = {
    State.PENDING: {
        Event.ACCEPT: State.OPEN,
        Event.REFUSE: State.CLOSED,
    },
    State.OPEN: {
        Event.SEND_CLOSE: State.CLOSING,
        Event.RECEIVE_CLOSE: State.DRAINING,
        Event.FAIL: State.DRAINING,
        Event.END_TRANSPORT: State.CLOSED,
    },
    State.CLOSING: {
        Event.RECEIVE_CLOSE: State.DRAINING,
        Event.FAIL: State.DRAINING,
        Event.END_TRANSPORT: State.CLOSED,
    },
    State.DRAINING: {
        Event.END_TRANSPORT: State.CLOSED,
    },
    State.CLOSED: {},
}
