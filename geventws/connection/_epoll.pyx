# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=True
"""The plain sockets of a hub in one epoll set, on Linux. There is no twin in Python.

The loop watches the set as one descriptor. A watcher for each connection costs 250 bytes, a Python
call a message, and with many connections the time to fetch all of that from memory. Elsewhere, and
for TLS, each connection has its own watcher.
"""
import sys

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "Python.h":
    object PyErr_SetFromErrno(object)
    bint PyObject_IS_GC(PyObject*)
    void PyObject_GC_UnTrack(void*)
    void PyObject_GC_Track(void*)
    bint PyObject_GC_IsTracked(PyObject*)


cdef extern from "system.h" nogil:
    int poll_open()
    void poll_close(int)
    int poll_add(int, int, uint64_t)
    void poll_remove(int, int)
    int poll_ready(int, uint64_t*)


cdef void exempt_from_collection(object owned) noexcept:
    """Let the garbage collector pass over an object that cannot become unreachable for now.

    A full collection stops all views while it visits the objects of all connections.
    """
    if PyObject_IS_GC(<PyObject*>owned):
        PyObject_GC_UnTrack(<PyObject*>owned)


cdef void admit_to_collection(object owned) noexcept:
    """Undo :func:`exempt_from_collection`, before the object can become part of a dead cycle."""
    if PyObject_IS_GC(<PyObject*>owned) and not PyObject_GC_IsTracked(<PyObject*>owned):
        PyObject_GC_Track(<PyObject*>owned)


cdef class Watched:
    """An element of a :class:`WatchSet`: the base class of the compiled transport."""

    cdef int on_readable(self) except -1:
        raise NotImplementedError

    cdef int run_view(self) except -1:
        """Switch to the greenlet that waits for what ``on_readable()`` has read, if one does."""
        return 0

    cdef Recipient recipient(self) noexcept:
        """Who gets what is read. If it is not the hub, ``on_readable()`` must not switch."""
        return HUB

    cdef void prefetch(self) noexcept:
        """Fetch the memory of the next dispatch into the CPU cache."""

    cdef int restart(self) except -1:
        """Start to read again, in a new epoll set.

        Raises OSError if the descriptor is closed.
        """
        raise NotImplementedError

    cdef int descriptor_lost(self) except -1:
        """Other code has closed the descriptor."""
        raise NotImplementedError


cdef class WatchSet:
    """The connections of a hub by descriptor, and the epoll set that watches them."""

    def __cinit__(self):
        self.set = -1

    def __dealloc__(self):
        PyMem_Free(self.connections)
        poll_close(self.set)

    cdef bint is_usable(self) noexcept:
        """Whether the system has epoll. Opens the set, which exists while it is needed."""
        if self.set < 0:
            self.set = poll_open()
        return self.set >= 0

    cdef int attach(self, Watched connection) except -1:
        """Register the owner of a descriptor."""
        cdef Py_ssize_t i, capacity
        cdef PyObject** connections
        cdef int fd = connection.descriptor
        if fd >= self.capacity:
            capacity = 2 * fd + 64
            connections = <PyObject**>PyMem_Realloc(self.connections, capacity * sizeof(PyObject*))
            if connections == NULL:
                raise MemoryError
            for i in range(self.capacity, capacity):
                connections[i] = NULL
            self.connections = connections
            self.capacity = capacity
        if self.connections[fd] != NULL:
            # Other code has closed the descriptor of that connection, and the system reuses it.
            (<Watched>self.connections[fd]).descriptor_lost()
        self.tickets += 1
        connection.ticket = self.tickets
        Py_INCREF(connection)
        self.connections[fd] = <PyObject*>connection
        exempt_from_collection(connection)  # it has the reference of this array
        return 0

    cdef int detach(self, Watched connection) except -1:
        """Unregister the owner of a descriptor."""
        cdef int fd = connection.descriptor
        if 0 <= fd < self.capacity and self.connections[fd] == <PyObject*>connection:
            self.connections[fd] = NULL
            admit_to_collection(connection)
            Py_DECREF(connection)
        return 0

    cdef PyObject* owner_of(self, uint64_t label) noexcept:
        """The connection with this label, if it is still watched."""
        cdef PyObject* owner
        cdef Py_ssize_t fd = <Py_ssize_t><uint32_t>label
        if fd >= self.capacity:
            return NULL
        owner = self.connections[fd]
        if owner == NULL or (<Watched>owner).ticket != <uint32_t>(label >> 32):
            return NULL
        return owner if (<Watched>owner).is_watched else NULL

    cdef int watch(self, Watched connection) except -1:
        """Call ``on_readable()`` whenever there is something to read."""
        cdef uint64_t label = <uint64_t>connection.ticket << 32 | <uint64_t>connection.fd
        if poll_add(self.set, connection.fd, label) < 0:
            PyErr_SetFromErrno(OSError)
        connection.is_watched = True
        self.watched += 1
        if self.watcher is None:
            self.watcher = connection._hub.loop.io(self.set, 1)
            self.watcher.start(self.read)
        return 0

    cdef int forget(self, Watched connection) except -1:
        """Stop to watch a connection."""
        poll_remove(self.set, connection.fd)
        connection.is_watched = False
        self.watched -= 1
        if not self.watched:
            self.close_set()  # a loop that has nothing else to wait for may end
        return 0

    cdef int close_set(self) except -1:
        if self.watcher is not None:
            self.watcher.close()
            self.watcher = None
        poll_close(self.set)
        self.set = -1
        return 0

    def read(self):
        """Read from the connections that have something to read; in the hub.

        The greenlets that get the messages do a part of it, see ``HubBuffers.lead()`` and
        ``HubBuffers.next_view()``.
        """
        cdef Watched connection
        self.next, self.count = 0, poll_ready(self.set, self.ready)
        self.is_out_of_date = False
        while self.next < self.count:
            connection = self.read_next()
            if connection is not None:
                try:
                    connection.run_view()
                except BaseException:
                    self.report(connection)
        if self.is_out_of_date:
            self.renew()

    cdef bint has_next(self, Recipient recipient) noexcept:
        """Whether another connection is ready, and has this recipient."""
        cdef PyObject* owner
        if self.next >= self.count:
            return False
        owner = self.owner_of(self.ready[self.next])
        return owner != NULL and (<Watched>owner).recipient() == recipient

    cdef Watched read_next(self):
        """Read from the next connection that is ready, and return it."""
        cdef uint64_t label = self.ready[self.next]
        cdef PyObject* owner
        cdef Watched connection
        self.next += 1
        if self.next < self.count:
            owner = self.owner_of(self.ready[self.next])
            if owner != NULL:
                (<Watched>owner).prefetch()
        owner = self.owner_of(label)
        if owner == NULL:
            # Either one connection has ended another just now, or the kernel will report it again.
            self.is_out_of_date |= label == self.stale
            self.stale = label
            return None
        connection = <Watched>owner
        try:
            connection.on_readable()
        except BaseException:
            self.report(connection)
        return connection

    cdef void report(self, Watched connection) noexcept:
        """Report the handled exception as gevent does; never raises.

        An exception in its callback would make gevent stop the watcher, for all connections.
        """
        connection._hub.handle_error(connection, *sys.exc_info())

    cdef int renew(self) except -1:
        """Watch all connections in a new epoll set.

        When other code closes a descriptor that has a duplicate, the kernel continues to report it.
        There is no other way to remove it from the set.
        """
        cdef list watched = self.unwatch_all()
        self.close_set()
        for connection in watched:
            try:
                (<Watched>connection).restart()
            except OSError:
                (<Watched>connection).descriptor_lost()
        return 0

    cdef list unwatch_all(self):
        """Mark all connections as not watched; return them."""
        cdef Py_ssize_t fd
        cdef list watched = []
        for fd in range(self.capacity):
            if self.connections[fd] != NULL and (<Watched>self.connections[fd]).is_watched:
                watched.append(<Watched>self.connections[fd])
                (<Watched>self.connections[fd]).is_watched = False
        self.watched = 0
        return watched

    cdef int abandon(self) except -1:
        """In a child process: the set is the parent's, and so are the connections in it."""
        self.unwatch_all()
        self.close_set()
        return 0
