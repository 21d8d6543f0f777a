"""Frames and messages, RFC 6455 sections 5 and 8: bytes in, messages out, no I/O.

The Python twin, which is the reference for ``_reader.pyx``. It parses lazily:
:meth:`FrameReader.next_message` stops after the first complete message, so that the caller can
pass it on before the following bytes are parsed.
"""

from __future__ import annotations

import codecs
import os
from struct import Struct
from typing import TYPE_CHECKING

from ..exceptions import InvalidPayload, MessageTooBig, ProtocolError
from .frames import MAX_CONTROL_PAYLOAD, Opcode
from .state import State

if TYPE_CHECKING:
    from collections import deque

    from .compression import Inflation
    from .permessage_deflate import PerMessageDeflate

# Plain integers: every received frame is compared with them.
_TEXT = int(Opcode.TEXT)
_BINARY = int(Opcode.BINARY)
_CONTINUATION = int(Opcode.CONTINUATION)
_CLOSE = int(Opcode.CLOSE)
_PONG = int(Opcode.PONG)
_OPEN = State.OPEN
_CLOSING = State.CLOSING
_DRAINING = State.DRAINING

_FIN = 0x80
_RSV = 0x70
#: "Per-Message Compressed", RFC 7692 section 6.
_RSV1 = 0x40
_MASKED = 0x80
_FIN_TEXT = _FIN | _TEXT
_FIN_BINARY = _FIN | _BINARY

_from_bytes = int.from_bytes
#: For sizes up to 125: the mask as an integer, and the payload.
_UNPACK = [Struct(f"<I{size}s").unpack_from for size in range(126)]
#: A mask times _REPEAT is the repeated mask; _CUT truncates it to the size.
_REPEAT = [_from_bytes((b"\1\0\0\0" * 32)[:size], "little") for size in range(126)]
_CUT = [(1 << 8 * size) - 1 for size in range(126)]

#: The headers of short final frames without a mask, by size and opcode.
_SHORT_HEADS = [[bytes((_FIN | opcode, size)) for opcode in range(16)] for size in range(126)]

_new_utf8_decoder = codecs.getincrementaldecoder("utf-8")

#: Larger than any message. The sum with compression_overhead() is still a Py_ssize_t.
NO_LIMIT = 1 << 62
#: Control frames and fragments that one call of :meth:`FrameReader.next_message` parses at most.
#: A peer that sends nothing else must not delay the other connections.
MAX_STEPS = 128


def apply_mask(data: bytes | bytearray | memoryview, mask: bytes | bytearray) -> bytes:
    """XOR ``data`` with the four bytes of ``mask`` over and over, RFC 6455 section 5.3."""
    size = len(data)
    # One XOR of two long integers: the fastest way in the standard library.
    stretched = (mask * (size // 4 + 1))[:size]
    number = _from_bytes(data, "little") ^ _from_bytes(stretched, "little")
    return number.to_bytes(size, "little")


def encode_frame(
    opcode: int,
    payload: bytes | bytearray | memoryview,
    mask: bytes | None = None,
    fin: bool = True,
) -> bytes:
    """One frame, RFC 6455 section 5.2, with its length in the shortest form."""
    size = len(payload)
    first = _FIN | opcode if fin else opcode
    masked = 0 if mask is None else _MASKED
    if size < 126:
        head = bytes((first, masked | size))
    elif size < 65536:
        head = bytes((first, masked | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, masked | 127)) + size.to_bytes(8, "big")
    if mask is None:
        return head + payload
    return head + mask + apply_mask(payload, mask)


def compression_overhead(size: int) -> int:
    """Bytes that compression may add to a message. zlib adds at most 5 to each 16 KiB."""
    return size // 1024 + 64


class FrameReader:
    """Parses data frames; :class:`~geventws.protocol.endpoint.Endpoint` handles control frames.

    One object holds both classes, to save memory. The reader calls only these methods of the
    endpoint: ``_receive_control()``, ``_fail()`` and ``_abort()``.

    :param client: whether this is the client's side, which masks its frames.
    """

    __slots__ = (
        "_borrowed",
        "_buffer",
        "_compressed",
        "_decoder",
        "_end",
        "_fin",
        "_fragments",
        "_inflation",
        "_left",
        "_mask",
        "_max_message_size",
        "_message_number",
        "_must_mask",
        "_number",
        "_opcode",
        "_output",
        "_pings",
        "_position",
        "_rest_number",
        "close_code",
        "close_reason",
        "close_received",
        "closed_by_peer",
        "error",
        "extension",
        "has_news",
        "interrupted",
        "is_client",
        "pong",
        "state",
    )

    def __init__(self, client: bool = False) -> None:
        #: Which side this is.
        self.is_client = client
        self.state = State.PENDING
        #: Whether there is output, a Pong, another state or an interruption. The caller resets it.
        self.has_news = False
        #: Whether next_message() returned None after MAX_STEPS frames, before the end of the input.
        #: The caller resets it, lets other connections run, and calls next_message() again.
        self.interrupted = False
        #: permessage-deflate, if both sides agreed on it.
        self.extension: PerMessageDeflate | None = None
        # Control frames and the closing handshake, see Endpoint.
        # None while no frame waits: most connections send no control frame for hours.
        self._output: list[bytes] | None = None
        #: Payloads of Pings that have not been answered yet.
        self._pings: deque[bytes] | None = None
        #: Code and reason of the first Close frame, from either side; 1006 without a Close frame.
        self.close_code: int | None = None
        self.close_reason = ""
        #: Whether the peer started the closing handshake, or dropped the connection.
        self.closed_by_peer = False
        #: Whether the peer has sent a Close frame.
        self.close_received = False
        #: The fault of the peer that ended the connection.
        self.error: ProtocolError | None = None
        #: The payload of the latest Pong; the caller resets it to None.
        self.pong: bytes | None = None
        self._must_mask = 0 if client else _MASKED
        self._max_message_size = NO_LIMIT
        # Input: the bytes from _position to _end of _buffer.
        self._buffer: bytes | bytearray = b""
        self._borrowed = False
        self._position = 0
        self._end = 0
        # The message that is assembled from several frames, or from parts of one.
        self._opcode = 0
        self._compressed = False
        self._inflation: Inflation | None = None
        self._fragments = bytearray()
        self._decoder: codecs.IncrementalDecoder | None = None
        # The frame whose header is parsed and whose payload is incomplete.
        self._left = 0
        self._mask = b""
        self._fin = False
        # Numbers of the incomplete message and frame, see unfinished().
        self._number = 0
        self._message_number = 0
        self._rest_number = 0

    def _configure(self, max_message_size: int | None, extension: PerMessageDeflate | None) -> None:
        """Set the parameters that the opening handshake has agreed on."""
        self._max_message_size = (
            NO_LIMIT if max_message_size is None else min(max_message_size, NO_LIMIT)
        )
        self.extension = extension

    # ------------------------------------------------------------------ input

    def _discard_input(self) -> None:
        """Discard all input. From DRAINING on, no more is accepted."""
        self._fragments = bytearray()
        self._inflation = None
        self._left = 0
        self._position = self._end

    @property
    def has_input(self) -> bool:
        """Whether bytes are waiting to be parsed."""
        return self._position < self._end

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes from the peer to the input."""
        if self.state is not _OPEN and self.state is not _CLOSING:
            return
        if self._borrowed or self._position or not self._end:
            self._number_rest()
        self._buffer = bytes(self._buffer[self._position : self._end]) + data
        self._borrowed = False
        self._position = 0
        self._end = len(self._buffer)

    def borrow(self, buffer: bytearray, size: int) -> None:
        """Parse the first ``size`` bytes of a buffer in place, after the kept input.

        The buffer must not change until :meth:`keep`.
        """
        if self._position < self._end:
            self.receive_data(memoryview(buffer)[:size])
        elif self.state is _OPEN or self.state is _CLOSING:
            self._buffer = buffer
            self._borrowed = True
            self._position = 0
            self._end = size

    def keep(self) -> None:
        """Copy the rest of a borrowed buffer, so that the caller may reuse the buffer."""
        if self._borrowed:
            if self._position < self._end:
                self._number_rest()
            self._buffer = bytes(self._buffer[self._position : self._end])
            self._borrowed = False
            self._position = 0
            self._end = len(self._buffer)

    def _number_rest(self) -> None:
        """The kept input starts with another frame than before."""
        self._number += 1
        self._rest_number = self._number

    def unfinished(self) -> int:
        """A number that identifies the incomplete message or frame; 0 if there is none.

        The same number means the same message. All complete messages of the kept input must have
        been returned before.
        """
        if self._opcode:
            return self._message_number
        if self._position == self._end:
            return 0
        if self._borrowed or self._position:
            self.receive_data(b"")
        return self._rest_number

    def next_message(self) -> str | bytes | None:
        """Parse the input up to the end of the next message and return it.

        ``None`` means that no message is complete, that the connection is not open any more
        (messages before the peer's Close frame are skipped), or that :attr:`interrupted` is set.

        After an exception, such as MemoryError, the state is DRAINING and the input is discarded:
        the next byte may be anywhere inside a frame.
        """
        buffer = self._buffer
        end = self._end
        must_mask = self._must_mask
        steps = 0
        try:
            while (position := self._position) < end:
                if self._left:
                    message = self._continue_frame()
                    if message is not None and self.state is _OPEN:
                        return message
                    if self.interrupted:
                        return None
                    continue
                if end - position < 2:
                    return None
                first = buffer[position]
                size = buffer[position + 1] ^ must_mask
                if size & _MASKED:
                    raise ProtocolError("a frame without a mask" if must_mask else "a masked frame")
                start = position + (6 if must_mask else 2)
                if size > 125:
                    start += 2 if size == 126 else 8
                if start > end:
                    # The header is incomplete, but its first bytes may be invalid already.
                    self._check_header(first, size)
                    return None
                if size > 125:
                    size = self._long_size(position, size)
                stop = start + size
                if (
                    stop > end
                    or (first != _FIN_TEXT and first != _FIN_BINARY)  # noqa: PLR1714 - faster
                    or self._opcode
                    or size > self._max_message_size
                ):
                    message = self._begin_frame(first, start, size)
                    if message is not None and self.state is _OPEN:
                        return message
                    if self._position == position or self.state is _DRAINING or self.interrupted:
                        return None
                    steps += 1
                    if steps == MAX_STEPS:
                        self._interrupt()
                        return None
                    continue
                self._position = stop
                if not must_mask:
                    payload = bytes(buffer[start:stop])
                elif size > 125:
                    payload = apply_mask(buffer[start:stop], buffer[start - 4 : start])
                else:
                    # The same, in half the time.
                    mask, payload = _UNPACK[size](buffer, start - 4)
                    number = _from_bytes(payload, "little") ^ (mask * _REPEAT[size] & _CUT[size])
                    payload = number.to_bytes(size, "little")
                message = payload.decode() if first == _FIN_TEXT else payload
                if self.state is _OPEN:
                    return message
                steps += 1
                if steps == MAX_STEPS:
                    self._interrupt()
                    return None
        except UnicodeDecodeError:
            self._fail(InvalidPayload("text that is not UTF-8"))
        except ProtocolError as problem:
            self._fail(problem)
        except BaseException:
            self._abort()
            raise
        return None

    def _interrupt(self) -> None:
        """Set :attr:`interrupted` if input is left."""
        if self._position < self._end:
            self.interrupted = self.has_news = True

    def _check_header(self, first: int, size: int) -> None:
        """RFC 6455 section 5.2: reserved bits and opcodes; 5.4 and 5.5: fragmentation, control."""
        opcode = first & 0x0F
        if first & _RSV and not (
            # Only the first frame of a message is marked as compressed, RFC 7692 section 6.1.
            first & _RSV == _RSV1 and self.extension and opcode in {_TEXT, _BINARY}
        ):
            # "MUST be 0 unless an extension is negotiated"
            raise ProtocolError("a reserved bit is set")
        if opcode >= _CLOSE:
            if opcode > _PONG:
                raise ProtocolError(f"the reserved opcode {opcode:#x}")
            if not first & _FIN:
                raise ProtocolError("a fragmented control frame")
            if size > MAX_CONTROL_PAYLOAD:
                raise ProtocolError("a control frame of more than 125 bytes")
        elif opcode > _BINARY:
            raise ProtocolError(f"the reserved opcode {opcode:#x}")
        elif opcode == _CONTINUATION:
            if not self._opcode:
                raise ProtocolError("a continuation of no message")
        elif self._opcode:
            raise ProtocolError("a new message inside a fragmented one")

    def _long_size(self, position: int, size: int) -> int:
        """The extended payload length, RFC 6455 section 5.2: minimal, and below 2**63."""
        width, least = (2, 126) if size == 126 else (8, 65536)
        size = int.from_bytes(self._buffer[position + 2 : position + 2 + width], "big")
        if size < least:
            raise ProtocolError("a length that is not in its shortest form")
        if size >> 63:
            raise ProtocolError("a length of 2**63 bytes or more")
        return size

    def _begin_frame(self, first: int, start: int, size: int) -> str | bytes | None:
        """Parse a frame outside of the fast path: control, fragment, or incomplete data.

        Does not change ``_position`` when more bytes are needed first.
        """
        self._check_header(first, size)
        opcode = first & 0x0F
        mask = bytes(self._buffer[start - 4 : start]) if self._must_mask else b""
        if opcode >= _CLOSE:
            end = start + size
            if end <= self._end:
                self._position = end
                payload = bytes(self._buffer[start:end])
                self._receive_control(opcode, apply_mask(payload, mask) if mask else payload)
            return None
        if opcode:
            self._opcode = opcode
            self._number += 1
            self._message_number = self._number
            self._compressed = bool(first & _RSV1)
            text = opcode == _TEXT and not self._compressed
            self._decoder = _new_utf8_decoder() if text else None
        most = self._max_message_size
        if self._compressed:
            most += compression_overhead(most)
        if len(self._fragments) + size > most:
            raise MessageTooBig(f"a message of more than {self._max_message_size} bytes")
        self._position = start
        self._left = size
        self._mask = mask
        self._fin = bool(first & _FIN)
        return self._continue_frame()

    def _continue_frame(self) -> str | bytes | None:
        """Add the available part of the current frame's payload to the message."""
        if self._inflation is not None:
            return self._continue_inflating(self._inflation)
        position = self._position
        size = min(self._left, self._end - position)
        if size:
            piece: bytes | memoryview = memoryview(self._buffer)[position : position + size]
            if self._mask:
                piece = apply_mask(piece, self._mask)
                turn = size & 3
                self._mask = self._mask[turn:] + self._mask[:turn]
            self._position = position + size
            self._left -= size
            if self._decoder is not None:
                # Validate each part at once (RFC 6455 section 8.1). The text is decoded at the end,
                # so that many fragments take no memory.
                self._decoder.decode(piece)
                pending = self._decoder.getstate()[0]
                if pending[:1] == b"\xed" and pending[1:] >= b"\xa0":
                    # Python's decoder would wait for the third byte of a surrogate.
                    raise InvalidPayload("text that is not UTF-8")
            self._fragments += piece
        if self._left or not self._fin:
            return None
        if self._decoder is not None:
            self._decoder.decode(b"", True)
        # After our Close frame, messages are discarded and need not be decompressed.
        if self.extension is not None and self._compressed and self.state is _OPEN:
            begun = self.extension.inflate(bytes(self._fragments), self._max_message_size)
            if not isinstance(begun, bytes):
                self._inflation = begun
                self._wait_for_inflation()
                return None
            return self._take_inflated(begun)
        message: str | bytes | None = None
        if self.state is _OPEN:
            is_text = self._decoder is not None
            message = self._fragments.decode() if is_text else bytes(self._fragments)
        self._end_message()
        return message

    def _end_message(self) -> None:
        self._opcode = 0
        self._decoder = None
        self._inflation = None
        self._fragments = bytearray()

    def _continue_inflating(self, inflation: Inflation) -> str | bytes | None:
        """Decompress the next piece of a message, while the connection is open."""
        self._left = 0
        self._position += 1
        if self.state is not _OPEN:
            self._end_message()
            return None
        message = inflation.advance()
        if message is None:
            self._wait_for_inflation()
            return None
        return self._take_inflated(message)

    def _wait_for_inflation(self) -> None:
        """Ask for another call: the frame lacks one byte, which is not used."""
        self._left = 1
        if self._position < self._end:
            self._position -= 1
        else:
            self._buffer, self._borrowed = b"\0", False
            self._position, self._end = 0, 1
        self._interrupt()

    def _take_inflated(self, message: bytes) -> str | bytes:
        is_text = self._opcode == _TEXT
        self._end_message()
        return message.decode() if is_text else message

    # ------------------------------------------ implemented by the endpoint

    def _receive_control(self, opcode: int, payload: bytes) -> None:
        """Handle a control frame.

        :raises ProtocolError: for an invalid Close frame.
        """
        raise NotImplementedError

    def _fail(self, problem: ProtocolError) -> None:
        """_Fail the WebSocket Connection_ because of a fault of the peer."""
        raise NotImplementedError

    def _abort(self) -> None:
        """End the connection because of an exception in the parser, such as MemoryError."""
        raise NotImplementedError

    # ----------------------------------------------------------------- output

    def encode_message(
        self, opcode: int, payload: bytes | bytearray | memoryview, compress: bool = True
    ) -> bytes:
        """Encode a message as one frame, compressed if that was agreed and makes it shorter."""
        size = len(payload)
        extension = self.extension
        if extension is not None and compress and size >= extension.min_size:
            compressed = extension.compress(payload)
            if compressed is not None:
                return self.encode(_RSV1 | opcode, compressed)
        if size < 126 and not self.is_client:
            return _SHORT_HEADS[size][opcode] + payload  # most frames
        return self.encode(opcode, payload)

    def encode(
        self, opcode: int, payload: bytes | bytearray | memoryview, fin: bool = True
    ) -> bytes:
        """Encode a frame. A client masks it with four new random bytes (section 5.3)."""
        return encode_frame(opcode, payload, os.urandom(4) if self.is_client else None, fin)
