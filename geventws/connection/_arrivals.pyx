# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=True
"""Accepted connections until their first bytes, on Linux. There is no twin in Python.

No greenlet waits for these bytes, and no watcher of the loop: the connections are in the hub's
epoll set. Elsewhere, and for TLS, a greenlet of the server waits.
"""
cimport cython

from geventws.connection._epoll cimport Watched, WatchSet

from errno import EBADF, ENOSYS
from libc.stdint cimport uint8_t

from _socket import SOCK_NONBLOCK, socket as new_socket  # not the one that gevent replaces


cdef extern from "Python.h":
    object PyErr_SetFromErrno(object)


cdef extern from "system.h" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    Py_ssize_t recv_or_peek(int, uint8_t*, size_t, bint)
    Py_ssize_t direct_send(int, iovec*, int, bint)
    int close_descriptor(int)
    int set_option(int, int, int, int)
    int shut_down "shutdown"(int, int)
    bint would_block()
    struct sockaddr_storage:
        pass
    int accept_connection(int, sockaddr_storage*)


cdef extern from "system.h":
    object address_of(sockaddr_storage*)


cdef enum:
    BUFFER_SIZE = 8 << 10

#: Only used between a read and the copy of its bytes.
cdef uint8_t[BUFFER_SIZE] buffer


cdef class Listener:
    """A listening socket."""

    cdef readonly object socket
    cdef int family
    cdef int type
    cdef int proto

    def __init__(self, socket):
        self.socket = socket
        self.family, self.type, self.proto = socket.family, socket.type, socket.proto

    def accept(self, int most, bint peek=False):
        """Accept connections that wait; return a list of ``(sock, address, data)``.

        ``sock`` does not block. ``data`` is what :func:`receive` has returned for it.

        :param most: the maximum number of connections.
        :param peek: whether ``data`` stays in the kernel.
        :raises OSError: as ``socket.accept()``, if no connection was accepted.
        """
        cdef sockaddr_storage client
        cdef DirectSocket sock
        cdef list accepted = []
        cdef int descriptor, listener = self.socket.fileno()
        while listener >= 0 and most > 0:  # a view may have stopped the server
            descriptor = accept_connection(listener, &client)
            if descriptor < 0:
                if would_block() or accepted:
                    break
                PyErr_SetFromErrno(OSError)
            sock = DirectSocket(self.family, self.type, self.proto, descriptor)
            accepted.append((sock, address_of(&client), receive(descriptor, BUFFER_SIZE, peek)))
            most -= 1
        return accepted


cpdef receive(int descriptor, Py_ssize_t most=BUFFER_SIZE, bint peek=False):
    """Return ``b""`` at the end or after an error, and ``None`` if nothing has arrived.

    :param most: the maximum number of bytes, up to 8 KiB.
    :param peek: whether the bytes stay in the kernel.
    """
    cdef Py_ssize_t size = recv_or_peek(descriptor, buffer, min(most, BUFFER_SIZE), peek)
    if size < 0 and would_block():
        return None
    return (<char*>buffer)[:max(size, 0)]


@cython.no_gc  # a reference cycle is impossible: _socket.socket refers to no other object
cdef class DirectSocket:
    """A socket of the operating system, which costs a system call less than :class:`_socket.socket`.

    It creates such a socket for the methods that it does not have.
    """

    # The first field, as in _socket.socket: see descriptor_of(). So this class has no C methods.
    cdef int descriptor
    cdef readonly int family
    cdef readonly int type
    cdef readonly int proto
    cdef object socket
    # Whether this object closes the descriptor, and not the socket above.
    cdef bint is_owner

    def __cinit__(self):
        self.descriptor = -1

    def __init__(self, int family, int type, int proto, int descriptor):
        self.descriptor = descriptor
        self.is_owner = True
        self.family = family
        self.type = type
        self.proto = proto

    def __dealloc__(self):
        if self.descriptor >= 0 and self.is_owner:
            close_descriptor(self.descriptor)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        if self.socket is None:
            if self.descriptor < 0:
                raise OSError(EBADF, "the socket is closed")
            kind = self.type | SOCK_NONBLOCK
            self.socket = new_socket(self.family, kind, self.proto, self.descriptor)
            self.is_owner = False
        return getattr(self.socket, name)

    def fileno(self):
        return self.descriptor

    def detach(self):
        cdef int descriptor = self.descriptor
        self.descriptor = -1
        if self.socket is not None:
            self.socket.detach()
        return descriptor

    def close(self):
        cdef int descriptor = self.detach()
        if descriptor >= 0 and close_descriptor(descriptor) < 0:
            PyErr_SetFromErrno(OSError)

    def shutdown(self, int how):
        if shut_down(self.descriptor, how) < 0:
            PyErr_SetFromErrno(OSError)

    def setsockopt(self, int level, int option, value):
        if not isinstance(value, int):
            self.__getattr__("setsockopt")(level, option, value)
        elif set_option(self.descriptor, level, option, value) < 0:
            PyErr_SetFromErrno(OSError)

    def try_send(self, bytes data not None):
        """Send without blocking; return the number of sent bytes, 0 if there is no room."""
        cdef iovec part
        cdef Py_ssize_t sent
        part.iov_base = <char*>data
        part.iov_len = len(data)
        sent = direct_send(self.descriptor, &part, 1, False)
        if sent < 0:
            if would_block():
                return 0
            PyErr_SetFromErrno(OSError)
        return sent


cdef class Arrival(Watched):
    """An accepted connection that waits for its first bytes.

    :param owner: gets them in the hub: its method ``on_first_bytes(arrival, data)`` is called, or
        ``on_descriptor_lost(arrival)`` if other code has closed the descriptor.
    :param peek: whether the bytes stay in the kernel.
    """

    cdef object owner
    cdef WatchSet watches
    cdef bint peek
    cdef readonly DirectSocket sock
    cdef readonly object address

    def __init__(
        self, owner, hub, WatchSet watches not None, DirectSocket sock not None, address, bint peek
    ):
        self.owner = owner
        self._hub = hub
        self.watches = watches
        self.sock = sock
        self.address = address
        self.peek = peek
        self.descriptor = self.fd = sock.descriptor

    def wait(self):
        """Start to wait.

        :raises OSError: if the system has no resources for it.
        """
        if not self.watches.is_usable():
            raise OSError(ENOSYS, "no epoll set")
        self.watches.attach(self)
        try:
            self.watches.watch(self)
        except BaseException:
            self.release()
            raise

    cpdef release(self):
        """Stop using the descriptor."""
        if self.is_watched:
            self.watches.forget(self)
        self.watches.detach(self)

    cdef int on_readable(self) except -1:
        data = receive(self.fd, BUFFER_SIZE, self.peek)
        if data is not None:
            self.release()
            self.owner.on_first_bytes(self, data)
        return 0

    cdef int restart(self) except -1:
        self.watches.watch(self)
        return 0

    cdef int descriptor_lost(self) except -1:
        self.release()
        self.sock.detach()
        self.owner.on_descriptor_lost(self)
        return 0
