"""One side of an open connection, without any I/O: RFC 6455 sections 5.5 and 7."""
from __future__ import annotations

from collections import deque

from ._core import FrameReader
from .exceptions import ProtocolError
from .frames import TRANSITIONS, CloseCode, Opcode, State, close_payload, parse_close
from .permessage_deflate import PerMessageDeflate

#: How many Pings are answered of those that come at once: the latest.
MAX_PONGS = 16


class Protocol(FrameReader):
    """Bytes in, messages and bytes out.

    Put bytes in with ``receive_data()``, or point at a buffer of the caller's with ``borrow()``
    and give it back with ``keep()``. Take messages with ``next_message()``, and what the protocol
    itself has to say (Pong and Close frames) with :meth:`take_output`.

    A peer's fault never raises: the protocol answers it with a Close frame, becomes ``CLOSED``,
    and says in :attr:`error` what it was.

    :param client: whether this is the client's side, which masks what it sends.
    :param max_message_size: in bytes of payload; a longer message fails with 1009 before it is
        buffered. None for no limit.
    :param deflate: permessage-deflate, if that was agreed on in the opening handshake.
    """

    __slots__ = (
        "_output", "_pings", "close_code", "close_reason", "close_received", "closed_by_peer",
        "error", "pong",
    )

    def __init__(
        self, *, client: bool = False, max_message_size: int | None = 1 << 20,
        deflate: PerMessageDeflate | None = None,
    ) -> None:
        super().__init__(client, max_message_size, deflate)
        # Most connections have nothing to say for hours.
        self._output: list[bytes] | None = None
        #: The payloads of Pings that are still to be answered.
        self._pings: deque[bytes] | None = None
        #: Of the Close frame that came first, the peer's or ours; 1006 if none ever did.
        self.close_code: int | None = None
        self.close_reason = ""
        #: Whether the peer began the closing handshake, or broke off.
        self.closed_by_peer = False
        #: Whether the peer has said that it sends nothing more.
        self.close_received = False
        #: What the peer did wrong, once it did.
        self.error: ProtocolError | None = None
        #: The payload of the latest Pong; the caller resets it to None.
        self.pong: bytes | None = None

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Begin the closing handshake, RFC 6455 section 7.1.2; nothing if it has begun.

        :raises ValueError: when a Close frame cannot carry that code or reason.
        """
        payload = close_payload(code, reason)
        if self.state is State.OPEN:
            self._note_close(code, reason, by_peer=False)
            self._say(Opcode.CLOSE, payload)
            self._move(State.CLOSING)

    def connection_lost(self) -> None:
        """The transport ended; without Close frames this is 1006, RFC 6455 section 7.1.5."""
        if self.state is not State.CLOSED:
            self._note_close(CloseCode.ABNORMAL_CLOSURE, "", by_peer=True)
            self._move(State.CLOSED)

    def take_output(self) -> bytes:
        """The protocol's own frames that are to be sent, in order, each only once."""
        if self._pings is not None:
            self._answer_pings()
        frames, self._output = self._output, None
        return b"".join(frames) if frames else b""

    def _say(self, opcode: int, payload: bytes) -> None:
        if self._pings is not None:
            self._answer_pings()
        if self._output is None:
            self._output = []
        self._output.append(self.encode(opcode, payload))

    def _answer_pings(self) -> None:
        pings, self._pings = self._pings or (), None
        for payload in pings:
            self._say(Opcode.PONG, payload)

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == Opcode.CLOSE:
            self._receive_close(payload)
        elif opcode == Opcode.PONG:
            self.pong = payload
            self.has_news = True
        elif self.state is State.OPEN:
            # Section 5.5.3: "may elect to send a Pong frame for only the most recently processed
            # Ping frame". The Autobahn|Testsuite expects an answer to each of ten.
            if self._pings is None:
                self._pings = deque(maxlen=MAX_PONGS)
            self._pings.append(payload)
            self.has_news = True

    def _receive_close(self, payload: bytes) -> None:
        code, reason = parse_close(payload)
        self.close_received = True
        if self.state is State.OPEN:
            self._note_close(code, reason, by_peer=True)
            # Section 5.5.1: "the endpoint typically echos the status code it received". With the
            # reason, a browser's event.reason is the one that its page has given.
            self._say(Opcode.CLOSE, payload)
        self._move(State.CLOSED)

    def _fail(self, problem: ProtocolError) -> None:
        """_Fail the WebSocket Connection_, RFC 6455 section 7.1.7."""
        if self.state is State.OPEN:
            self.error = problem
            code, reason = problem.close_code, str(problem)
            self._note_close(code, reason, by_peer=False)
            self._say(Opcode.CLOSE, close_payload(code, reason))
        # While closing there is nothing left to tell the peer.
        self._move(State.CLOSED)

    def _note_close(self, code: int, reason: str, *, by_peer: bool) -> None:
        if self.close_code is None:
            self.close_code = int(code)
            self.close_reason = reason
            self.closed_by_peer = by_peer

    def _move(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"from {self.state.name} to {state.name}")
        self.state = state
        self.has_news = True
        if state is State.CLOSED:
            self._discard_input()
