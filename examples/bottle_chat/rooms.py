"""Who is in which room and what was said there: the chat without any HTTP.

Everything is kept in the memory of one process, and everything that can grow has a limit below.
Nothing here waits for the network, so no lock is needed: greenlets only change over where one of
them waits, and a method that never waits is never interrupted.
"""
import json
import uuid
from collections import deque
from datetime import datetime, timezone

import gevent
from gevent.queue import Full, Queue

from geventws import WebSocket, WebSocketError

NAME_LIMIT = 24  # characters, as are the two below
ROOM_NAME_LIMIT = 32
TEXT_LIMIT = 1000
HISTORY_LIMIT = 50  # messages a room remembers
MEMBER_LIMIT = 100  # people in one room
ROOM_LIMIT = 200  # rooms, with those that are empty but remembered
OUTBOX_LIMIT = 100  # events that wait for one slow member

TRY_AGAIN_LATER = 1013


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


class Member:
    """One person in one room: a name, a WebSocket and the events on their way to it."""

    def __init__(self, room: "Room", name: str, ws: WebSocket) -> None:
        self.room = room
        self.name = name
        self._ws = ws
        self._outbox: Queue[str] = Queue(maxsize=OUTBOX_LIMIT)
        self._too_slow = False

    def tell(self, event: str) -> None:
        """Put an event in the outbox, without waiting: the others shall not wait for this one.

        Whoever lets the outbox fill up is disconnected. To skip events instead would leave gaps
        in the conversation, while a page that reconnects gets the history.
        """
        if self._too_slow:
            return
        try:
            self._outbox.put_nowait(event)
        except Full:
            self._too_slow = True
            # close() waits for an answer, and from this member that may take a while.
            gevent.spawn(self._ws.close, TRY_AGAIN_LATER, "You fell too far behind.")

    def refuse(self, refusal: RefusedError) -> None:
        self.tell(make_event("refused", reason=str(refusal)))

    def deliver(self) -> None:
        """Send what is in the outbox, for as long as the connection lasts."""
        try:
            while True:
                self._ws.send(self._outbox.get())
        except WebSocketError:
            pass  # It is closed. The view notices by itself and takes the member out of the room.


class Room:
    """The people who hear each other, and the last things they said."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._members: list[Member] = []
        self._history: deque[dict[str, str]] = deque(maxlen=HISTORY_LIMIT)

    @property
    def is_empty(self) -> bool:
        return not self._members

    @property
    def is_full(self) -> bool:
        return len(self._members) >= MEMBER_LIMIT

    @property
    def has_history(self) -> bool:
        return bool(self._history)

    def join(self, name: str, ws: WebSocket) -> Member:
        """Let somebody in, under a name nobody else has here."""
        member = Member(self, self._free_name(name), ws)
        self._tell_all(make_event("joined", name=member.name))
        self._members.append(member)
        member.tell(make_event(
            "welcome", room=self.name, name=member.name, text_limit=TEXT_LIMIT,
            members=[other.name for other in self._members], history=list(self._history),
        ))
        return member

    def leave(self, member: Member) -> None:
        self._members.remove(member)
        self._tell_all(make_event("left", name=member.name))

    def say(self, member: Member, text: str) -> None:
        """Pass a message on to everybody in the room, its author included."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        # By the id a page that reconnects knows which messages of the history it already shows.
        message = {"id": uuid.uuid4().hex, "name": member.name, "text": text, "time": now}
        self._history.append(message)
        self._tell_all(make_event("message", **message))

    def _tell_all(self, event: str) -> None:
        for member in self._members:
            member.tell(event)

    def _free_name(self, name: str) -> str:
        """The name, with a number behind it if it is taken.

        To refuse it would lock people out whose network just broke: they are back before the
        server knows that they were gone.
        """
        taken = {member.name.casefold() for member in self._members}
        candidate, number = name, 1
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{name} {number}"
        return candidate


class Rooms:
    """All rooms. An empty one is remembered for its history, until others need the place."""

    def __init__(self) -> None:
        self._rooms: dict[str, Room] = {}  # of those that are empty, the longest empty is first

    def check(self, room_name: str, name: str) -> None:
        """Refuse what `join` would refuse."""
        clean_name(name)
        room = self._rooms.get(clean_room_name(room_name))
        if room is None and not self._has_place():
            raise CrowdedError("All rooms are taken. Please try again later.")
        if room is not None and room.is_full:
            raise CrowdedError("This room is full. Please try again later.")

    def join(self, room_name: str, name: str, ws: WebSocket) -> Member:
        """Let somebody into a room, which is a new one if nobody talked there before."""
        self.check(room_name, name)
        room_name = clean_room_name(room_name)
        if room_name not in self._rooms:
            self._make_place()
            self._rooms[room_name] = Room(room_name)
        return self._rooms[room_name].join(clean_name(name), ws)

    def leave(self, member: Member) -> None:
        room = member.room
        room.leave(member)
        if room.is_empty:
            del self._rooms[room.name]
            if room.has_history:
                self._rooms[room.name] = room  # now at the end: it became empty last

    def _has_place(self) -> bool:
        return len(self._rooms) < ROOM_LIMIT or any(room.is_empty for room in self._rooms.values())

    def _make_place(self) -> None:
        if len(self._rooms) >= ROOM_LIMIT:
            longest_empty = next(room for room in self._rooms.values() if room.is_empty)
            del self._rooms[longest_empty.name]


def make_event(kind: str, **details: object) -> str:
    """The text of one WebSocket message to a page."""
    return json.dumps({"type": kind, **details})
