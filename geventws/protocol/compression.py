"""Compress and decompress messages, RFC 7692 section 7.2; no I/O.

Without context takeover, a connection keeps no memory. All connections share the compressors. Each
message has a new decompressor, so that no peer can refer to data of another peer.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from ..exceptions import InvalidPayload, MessageTooBig

#: Any: isal has no type hints.
isal_zlib: Any = None
try:
    from isal import isal_zlib
except ImportError:
    pass  # optional: the extra "speedups"

Payload = bytes | bytearray | memoryview


class _CompressObject(Protocol):
    """The return type of ``zlib.compressobj()`` and of its twin in isal."""

    def compress(self, data: Payload, /) -> bytes: ...

    def flush(self, mode: int, /) -> bytes: ...


class _DecompressObject(Protocol):
    """The return type of ``zlib.decompressobj()``."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    @property
    def unconsumed_tail(self) -> bytes: ...

    def decompress(self, data: Payload, max_length: int = ..., /) -> bytes: ...


#: The end of every compressed message, which is not sent (section 7.2.1).
_TAIL = b"\x00\x00\xff\xff"
#: The same and an empty final block: a decompressor that reaches its end has a whole message.
_END = _TAIL + b"\x03\x00"
#: A sender needs one final block a message. Each takes a decompressor here.
_MAX_FINAL_BLOCKS = 8
#: Bytes of a message that are decompressed at once: at most half a millisecond of work.
_PIECE = 128 << 10
#: Bytes of compressed data that are passed to zlib at once.
_FEED = 64 << 10
#: The largest window in bytes.
_WINDOW = 1 << 15
#: Up to this level, ISA-L is used. Higher levels ask for the ratio of zlib.
_MAX_FAST_LEVEL = 3
#: Messages below this size have compressors of their own. With ISA-L, fixed Huffman codes take a
#: third of the time for four fifths of the ratio. With zlib, a window of this size takes a quarter
#: less time: there is less memory to clear and to cache.
_SHORT = 4 << 10
_SHORT_WINDOW_BITS = 12
_SHORT_MEMORY_LEVEL = 5


class Compressor:
    """Compresses messages independently, for any number of connections.

    :param level: from 1 (fast) to 9 (small).
    :param window_bits: the window in bytes as a power of two, from 8 to 15.
    :param memory_level: zlib's ``memLevel``, from 1 to 9.
    """

    def __init__(self, level: int, window_bits: int, memory_level: int) -> None:
        if isal_zlib is None or level > _MAX_FAST_LEVEL or window_bits < 15:
            self._long = _Pool(partial(_zlib_compressor, level, window_bits, memory_level))
            window_bits = min(window_bits, _SHORT_WINDOW_BITS)
            memory_level = min(memory_level, _SHORT_MEMORY_LEVEL)
            self._short = _Pool(partial(_zlib_compressor, level, window_bits, memory_level))
            return
        new = isal_zlib.compressobj
        self._long = self._short = _Pool(partial(new, max(level - 1, 1), zlib.DEFLATED, -15))
        if level == 1:
            self._short = _Pool(partial(new, 0, zlib.DEFLATED, -15, 8, zlib.Z_FIXED))

    def compress(self, payload: Payload) -> bytes | None:
        """The compressed payload; ``None`` if it would not be shorter."""
        return (self._short if len(payload) < _SHORT else self._long).compress(payload)


class _Pool:
    """Compressors with the same parameters: one for each thread that compresses at a time."""

    def __init__(self, new: Callable[[], _CompressObject]) -> None:
        self._new = new
        self._idle: list[_CompressObject] = []

    def compress(self, payload: Payload) -> bytes | None:
        try:
            compressor = self._idle.pop()
        except IndexError:
            compressor = self._new()
        # After a full flush, the next message does not refer to this one.
        data = compressor.compress(payload) + compressor.flush(zlib.Z_FULL_FLUSH)
        self._idle.append(compressor)
        return data[:-4] if len(data) - 4 < len(payload) else None


class ContextCompressor:
    """Compresses the messages of one connection; each may refer to earlier messages."""

    def __init__(self, level: int, window_bits: int, memory_level: int) -> None:
        self._parameters = level, window_bits, memory_level
        self._compressor: _CompressObject | None = None

    def compress(self, payload: Payload) -> bytes | None:
        """The compressed payload; ``None`` if it would not be shorter."""
        compressor = self._compressor or _zlib_compressor(*self._parameters)
        data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        if len(data) - 4 >= len(payload):
            # The message is sent uncompressed, so no later message may refer to it.
            self._compressor = None
            return None
        self._compressor = compressor
        return data[:-4]


def _zlib_compressor(level: int, window_bits: int, memory_level: int) -> _CompressObject:
    # zlib has no raw stream with 8 bits. With 9 bits it refers back by at most 250 bytes; 8 bits
    # allow 256.
    return zlib.compressobj(level, zlib.DEFLATED, -max(window_bits, 9), memory_level)


class Inflation:
    """A long message that is decompressed piece by piece; made by :func:`inflate`.

    A kilobyte may expand to a megabyte. That takes four milliseconds, in which no other connection
    would be served.
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
        decompressor: _DecompressObject,
        rest: memoryview,
        piece: bytes,
        most: int,
        max_size: int,
        keep: Callable[[_DecompressObject], None] | None,
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
        """Decompress the next piece; return the message after the last piece, else ``None``.

        :raises MessageTooBig: when the message has more than ``max_size`` bytes.
        :raises InvalidPayload: when the data is not a DEFLATE stream. RFC 7692 names no code; 1007
            is for "data within a message that was not consistent with the type of the message"
            (RFC 6455 section 7.4.1).
        """
        decompressor = self._decompressor
        if self._size > self._max_size:
            raise MessageTooBig(f"a message of more than {self._max_size} bytes when inflated")
        rest: Payload
        rest = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
        if not rest:
            # zlib copies the rest of its input, so it gets only a part.
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

    def _begin_block(self) -> _DecompressObject:
        """Continue after a final block (section 7.2.3.4), which ends zlib's stream."""
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
    decompressor: _DecompressObject,
    payload: bytes,
    max_size: int,
    keep: Callable[[_DecompressObject], None] | None = None,
) -> bytes | Inflation:
    """Decompress a message; return it, or an :class:`Inflation` to advance until it is complete.

    :param payload: compressed data, with the end that is not sent.
    :param max_size: the largest message in bytes.
    :param keep: called at the end with the decompressor, for messages that refer to this one.
        Without it, the message must be a whole DEFLATE stream.
    """
    most = _PIECE if max_size >= _PIECE else max_size + 1
    is_short = len(payload) <= _FEED
    piece = _decompress(decompressor, payload if is_short else payload[:_FEED], most)
    is_whole = is_short and decompressor.eof and len(piece) < most
    if keep is None and is_whole and not decompressor.unused_data:
        return piece  # most messages are short
    return Inflation(decompressor, memoryview(payload)[_FEED:], piece, most, max_size, keep)


def _decompress(decompressor: _DecompressObject, payload: bytes | memoryview, most: int) -> bytes:
    try:
        piece = decompressor.decompress(payload, most)
    except zlib.error as problem:
        raise InvalidPayload("a compressed message that cannot be inflated") from problem
    return piece


class _Decompressor:
    """The base class of the decompressors."""

    def inflate(self, payload: bytes, max_size: int) -> bytes | Inflation:
        """See :func:`inflate`."""
        raise NotImplementedError

    def decompress(self, payload: bytes, max_size: int) -> bytes:
        """Decompress a message at once; raises as :meth:`Inflation.advance` does."""
        begun = self.inflate(payload, max_size)
        if isinstance(begun, bytes):
            return begun
        while (message := begun.advance()) is None:
            pass
        return message


class Decompressor(_Decompressor):
    """Decompresses independent messages."""

    def inflate(self, payload: bytes, max_size: int) -> bytes | Inflation:
        return inflate(zlib.decompressobj(-15), payload + _END, max_size)


class ContextDecompressor(_Decompressor):
    """Decompresses the messages of one connection; each may refer to earlier messages.

    :param window_bits: the window in bytes as a power of two, from 8 to 15.
    """

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._decompressor: _DecompressObject | None = None

    def inflate(self, payload: bytes, max_size: int) -> bytes | Inflation:
        decompressor = self._decompressor or zlib.decompressobj(-self._window_bits)
        return inflate(decompressor, payload + _TAIL, max_size, self._keep)

    def _keep(self, decompressor: _DecompressObject) -> None:
        self._decompressor = decompressor
