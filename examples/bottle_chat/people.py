"""Who is in which room, as long as all of them are in this process."""


class People:
    """The people of one process."""

    def __init__(self) -> None:
        self._rooms: dict[str, dict[str, str]] = {}

    def enter(self, room: str, name: str) -> bool:
        """Take a name in a room; False if somebody there has it, in whatever case."""
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
        """All who are there, in the order of their coming."""
        return list(self._rooms.get(room, {}).values())
