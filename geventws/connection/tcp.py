"""Sockets: what systems lack, sent and unacknowledged bytes, Nagle's algorithm, reset, hang-up."""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

from gevent.monkey import get_original

#: The payload of a TLS record in bytes, at most (RFC 8446 section 5.1).
MAX_RECORD = 16 << 10
_INT = struct.Struct("i")

#: Whether a socket can send several buffers at once. Python on Windows has no ``sendmsg()``.
HAS_SENDMSG = hasattr(socket.socket, "sendmsg")
#: Whether there are unix sockets. Python on Windows has none.
HAS_UNIX_SOCKETS = hasattr(socket, "AF_UNIX")
NO_UNIX_SOCKETS = "Python has no unix sockets on this system"


def describe_error(number: int) -> str:
    """The text for an ``errno``. On Windows, ``os.strerror()`` has no texts for sockets."""
    errors: dict[int, str] = getattr(socket, "errorTab", {})
    return errors.get(number) or os.strerror(number)


def _by_ioctl() -> Callable[[Any], int]:
    from fcntl import ioctl  # noqa: PLC0415 - not on Windows
    from termios import TIOCOUTQ  # noqa: PLC0415 - equal to SIOCOUTQ, see tcp(7)

    empty = bytes(_INT.size)
    unpack = _INT.unpack

    def unacknowledged(sock: Any) -> int:
        held: int = unpack(ioctl(sock.fileno(), TIOCOUTQ, empty))[0]
        return held

    return unacknowledged


def _by_option() -> Callable[[Any], int]:
    from socket import SOL_SOCKET  # noqa: PLC0415 - next to its option

    so_nwrite = 0x1024  # macOS; the standard library does not define it

    def unacknowledged(sock: Any) -> int:
        held: int = sock.getsockopt(SOL_SOCKET, so_nwrite)
        return held

    return unacknowledged


def _unknown(sock: Any) -> int:
    return 0


_ask = {"linux": _by_ioctl, "darwin": _by_option}.get(sys.platform, lambda: _unknown)()


def unacknowledged(sock: Any) -> int:
    """The number of bytes in the kernel that the peer has not acknowledged; 0 if unknown."""
    try:
        return _ask(sock)
    except (OSError, ValueError):
        return 0  # the socket is closed


#: ``tcpi_bytes_sent`` and ``tcpi_bytes_retrans`` in Linux's ``struct tcp_info``, since Linux 4.19.
_SENT_OFFSET = 200
_SENT = struct.Struct("QQ")
#: ``tcpi_notsent_bytes``: Nagle's algorithm, or the peer, may delay them.
_NOT_SENT_OFFSET = 144
_NOT_SENT = struct.Struct("I")


def bytes_sent(sock: Any) -> int | None:
    """The number of bytes that any code has sent on a TCP connection; ``None`` if unknown.

    Retransmitted bytes are counted once, and bytes in the send buffer as well.
    """
    if sys.platform != "linux":
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SENT_OFFSET + _SENT.size)
    except (OSError, ValueError):
        return None  # a unix socket, or a closed one
    if len(info) < _SENT_OFFSET + _SENT.size:
        return None
    sent: int
    retransmitted: int
    sent, retransmitted = _SENT.unpack_from(info, _SENT_OFFSET)
    not_sent: int = _NOT_SENT.unpack_from(info, _NOT_SENT_OFFSET)[0]
    return sent - retransmitted + not_sent


def disable_nagle(sock: Any) -> None:
    """Send small frames at once: Nagle's algorithm would delay them by 40 ms."""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        pass  # unix sockets do not have the option


def reset_at_close(sock: Any) -> None:
    """Make the kernel discard unsent output, and send a RST, when the socket is closed."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass  # the peer has gone


#: poll() reports a half-closed peer as POLLRDHUP, where the system has that.
_HANGUP = (
    select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)
    if hasattr(select, "poll")
    else 0
)
#: The operating system's: gevent's would wait in the hub.
_poll = get_original("select", "poll") if hasattr(select, "poll") else None


def has_hung_up(sock: Any) -> bool:
    """Whether the peer has closed or reset TCP, even if unread input remains."""
    if _poll is None:
        return False
    poll = _poll()
    try:
        poll.register(sock.fileno(), _HANGUP)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return True  # other code has closed the socket
