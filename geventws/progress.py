"""How much of what was sent the peer has not taken yet, as far as the operating system tells."""
from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from typing import Any

_INT = struct.Struct("i")


def _by_ioctl() -> Callable[[Any], int]:
    from fcntl import ioctl  # noqa: PLC0415 - not on Windows
    from termios import TIOCOUTQ  # noqa: PLC0415 - the same number as SIOCOUTQ, see tcp(7)

    empty = bytes(_INT.size)
    unpack = _INT.unpack

    def unacknowledged(sock: Any) -> int:
        held: int = unpack(ioctl(sock.fileno(), TIOCOUTQ, empty))[0]
        return held

    return unacknowledged


def _by_option() -> Callable[[Any], int]:
    from socket import SOL_SOCKET  # noqa: PLC0415 - beside the others

    so_nwrite = 0x1024  # macOS; the standard library has no name for it

    def unacknowledged(sock: Any) -> int:
        held: int = sock.getsockopt(SOL_SOCKET, so_nwrite)
        return held

    return unacknowledged


def _unknown(sock: Any) -> int:
    return 0


_ask = {"linux": _by_ioctl, "darwin": _by_option}.get(sys.platform, lambda: _unknown)()


def unacknowledged(sock: Any) -> int:
    """The bytes that the kernel holds for the peer, sent or not; 0 where it does not tell."""
    try:
        return _ask(sock)
    except (OSError, ValueError):
        return 0  # the socket is closed
