"""RFC 6455 as simply as it can be said: slow, whole-minded, and sharing nothing with the library.

What a connection must make of a stream of bytes, to compare both cores with.
"""

import itertools
from typing import NamedTuple

#: The maximum number of Pongs for Pings that arrive at once.
MOST_PONGS = 16
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Failure(Exception):
    """The peer's fault, with the close code for it."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Outcome(NamedTuple):
    messages: list
    #: The automatic answers: ("pong", payload) and ("close", code, reason), where any reason
    #: is None.
    answers: list
    is_closed: bool
    close_code: int | None
    fault: int | None


class Model:
    """One side of a connection; ``advance`` as often as bytes have come."""

    def __init__(self, client: bool, max_message_size: int) -> None:
        self.client = client
        self.max_message_size = max_message_size
        self.position = 0
        self.opcode = None
        self.payload = b""
        self.messages = []
        self.answers = []
        self.pings = []
        self.is_closing = False
        self.is_closed = False
        self.close_code = None
        self.fault = None

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.messages, self.answers, self.is_closed, self.close_code, self.fault)

    def close(self, code: int) -> None:
        if not self.is_closing and not self.is_closed:
            self.is_closing = True
            self.close_code = code
            self.answers.append(("close", code, ""))

    def advance(self, stream: bytes) -> None:
        """Parse the complete frames of ``stream``, and check the incomplete rest."""
        try:
            self.take_frames(stream)
        except Failure as failure:
            self.answer_pings()
            self.is_closed = True
            if not self.is_closing:
                self.close_code = self.fault = failure.code
                self.answers.append(("close", failure.code, None))
        self.answer_pings()

    def take_frames(self, stream: bytes) -> None:
        while not self.is_closed and self.take_frame(stream):
            pass

    def answer_pings(self) -> None:
        """Answer the latest of the Pings that arrived at once (section 5.5.3)."""
        self.answers += [("pong", payload) for payload in self.pings[-MOST_PONGS:]]
        self.pings = []

    def take_frame(self, stream: bytes) -> bool:
        rest = stream[self.position :]
        if len(rest) < 2:
            return False
        first, second = rest[:2]
        fin, rsv, opcode = bool(first & 0x80), first & 0x70, first & 0x0F
        masked, size = bool(second & 0x80), second & 0x7F
        if masked == self.client:
            raise Failure(1002)
        if rsv or opcode not in {0, 1, 2, 8, 9, 10}:
            raise Failure(1002)
        if opcode >= CLOSE and (not fin or size > 125):
            raise Failure(1002)
        if opcode == CONTINUATION and self.opcode is None:
            raise Failure(1002)
        if opcode in {TEXT, BINARY} and self.opcode is not None:
            raise Failure(1002)
        width = {126: 2, 127: 8}.get(size, 0)
        head = 2 + width + (4 if masked else 0)
        if len(rest) < head:
            return False
        if width:
            size = int.from_bytes(rest[2 : 2 + width], "big")
            if size < {2: 126, 8: 65536}[width] or size >= 1 << 63:
                raise Failure(1002)
        is_control = opcode >= CLOSE
        if not is_control and len(self.payload) + size > self.max_message_size:
            raise Failure(1009)
        payload = rest[head : head + size]
        if masked:
            mask = rest[head - 4 : head]
            payload = bytes(a ^ b for a, b in zip(payload, itertools.cycle(mask), strict=False))
        is_whole = len(payload) == size
        if is_control:
            if is_whole:
                self.position += head + size
                self.control(opcode, payload)
            return is_whole
        kind = opcode or self.opcode
        if kind == TEXT and not could_become_utf8(self.payload + payload):
            raise Failure(1007)
        if not is_whole:
            return False
        self.position += head + size
        self.opcode, self.payload = kind, self.payload + payload
        if fin:
            self.deliver()
        return True

    def deliver(self) -> None:
        opcode, payload = self.opcode, self.payload
        self.opcode, self.payload = None, b""
        if opcode == TEXT:
            try:
                message = payload.decode()
            except UnicodeDecodeError:
                raise Failure(1007) from None
        else:
            message = payload
        if not self.is_closing:
            self.messages.append(message)

    def control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING and not self.is_closing:
            self.pings.append(payload)
        if opcode != CLOSE:
            return
        if len(payload) == 1:
            raise Failure(1002)
        code = int.from_bytes(payload[:2], "big") if payload else 1005
        if payload and not (
            (1000 <= code <= 1014 and code not in {1004, 1005, 1006}) or 3000 <= code <= 4999
        ):
            raise Failure(1002)
        try:
            reason = payload[2:].decode()
        except UnicodeDecodeError:
            raise Failure(1007) from None
        self.is_closed = True
        if not self.is_closing:
            self.close_code = code
            self.answer_pings()
            self.answers.append(("close", code, reason))


def could_become_utf8(data: bytes) -> bool:
    """Whether some text begins with these bytes."""
    try:
        data.decode()
    except UnicodeDecodeError as problem:
        rest = data[problem.start :]
        return len(rest) < 4 and any(map(is_utf8, completions(rest)))
    return True


def completions(rest: bytes):
    """All ways to complete a character that need to be tried: the second byte decides."""
    for size in (2, 3, 4):
        if len(rest) >= 2:
            yield rest.ljust(size, b"\x80")
        else:
            for second in range(0x80, 0xC0):
                yield (rest + bytes((second,))).ljust(size, b"\x80")


def is_utf8(data: bytes) -> bool:
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError:
        return False
