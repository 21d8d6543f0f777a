"""``geventwebsocket.utf8validator``. geventws does not use it."""

from __future__ import annotations

import codecs

_new_decoder = codecs.getincrementaldecoder("utf-8")


class Utf8Validator:
    """An incremental validator of UTF-8."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start a new text."""
        self._decoder = _new_decoder()
        self._total = 0

    def validate(self, ba: bytes | bytearray) -> tuple[bool, bool, int, int]:
        """Validate the next bytes of the text.

        :returns: whether the text is valid so far; whether it ends with a complete character; the
            number of valid bytes in ``ba``; the number of valid bytes in total.
        """
        try:
            self._decoder.decode(ba)
        except UnicodeDecodeError as problem:
            # problem.object begins with the bytes of an incomplete character.
            good = max(0, problem.start - (len(problem.object) - len(ba)))
            return False, False, good, self._total + good
        self._total += len(ba)
        return True, not self._decoder.getstate()[0], len(ba), self._total
