"""The rooms of the chat, their members and their messages, without HTTP.

A room is a channel of a broadcast. It keeps the last messages and sends every event to all members
of the room, in all workers. Everything that can grow has a limit.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

from geventws import Broadcast, BroadcastError, WebSocket
from geventws.broadcast import Subscription

NAME_LIMIT = 24  # in characters, like the two limits below
ROOM_NAME_LIMIT = 32
TEXT_LIMIT = 1000
HISTORY_LIMIT = 50  # messages that a room keeps, for one hour after the last message
MEMBER_LIMIT = 100  # people in one room


class RefusedError(Exception):
    """The chat refuses a request. The text tells the user the reason."""


class CrowdedError(RefusedError):
    """The room is full: the same request may succeed later."""


def clean_name(name: str) -> str:
    """A name as the others will see it."""
    name = " ".join(name.split())
    if not name:
        raise RefusedError("Please enter a name.")
    if len(name) > NAME_LIMIT:
        raise RefusedError(f"That name has {len(name)} characters. The limit is {NAME_LIMIT}.")
    # Invisible characters would let one person look like another.
    if not name.isprintable():
        raise RefusedError("A name consists of visible characters.")
    return name


def clean_room_name(name: str) -> str:
    """A room's name, the same for "Tea" and "tea"."""
    name = name.strip().lower()
    if not name:
        raise RefusedError("Please enter a room.")
    if len(name) > ROOM_NAME_LIMIT:
        raise RefusedError(f"That room has {len(name)} characters. The limit is {ROOM_NAME_LIMIT}.")
    if not all(character.isalnum() or character in "-_" for character in name):
        raise RefusedError("A room consists of letters, digits, - and _.")
    return name


def clean_text(content: object) -> str:
    """The text in a message that a browser sent: ``{"text": "…"}``."""
    text = content.get("text") if isinstance(content, dict) else None
    if not isinstance(text, str):
        raise RefusedError('There is no text in that. Please send {"text": "…"}.')
    text = text.strip()
    if not text:
        raise RefusedError("There is nothing in that message.")
    if len(text) > TEXT_LIMIT:
        raise RefusedError(f"That message has {len(text)} characters. The limit is {TEXT_LIMIT}.")
    return text


class Rooms:
    """All rooms.

    :param url: ``memory://`` if this process is the only one, ``redis://…`` if there are others.
    """

    def __init__(self, url: str) -> None:
        # A slow client is closed with 1013, "try again later". Skipping messages instead would
        # leave gaps. A page that reconnects gets the messages that it missed.
        self._broadcast = Broadcast(url, history=HISTORY_LIMIT, envelope=with_id)
        #: Whether the messages are still there after a restart of the program.
        self.keep_messages = not url.startswith("memory:")

    def check(self, room: str, name: str) -> "Member":
        """Return the member that may join. Its name is one that no other member has.

        A refusal of a name that is in use would lock out people whose network failed: they
        reconnect before the server has detected the loss. They get a number after the name.
        """
        name, room = clean_name(name), clean_room_name(room)
        with refusing_if_away("The chat is not available. Please try again later."):
            members = self._broadcast.members(room).values()
        # If several people ask at the same time, a few more than the limit may join.
        if len(members) >= MEMBER_LIMIT:
            raise CrowdedError("This room is full. Please try again later.")
        taken = {member["name"].casefold() for member in members}
        candidate, number = name, 1
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{name} {number}"
        return Member(self._broadcast, room, candidate)


class Member:
    """One person in one room."""

    def __init__(self, broadcast: Broadcast, room: str, name: str) -> None:
        self._broadcast = broadcast
        self.room = room
        self.name = name

    def join(self, ws: WebSocket, since: str) -> Subscription:
        """Join the room, until the ``with`` block ends.

        The page gets the messages after ``since``, the id of its last message, or all messages that
        the room has kept; then the list of members; and then each message, joining and leaving.
        """
        return self._broadcast.subscribe(self.room, ws, since, member={"name": self.name})

    def say(self, text: str) -> None:
        """Send a message to all members of the room, including its author."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        event = {"type": "message", "name": self.name, "text": text, "time": now}
        with refusing_if_away("That could not be sent. Please try again later."):
            self._broadcast.publish(self.room, json.dumps(event))


@contextmanager
def refusing_if_away(reason: str) -> Iterator[None]:
    """Refuse the request with ``reason`` if Redis fails."""
    try:
        yield
    except BroadcastError as problem:
        raise CrowdedError(reason) from problem


def with_id(event: str, id_: str | None) -> str:
    """Return the event with its id. A page sends the id to get the messages after it."""
    return event if id_ is None else f'{{"id": "{id_}", {event[1:]}'
