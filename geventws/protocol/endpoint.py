"""One side of an open connection, without I/O: control frames and the closing handshake.

RFC 6455 sections 5.5 and 7. Data frames are parsed by the base class, in
:mod:`geventws.protocol.reader`.
"""

from __future__ import annotations

from collections import deque

from ..exceptions import ConnectionClosed, ProtocolError
from .frames import CloseCode, Opcode, close_payload, parse_close
from .permessage_deflate import PerMessageDeflate
from .reader import FrameReader
from .state import TRANSITIONS, Event, State

# Looking up a member of an enum takes ten times as long as a global.
_PENDING = State.PENDING
_OPEN = State.OPEN
_CLOSING = State.CLOSING
_DRAINING = State.DRAINING
_CLOSED = State.CLOSED
_ACCEPT = Event.ACCEPT
_RECEIVE_CLOSE = Event.RECEIVE_CLOSE
_END_TRANSPORT = Event.END_TRANSPORT
_CLOSE = Opcode.CLOSE
_PONG = Opcode.PONG
_ABNORMAL_CLOSURE = CloseCode.ABNORMAL_CLOSURE
#: The maximum number of Pongs if many Pings arrive at once. The latest Pings are answered.
MAX_PONGS = 16


class Endpoint(FrameReader):
    """Bytes in; messages and bytes out.

    Input: ``receive_data()`` copies bytes, ``borrow()`` parses a buffer of the caller in place
    until ``keep()``. Output: ``next_message()`` returns messages, :meth:`take_output` returns the
    Pong and Close frames that are due.

    A fault of the peer raises no exception. The endpoint prepares a Close frame, changes to
    ``DRAINING``, and stores the fault in :attr:`error`.

    :param client: whether this is the client's side, which masks its frames.
    """

    __slots__ = ()

    # ------------------------------------------------------------------ events

    def open(self, max_message_size: int | None, extension: PerMessageDeflate | None) -> None:
        """Start the connection after the opening handshake.

        :param max_message_size: in bytes of payload. A longer message fails with 1009 before it is
            buffered. ``None`` means no limit.
        :param extension: permessage-deflate, if both sides agreed on it.
        """
        self._configure(max_message_size, extension)
        self._change(_ACCEPT)

    def allow_messages_of(self, size: int) -> None:
        """Set ``max_message_size`` after the opening handshake."""
        self._configure(size, self.extension)

    def refuse(self, lost_by_peer: bool | None = None) -> None:
        """End a connection whose opening handshake has failed; nothing if it is not pending.

        :param lost_by_peer: if TCP was lost, whether the peer ended it; else ``None``.
        """
        if self.state is _PENDING:
            if lost_by_peer is not None:
                self._note_close(_ABNORMAL_CLOSURE, "", by_peer=lost_by_peer)
            self._change(Event.REFUSE)

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Start the closing handshake, RFC 6455 section 7.1.2. No effect if it has started.

        :raises ValueError: if a Close frame cannot carry the code or the reason.
        """
        payload = close_payload(code, reason)
        if self.state is _OPEN:
            self._note_close(code, reason, by_peer=False)
            self._add_output(_CLOSE, payload)
            self._change(Event.SEND_CLOSE)

    def end_transport(self, *, by_peer: bool = True) -> None:
        """Record the end of TCP. Without a Close frame, the code is 1006, RFC 6455 section 7.1.5.

        :param by_peer: whether the peer ended it, rather than this side.
        """
        if self.state is not _CLOSED and self.state is not _PENDING:
            self._note_close(_ABNORMAL_CLOSURE, "", by_peer=by_peer)
            self._change(_END_TRANSPORT)

    # ------------------------------------------------------------------ output

    def take_output(self) -> bytes:
        """Return the control frames that are due, in order, each only once."""
        if self._pings is not None:
            self._answer_pings()
        frames, self._output = self._output, None
        return b"".join(frames) if frames else b""

    def _add_output(self, opcode: int, payload: bytes) -> None:
        if self._pings is not None:
            self._answer_pings()
        if self._output is None:
            self._output = []
        self._output.append(self.encode(opcode, payload))

    def _answer_pings(self) -> None:
        pings, self._pings = self._pings or (), None
        for payload in pings:
            self._add_output(_PONG, payload)

    def closed_error(self, *, lost_by_peer: bool = False) -> ConnectionClosed:
        """The exception for a use of the connection after its end.

        :param lost_by_peer: whether the peer has ended TCP, if the end is not recorded yet.
        """
        if self.close_code is None:
            return ConnectionClosed(_ABNORMAL_CLOSURE, by_peer=lost_by_peer)
        return ConnectionClosed(self.close_code, self.close_reason, by_peer=self.closed_by_peer)

    # ------------------------------------------- called by the frame reader, see its docstring

    def _receive_control(self, opcode: int, payload: bytes) -> None:
        if opcode == _CLOSE:
            self._receive_close(payload)
        elif opcode == _PONG:
            self.pong = payload
            self.has_news = True
        elif self.state is _OPEN:
            # Section 5.5.3: "may elect to send a Pong frame for only the most recently processed
            # Ping frame". But the Autobahn|Testsuite expects ten Pongs for ten Pings.
            if self._pings is None:
                self._pings = deque(maxlen=MAX_PONGS)
            self._pings.append(payload)
            self.has_news = True

    def _receive_close(self, payload: bytes) -> None:
        code, reason = parse_close(payload)
        self.close_received = True
        if self.state is _OPEN:
            self._note_close(code, reason, by_peer=True)
            # Section 5.5.1: "the endpoint typically echos the status code it received". With the
            # reason, event.reason in a browser is the reason that the page has passed to close().
            self._add_output(_CLOSE, payload)
        self._change(_RECEIVE_CLOSE)

    def _fail(self, problem: ProtocolError) -> None:
        if self.state is _OPEN:
            self.error = problem
            code, reason = problem.close_code, str(problem)
            self._note_close(code, reason, by_peer=False)
            self._add_output(_CLOSE, close_payload(code, reason))
        # In CLOSING, our Close frame has been sent already.
        self._change(Event.FAIL)

    def _abort(self) -> None:
        self._note_close(_ABNORMAL_CLOSURE, "", by_peer=True)
        if _OPEN <= self.state <= _CLOSING:
            self._change(Event.FAIL)

    # ------------------------------------------------------------------- state

    def _note_close(self, code: int, reason: str, *, by_peer: bool) -> None:
        if self.close_code is None:
            self.close_code = int(code)
            self.close_reason = reason
            self.closed_by_peer = by_peer

    def _change(self, event: Event) -> None:
        following = TRANSITIONS[self.state].get(event)
        if following is None:
            raise AssertionError(f"{event.name} in the state {self.state.name}")
        self.state = following
        if following is _DRAINING or following is _CLOSED:
            self._discard_input()
        # The caller has caused the changes to the other states: they are no news.
        self.has_news = following is _CLOSING or following is _DRAINING
