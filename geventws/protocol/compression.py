"""Compressing and inflating messages, RFC 7692 section 7.2; no I/O.

Where no context is taken over from message to message, no connection keeps anything: the
compressors serve all of the process, and a message is inflated by a fresh decompressor, so that a
peer cannot refer back to what somebody else has sent.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

from ..exceptions import InvalidPayload, MessageTooBig

isal_zlib: Any = None
try:
    from isal import isal_zlib
except ImportError:
    pass  # it is an extra

Payload = bytes | bytearray | memoryview

#: What every compressed message ends with, and leaves out (section 7.2.1).
_TAIL = b"\x00\x00\xff\xff"
#: An empty final block: whoever gets to its end has seen a whole message.
_END = _TAIL + b"\x03\x00"
#: No sender needs more than one final block a message; each costs us a decompressor.
_MAX_FINAL_BLOCKS = 8
#: How much of a message is inflated at a time: at most half a millisecond's work.
_PIECE = 128 << 10
#: How much of a compressed message is given to zlib at a time.
_FEED = 64 << 10
#: As far as a message may refer back.
_WINDOW = 1 << 15
#: Up to this level ISA-L is used; who asks for a higher one wants zlib's ratio.
_MAX_FAST_LEVEL = 3
#: Below, fixed Huffman codes cost a third of the time and give four fifths of the ratio.
_SHORT = 4 << 10


class Compressor:
    """Compresses each message by itself, for any number of connections.

    :param level: 1 (fast) to 9 (small).
    :param window_bits: how far back a message may refer, 8 to 15.
    :param memory_level: of zlib, 1 to 9.
    """

    def __init__(self, level: int, window_bits: int, memory_level: int) -> None:
        if isal_zlib is None or level > _MAX_FAST_LEVEL or window_bits < 15:
            self._long = self._short = _Pool(
                partial(_zlib_compressor, level, window_bits, memory_level)
            )
            return
        new = isal_zlib.compressobj
        self._long = self._short = _Pool(partial(new, max(level - 1, 1), zlib.DEFLATED, -15))
        if level == 1:
            self._short = _Pool(partial(new, 0, zlib.DEFLATED, -15, 8, zlib.Z_FIXED))

    def compress(self, payload: Payload) -> bytes | None:
        """The compressed payload, or None if that would not be shorter."""
        return (self._short if len(payload) < _SHORT else self._long).compress(payload)


class _Pool:
    """Compressors of one kind: as many as there are threads that compress at the same time."""

    def __init__(self, new: Callable[[], Any]) -> None:
        self._new = new
        self._idle: list[Any] = []

    def compress(self, payload: Payload) -> bytes | None:
        try:
            compressor = self._idle.pop()
        except IndexError:
            compressor = self._new()
        # A full flush makes the next message independent of this one.
        data: bytes = compressor.compress(payload) + compressor.flush(zlib.Z_FULL_FLUSH)
        self._idle.append(compressor)
        return data[:-4] if len(data) - 4 < len(payload) else None


class ContextCompressor:
    """Compresses the messages of one connection, each with the help of those before it."""

    def __init__(self, level: int, window_bits: int, memory_level: int) -> None:
        self._parameters = level, window_bits, memory_level
        self._compressor: Any = None

    def compress(self, payload: Payload) -> bytes | None:
        """The compressed payload, or None if that would not be shorter."""
        compressor = self._compressor or _zlib_compressor(*self._parameters)
        data: bytes = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        if len(data) - 4 >= len(payload):
            # The peer will not see it compressed, so that nothing may refer to it.
            self._compressor = None
            return None
        self._compressor = compressor
        return data[:-4]


def _zlib_compressor(level: int, window_bits: int, memory_level: int) -> Any:
    # zlib has no raw stream with 8 bits. With 9 it refers back 250 bytes at most, and 8 allow 256.
    return zlib.compressobj(level, zlib.DEFLATED, -max(window_bits, 9), memory_level)


class Inflation:
    """A long message that is being inflated, a piece at a time; begun by :func:`inflate`.

    Inflating a megabyte takes four milliseconds where a kilobyte stands for it, and as long nobody
    else would be served.
    """

    __slots__ = (
        "_blocks",
        "_decompressor",
        "_input",
        "_keep",
        "_max_size",
        "_most",
        "_pieces",
        "_size",
    )

    def __init__(
        self,
        decompressor: Any,
        rest: memoryview,
        piece: bytes,
        most: int,
        max_size: int,
        keep: Callable[[Any], None] | None,
    ) -> None:
        self._decompressor = decompressor
        self._input = rest
        self._pieces = [piece]
        self._most = most
        self._size = len(piece)
        self._max_size = max_size
        self._keep = keep
        self._blocks = 0

    def advance(self) -> bytes | None:
        """Inflate the next piece; returns the whole message after the last one, else ``None``.

        :raises MessageTooBig: as soon as more than ``max_size`` bytes come out.
        :raises InvalidPayload: for what is no whole DEFLATE stream. RFC 7692 names no code; 1007
            is for "data within a message that was not consistent with the type of the message"
            (RFC 6455 section 7.4.1).
        """
        decompressor = self._decompressor
        if self._size > self._max_size:
            raise MessageTooBig(f"a message of more than {self._max_size} bytes when inflated")
        rest = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
        if not rest:
            # zlib copies what it leaves of its input, so it gets no more than it may need.
            rest, self._input = self._input[:_FEED], self._input[_FEED:]
        if rest and decompressor.eof:
            decompressor = self._begin_block()
        elif not rest and (decompressor.eof or len(self._pieces[-1]) < self._most):
            return self._finish()
        self._most = min(_PIECE, self._max_size + 1 - self._size)
        piece = _decompress(decompressor, rest, self._most)
        self._pieces.append(piece)
        self._size += len(piece)
        return None

    def _begin_block(self) -> Any:
        """Go on behind a final block in the message (section 7.2.3.4): zlib's stream ends there."""
        self._blocks += 1
        if self._blocks > _MAX_FINAL_BLOCKS:
            raise InvalidPayload("a compressed message of too many parts")
        self._pieces = [b"".join(self._pieces)]
        self._decompressor = zlib.decompressobj(-15, zdict=self._pieces[0][-_WINDOW:])
        return self._decompressor

    def _finish(self) -> bytes:
        if self._keep is not None:
            self._keep(self._decompressor)
        elif not self._decompressor.eof:
            raise InvalidPayload("a compressed message that is cut off")
        return b"".join(self._pieces)


def inflate(
    decompressor: Any, payload: bytes, max_size: int, keep: Callable[[Any], None] | None = None
) -> bytes | Inflation:
    """The message, or what is to be advanced until it is there.

    :param payload: what is to be inflated, with the end that messages leave out.
    :param max_size: of the message, in bytes.
    :param keep: called at the end with the decompressor, for the messages that refer to this one;
        without it the message must be a whole stream.
    """
    most = _PIECE if max_size >= _PIECE else max_size + 1
    is_short = len(payload) <= _FEED
    rest = memoryview(payload)[_FEED:]
    piece = _decompress(decompressor, payload if is_short else payload[:_FEED], most)
    is_whole = is_short and decompressor.eof and len(piece) < most
    if keep is None and is_whole and not decompressor.unused_data:
        return piece  # what most messages are
    return Inflation(decompressor, rest, piece, most, max_size, keep)


def _decompress(decompressor: Any, payload: bytes | memoryview, most: int) -> bytes:
    try:
        piece: bytes = decompressor.decompress(payload, most)
    except zlib.error as problem:
        raise InvalidPayload("a compressed message that cannot be inflated") from problem
    return piece


class _Decompressor:
    """What inflates messages of either kind."""

    def inflate(self, payload: bytes, max_size: int) -> bytes | Inflation:
        """See :func:`inflate`."""
        raise NotImplementedError

    def decompress(self, payload: bytes, max_size: int) -> bytes:
        """The message in one go; raises as :meth:`Inflation.advance` does."""
        begun = self.inflate(payload, max_size)
        if isinstance(begun, bytes):
            return begun
        while (message := begun.advance()) is None:
            pass
        return message


class Decompressor(_Decompressor):
    """Inflates messages that do not refer to each other."""

    def inflate(self, payload: bytes, max_size: int) -> bytes | Inflation:
        return inflate(zlib.decompressobj(-15), payload + _END, max_size)


class ContextDecompressor(_Decompressor):
    """Inflates the messages of one connection, which may refer to those before them.

    :param window_bits: how far back they may refer, 8 to 15.
    """

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._decompressor: Any = None

    def inflate(self, payload: bytes, max_size: int) -> bytes | Inflation:
        decompressor = self._decompressor or zlib.decompressobj(-self._window_bits)
        return inflate(decompressor, payload + _TAIL, max_size, self._keep)

    def _keep(self, decompressor: Any) -> None:
        self._decompressor = decompressor
