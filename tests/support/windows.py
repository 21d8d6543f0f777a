"""``python -m tests.support.windows MODULE …``: run a module without what Windows lacks.

Names of POSIX are removed from the standard library before geventws is imported. gevent uses libuv,
as it does on Windows. All else is the system at hand: this shows only that geventws does not need
the names.
"""

import _signal
import _socket
import os
import runpy
import select
import sys
from types import ModuleType

MODULES = "fcntl grp pwd readline resource syslog termios tty pty"
OS = (
    "chown chroot fchmod fchown fork forkpty get_blocking getegid geteuid getgid getgroups"
    " getloadavg getpgid getpgrp getpriority getresuid getsid getuid killpg lchown mkfifo nice"
    " openpty pipe2 posix_spawn posix_spawnp pread preadv pwrite pwritev readv register_at_fork"
    " sched_getaffinity sched_setaffinity sched_yield sendfile set_blocking setegid seteuid setgid"
    " setpgid setsid setuid statvfs sync sysconf tcgetpgrp ttyname wait3 wait4 writev"
)
SOCKET = (
    "AF_NETLINK AF_PACKET AF_UNIX AF_VSOCK CMSG_LEN CMSG_SPACE MSG_CMSG_CLOEXEC MSG_DONTWAIT"
    " MSG_NOSIGNAL SCM_CREDENTIALS SCM_RIGHTS SO_DOMAIN SO_PASSCRED SO_PEERCRED SO_PROTOCOL"
    " SO_REUSEPORT SOCK_CLOEXEC SOCK_NONBLOCK TCP_CORK TCP_DEFER_ACCEPT TCP_INFO TCP_QUICKACK"
    " TCP_USER_TIMEOUT sethostname socketpair"
)
#: The signals of Windows that POSIX has, too.
SIGNALS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM"}
SIGNAL = (
    "alarm getitimer pause pthread_kill pthread_sigmask setitimer siginterrupt sigpending"
    " sigtimedwait sigwait sigwaitinfo"
)


class Missing:
    """An attribute that neither the class nor its objects have."""

    def __get__(self, obj: object, owner: object = None) -> object:
        raise AttributeError("Windows has no such method")


class Socket(_socket.socket):
    """The base class of Python's sockets on Windows."""

    __slots__ = ()
    sendmsg = recvmsg = recvmsg_into = sendmsg_afalg = Missing()


def remove(module: ModuleType, names: list[str]) -> None:
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


def main() -> None:
    assert not {"gevent", "signal", "socket", "subprocess"} & sys.modules.keys()
    signals = [name for name in dir(_signal) if name.startswith("SIG") and name not in SIGNALS]
    remove(_signal, signals + SIGNAL.split())
    remove(_socket, SOCKET.split())
    remove(select, [name for name in dir(select) if "poll" in name.lower()])
    _socket.socket = Socket
    os.environ["GEVENT_LOOP"] = "libuv"
    import asyncio  # noqa: F401
    import ssl

    import gevent.pywsgi
    import gevent.subprocess  # it has code of its own for each system, as the loop has

    gevent.get_hub()
    ssl.enum_certificates = lambda store: []  # what Windows has instead
    remove(os, OS.split())
    for name in MODULES.split():
        sys.modules[name] = None  # importing it raises ImportError
    sys.platform = "win32"
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
