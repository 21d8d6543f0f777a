"""``geventwebsocket.utf8validator``. geventws does not use it."""

from __future__ import annotations

import codecs

UTF8_ACCEPT = 0
UTF8_REJECT = 1
#: The state in the middle of a character.
_UNFINISHED = 2

_new_decoder = codecs.getincrementaldecoder("utf-8")


class Utf8Validator:
    """An incremental validator of UTF-8. After an invalid byte, it needs a :meth:`reset`.

    :ivar state: ``UTF8_ACCEPT`` after a complete character, ``UTF8_REJECT`` after an invalid byte,
        another number in the middle of a character.
    :ivar codepoint: the code point of the character that :meth:`decode` has completed last.
    :ivar i: the number of valid bytes that :meth:`validate` has read.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start a new text."""
        self._decoder = _new_decoder()
        self.state = UTF8_ACCEPT
        self.codepoint = 0
        self.i = 0

    def decode(self, b: int) -> int:
        """Validate the next byte of the text; return the new :attr:`state`."""
        self._read(bytes((b,)))
        return self.state

    def validate(self, ba: bytes | bytearray) -> tuple[bool, bool, int, int]:
        """Validate the next bytes of the text.

        :returns: whether the text is valid so far; whether it ends with a complete character; the
            number of valid bytes in ``ba``; the number of valid bytes in total.
        """
        good = self._read(ba)
        self.i += good
        return self.state != UTF8_REJECT, self.state == UTF8_ACCEPT, good, self.i

    def _read(self, data: bytes | bytearray) -> int:
        """Return the number of valid bytes."""
        if self.state == UTF8_REJECT:
            return 0
        try:
            text = self._decoder.decode(data)
        except UnicodeDecodeError as problem:
            self.state = UTF8_REJECT
            is_in_character = problem.reason == "invalid continuation byte"
            good = problem.end if is_in_character else problem.start
            # problem.object begins with the bytes of an incomplete character.
            return good - (len(problem.object) - len(data))
        if text:
            self.codepoint = ord(text[-1])
        unfinished = self._decoder.getstate()[0]
        if unfinished[:1] == b"\xed" and unfinished[1:] >= b"\xa0":
            self.state = UTF8_REJECT  # a surrogate; Python's decoder waits for its third byte
            return len(data) - 1
        self.state = _UNFINISHED if unfinished else UTF8_ACCEPT
        return len(data)
