# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=True
"""Accepted connections until their first bytes, on Linux. There is no twin in Python.

No greenlet waits for these bytes, and no watcher of the loop: the connections are in the hub's
epoll set. Elsewhere, and for TLS, a greenlet of the server waits.
"""
from geventws.connection._epoll cimport Watched, WatchSet

from errno import ENOSYS
from libc.stdint cimport uint8_t


cdef extern from "Python.h":
    object PyErr_SetFromErrno(object)


cdef extern from "system.h" nogil:
    Py_ssize_t direct_recv(int, uint8_t*, size_t)
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


def accept(int listener):
    """Accept a connection: return its descriptor and the address of its client.

    Return ``None`` if no connection waits. The descriptor does not block.

    :raises OSError: as ``socket.accept()``.
    """
    cdef sockaddr_storage client
    cdef int descriptor = accept_connection(listener, &client)
    if descriptor < 0:
        if would_block():
            return None
        PyErr_SetFromErrno(OSError)
    return descriptor, address_of(&client)


def receive(int descriptor):
    """Return at most 8 KiB: ``b""`` at the end or after an error, ``None`` if nothing has arrived."""
    cdef Py_ssize_t size = direct_recv(descriptor, buffer, BUFFER_SIZE)
    if size < 0 and would_block():
        return None
    return (<char*>buffer)[:max(size, 0)]


cdef class Arrival(Watched):
    """A connection that waits for its first bytes. A subclass implements ``_on_readable()``."""

    cdef WatchSet watches

    def __init__(self, hub, WatchSet watches not None, int descriptor):
        self._hub = hub
        self.watches = watches
        self.descriptor = self.fd = descriptor

    def _watch(self):
        """Call ``_on_readable()`` in the hub when bytes have arrived.

        :raises OSError: if the system has no resources for it.
        """
        if not self.watches.is_usable():
            raise OSError(ENOSYS, "no epoll set")
        self.watches.attach(self)
        self.watches.watch(self)

    def _release(self):
        """Stop using the descriptor."""
        if self.is_watched:
            self.watches.forget(self)
        self.watches.detach(self)

    cdef int on_readable(self) except -1:
        self._on_readable()
        return 0

    cdef int restart(self) except -1:
        self.watches.watch(self)
        return 0

    cdef int descriptor_lost(self) except -1:
        self._on_descriptor_lost()
        return 0
