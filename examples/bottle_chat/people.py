"""The members of the rooms, for a chat with one process."""


class People:
    """The people of one process."""

    def __init__(self) -> None:
        self._rooms: dict[str, dict[str, str]] = {}

    def enter(self, room: str, name: str) -> bool:
        """Reserve a name in a room. Return False if it is taken; upper and lower case are equal."""
        names = self._rooms.setdefault(room, {})
        if name.casefold() in names:
            return False
        names[name.casefold()] = name
        return True

    def leave(self, room: str, name: str) -> None:
        names = self._rooms[room]
        del names[name.casefold()]
        if not names:
            del self._rooms[room]

    def names(self, room: str) -> list[str]:
        """Return the names of the members, in the order of their arrival."""
        return list(self._rooms.get(room, {}).values())
