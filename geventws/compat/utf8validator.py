"""``geventwebsocket.utf8validator``; geventws itself validates in its core."""

from __future__ import annotations

import codecs

_new_decoder = codecs.getincrementaldecoder("utf-8")


class Utf8Validator:
    """Tells piece by piece whether bytes are UTF-8."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin a new text."""
        self._decoder = _new_decoder()
        self._total = 0

    def validate(self, ba: bytes | bytearray) -> tuple[bool, bool, int, int]:
        """Take the next bytes in.

        :returns: whether all is valid so far; whether it ends at the end of a character; how many
            bytes of these, and of all, are valid.
        """
        try:
            self._decoder.decode(ba)
        except UnicodeDecodeError as problem:
            # Its object begins with what was pending.
            good = max(0, problem.start - (len(problem.object) - len(ba)))
            return False, False, good, self._total + good
        self._total += len(ba)
        return True, not self._decoder.getstate()[0], len(ba), self._total
