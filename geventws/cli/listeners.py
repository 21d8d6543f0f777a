"""Listening sockets for the addresses of ``--bind``."""

from __future__ import annotations

import errno
import os
import socket
import stat

from ..connection.tcp import HAS_UNIX_SOCKETS, NO_UNIX_SOCKETS, describe_error
from ..server.accepting import BACKLOG
from .errors import UsageError

_MAX_PORT = "65535"


def open_listener(address: str) -> socket.socket:
    """Return a listening socket.

    :param address: ``HOST:PORT``, ``:PORT``, ``[IPV6]:PORT``, ``unix:PATH`` or ``fd://N``. The last
        one is a socket that this process has inherited, for example from systemd.
    :raises UsageError: if the socket cannot be opened.
    """
    try:
        if address.startswith("unix:"):
            return _listen_unix(address.removeprefix("unix:"))
        if address.startswith("fd://"):
            return _inherited_socket(address.removeprefix("fd://"))
        return _listen_tcp(*_parse(address))
    except OSError as problem:
        # Python may add the address to strerror. getaddrinfo() has numbers of its own.
        number = 0 if isinstance(problem, socket.gaierror) else problem.errno
        reason = describe_error(number) if number else problem.strerror
        if number == errno.EADDRINUSE and not address.startswith("unix:"):
            reason = f"{reason}. Stop the other program, or choose another port"
        raise UsageError(f"cannot listen on {address}: {reason}") from problem


def open_listeners(addresses: list[str]) -> list[socket.socket]:
    """Return the listening sockets for all addresses.

    :raises UsageError: if a socket cannot be opened. The others are closed.
    """
    opened: list[socket.socket] = []
    try:
        for address in addresses:
            opened.append(open_listener(address))
    except UsageError:
        close_listeners(opened, addresses)
        raise
    return opened


def close_listeners(listeners: list[socket.socket], addresses: list[str]) -> None:
    """Close the sockets, and remove the files of unix sockets."""
    for listener, address in zip(listeners, addresses, strict=False):
        listener.close()
        if address.startswith("unix:"):
            try:
                os.unlink(address.removeprefix("unix:"))
            except OSError:
                pass  # the file was already removed


def url_of(listener: socket.socket, *, secure: bool = False) -> str:
    """Return the URL of a listening socket."""
    name = listener.getsockname()
    if not isinstance(name, tuple):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{'https' if secure else 'http'}://{host}:{name[1]}"


def _parse(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        host.encode("idna")  # getaddrinfo() does so in a thread, which would print the exception
        is_valid = colon and port.isdecimal()
    except UnicodeError:
        is_valid = False
    if not is_valid:
        raise UsageError(f"{address} is not of the form HOST:PORT, unix:PATH or fd://NUMBER")
    if len(port) > len(_MAX_PORT) or int(port) > int(_MAX_PORT):
        raise UsageError(f"cannot listen on {address}: the largest port is {_MAX_PORT}")
    return host, int(port)


def _listen_tcp(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(
        host or None,
        port,
        socket.AF_UNSPEC if host else socket.AF_INET,
        socket.SOCK_STREAM,
        flags=socket.AI_PASSIVE,
    )
    family, _, _, _, name = found[0]
    return socket.create_server(
        (str(name[0]), port),
        family=family,
        backlog=BACKLOG,
        # As with gunicorn, [::] accepts IPv4, too.
        dualstack_ipv6=family == socket.AF_INET6 and socket.has_dualstack_ipv6(),
    )


def _listen_unix(path: str) -> socket.socket:
    if not HAS_UNIX_SOCKETS:
        raise UsageError(f"cannot listen on unix:{path}: {NO_UNIX_SOCKETS}")
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        # A proxy may run as another user. The permissions of the directory restrict the access.
        os.chmod(path, 0o666)  # noqa: S103
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    """Remove the file of a unix socket, if the server has ended without removing it.

    :raises OSError: if a server is listening on it.
    """
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


def _inherited_socket(number: str) -> socket.socket:
    if not number.isdecimal():
        raise UsageError(f"fd://{number} is not of the form fd://NUMBER")
    listener = socket.socket(fileno=int(number))
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.detach()
        raise UsageError(f"fd://{number} is a socket that does not listen")
    return listener
