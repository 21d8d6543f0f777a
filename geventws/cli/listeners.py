"""What ``--bind`` means: listening sockets."""

from __future__ import annotations

import errno
import os
import socket
import stat

from .errors import UsageError

#: How many connections the kernel keeps ready for us, at most.
_BACKLOG = 2048


def open_listener(address: str) -> socket.socket:
    """A listening socket for ``HOST:PORT``, ``:PORT``, ``[IPV6]:PORT``, ``unix:PATH`` or ``fd://N``.

    The last one is a socket that was opened by whoever started this process, such as systemd.

    :raises UsageError: when it cannot be had, in one sentence.
    """
    try:
        if address.startswith("unix:"):
            return _listen_unix(address.removeprefix("unix:"))
        if address.startswith("fd://"):
            return _inherited(address.removeprefix("fd://"))
        return _listen_tcp(*_parse(address))
    except OSError as problem:
        number = problem.errno or 0
        # Python adds the address to the text, and getaddrinfo() has numbers of its own, below 0.
        why = os.strerror(number) if number > 0 else problem.strerror
        raise UsageError(f"cannot listen on {address}: {why}") from problem


def open_listeners(addresses: list[str]) -> list[socket.socket]:
    """All of them, or none."""
    opened: list[socket.socket] = []
    try:
        for address in addresses:
            opened.append(open_listener(address))
    except UsageError:
        close_listeners(opened, addresses)
        raise
    return opened


def close_listeners(listeners: list[socket.socket], addresses: list[str]) -> None:
    """Close the sockets, and remove the files of those that were made here."""
    for listener, address in zip(listeners, addresses, strict=False):
        listener.close()
        if address.startswith("unix:"):
            try:
                os.unlink(address.removeprefix("unix:"))
            except OSError:
                pass  # somebody has tidied up already


def url_of(listener: socket.socket, *, secure: bool = False) -> str:
    """Where clients find the socket."""
    name = listener.getsockname()
    if not isinstance(name, tuple):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{'https' if secure else 'http'}://{host}:{name[1]}"


def _parse(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"{address} is not of the form HOST:PORT, unix:PATH or fd://NUMBER")
    return host.strip("[]"), int(port)


def _listen_tcp(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(
        host or None,
        port,
        socket.AF_UNSPEC if host else socket.AF_INET,
        socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE,
    )
    family, _, _, _, name = found[0]
    return socket.create_server((str(name[0]), port), family=family, backlog=_BACKLOG)


def _listen_unix(path: str) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        # A proxy runs as another user. Who may connect is up to the folder's permissions.
        os.chmod(path, 0o666)  # noqa: S103
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    """Remove the socket of a server that has not; that of one that runs is in use."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _inherited(number: str) -> socket.socket:
    if not number.isdecimal():
        raise UsageError(f"fd://{number} is not of the form fd://NUMBER")
    listener = socket.socket(fileno=int(number))
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.detach()
        raise UsageError(f"fd://{number} is a socket that does not listen")
    return listener
