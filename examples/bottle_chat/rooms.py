"""Who is in which room and what is said there: the chat without any HTTP.

A room is a channel of a broadcast, which keeps the last messages and sends every event to whoever
is in the room, in whichever worker. Everything that can grow has a limit.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone

from people import People

from geventws import Broadcast, BroadcastError, WebSocket
from geventws.broadcast import Subscription

NAME_LIMIT = 24  # characters, as are the two below
ROOM_NAME_LIMIT = 32
TEXT_LIMIT = 1000
HISTORY_LIMIT = 50  # messages a room remembers, for an hour after the last one
MEMBER_LIMIT = 100  # people in one room


class RefusedError(Exception):
    """The chat does not do what was asked; the text says why, to the person who asked."""


class CrowdedError(RefusedError):
    """There is no place left: the same request may well succeed later."""


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


def clean_text(message: str | bytes) -> str:
    """The text in a message that a browser sent: ``{"text": "…"}``."""
    if isinstance(message, bytes):
        raise RefusedError("This chat understands text messages only, not binary ones.")
    try:
        content = json.loads(message)
    except (ValueError, RecursionError):  # RecursionError: thousands of nested brackets
        raise RefusedError('That is not JSON. Please send {"text": "…"}.') from None
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
        # Somebody who does not keep up is closed with 1013, "try again later". To skip messages
        # instead would leave gaps; a page that comes back gets what it missed.
        self._broadcast = Broadcast(url, history=HISTORY_LIMIT, envelope=with_id)
        self._people = People()
        if not url.startswith("memory:"):
            from shared_people import SharedPeople  # noqa: PLC0415 - it needs redis-py

            self._people = SharedPeople(url, self._tell_left)

    def check(self, room: str, name: str) -> tuple[str, str]:
        """Refuse what `join` would refuse; returns both names as they are written."""
        name, room = clean_name(name), clean_room_name(room)
        # At worst a few more get in, who ask in the same instant.
        with refusing_if_away("The chat is not available. Please try again later."):
            if len(self._people.names(room)) >= MEMBER_LIMIT:
                raise CrowdedError("This room is full. Please try again later.")
        return room, name

    def join(self, room: str, name: str) -> "Member":
        """Let somebody in, under a name nobody else has there."""
        room, name = self.check(room, name)
        with refusing_if_away("The chat is not available. Please try again later."):
            return Member(self._broadcast, self._people, room, self._take_name(room, name))

    def _take_name(self, room: str, name: str) -> str:
        """The name, with a number behind it if it is taken.

        To refuse it would lock people out whose network just broke: they are back before the
        server knows that they were gone.
        """
        candidate, number = name, 1
        while not self._people.enter(room, candidate):
            number += 1
            candidate = f"{name} {number}"
        return candidate

    def _tell_left(self, room: str, name: str) -> None:
        tell(self._broadcast, room, make_event("left", name=name))


class Member:
    """One person in one room, from `Rooms.join` until `leave`."""

    def __init__(self, broadcast: Broadcast, people: People, room: str, name: str) -> None:
        self._broadcast = broadcast
        self._people = people
        self.room = room
        self.name = name
        tell(broadcast, room, make_event("joined", name=name))

    def hear(self, ws: WebSocket, since: str) -> Subscription:
        """Send the room's messages to a WebSocket: first those after ``since``, then all new ones.

        ``since`` is the id of the last message that the page has. If it has none, it gets all that
        the room remembers.
        """
        return self._broadcast.subscribe(self.room, ws, since)

    def say(self, text: str) -> None:
        """Pass a message on to everybody in the room, its author included."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        event = make_event("message", name=self.name, text=text, time=now)
        with refusing_if_away("That could not be sent. Please try again later."):
            self._broadcast.publish(self.room, event)

    def names(self) -> list[str]:
        """Everybody in the room, as far as is known."""
        with suppress(BroadcastError):
            return self._people.names(self.room)
        return [self.name]

    def leave(self) -> None:
        self._people.leave(self.room, self.name)
        tell(self._broadcast, self.room, make_event("left", name=self.name))


def tell(broadcast: Broadcast, room: str, event: str) -> None:
    """Tell those who are there now something that is no message."""
    with suppress(BroadcastError):  # It is in the log already.
        broadcast.publish(room, event, keep=False)


@contextmanager
def refusing_if_away(reason: str) -> Iterator[None]:
    """Without Redis there is no chat, but there are people who want to know."""
    try:
        yield
    except BroadcastError as problem:
        raise CrowdedError(reason) from problem


def make_event(kind: str, **details: object) -> str:
    """The text of one WebSocket message to a page."""
    return json.dumps({"type": kind, **details})


def with_id(event: str, id_: str | None) -> str:
    """The event with the id by which the page can ask for what comes after it."""
    return event if id_ is None else f'{{"id": "{id_}", {event[1:]}'
