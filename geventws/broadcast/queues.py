"""Queues of messages that know the memory that they take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

from gevent.monkey import get_original

from .backend import Message, size_of

#: The original lock, not gevent's: no greenlet switch happens while it is held.
_new_lock: Callable[[], AbstractContextManager[bool]] = get_original("_thread", "allocate_lock")


class Queue:
    """A queue of messages, with the memory that they take."""

    __slots__ = ("_messages", "size")

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        #: Bytes of memory that the messages take.
        self.size = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Message) -> None:
        self._messages.append(message)
        self.size += size_of(message)

    def get(self) -> Message:
        """Remove the oldest message and return it.

        :raises IndexError: if the queue is empty.
        """
        message = self._messages.popleft()
        self.size -= size_of(message)
        return message

    def get_all(self) -> list[Message]:
        """Remove all messages and return them, the oldest first."""
        messages = list(self._messages)
        self.clear()
        return messages

    def clear(self) -> None:
        self._messages.clear()
        self.size = 0

    def ids(self) -> set[str | None]:
        """Return the ids of the messages."""
        return {message.id for message in self._messages}

    def remove(self, is_unwanted: Callable[[str], bool]) -> None:
        """Remove the messages whose ids are unwanted."""
        kept = [it for it in self._messages if it.id is None or not is_unwanted(it.id)]
        self._messages = deque(kept)
        self.size = sum(map(size_of, kept))


class ThreadSafeQueue(Queue):
    """A queue that any thread may use."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        super().__init__()
        self._lock = _new_lock()

    def put(self, message: Message) -> None:
        with self._lock:
            super().put(message)

    def get(self) -> Message:
        with self._lock:
            return super().get()
