# cython: language_level=3
"""The fields and C methods of the epoll set, for the compiled transport."""
from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "system.h" nogil:
    enum: MAX_READY


cdef void exempt_from_collection(object owned) noexcept
cdef void admit_to_collection(object owned) noexcept


cdef enum Recipient:
    HUB  # code that may switch to a greenlet
    VIEW  # a greenlet that waits, or the queue
    CALLBACK


cdef class Watched:
    cdef object __weakref__
    cdef readonly object _hub
    # The descriptor; and again if it is read and written directly, else -1.
    cdef int descriptor
    cdef int fd
    cdef uint32_t ticket
    cdef bint is_watched

    cdef int on_readable(self) except -1
    cdef int run_view(self) except -1
    cdef Recipient recipient(self) noexcept
    cdef void prefetch(self) noexcept
    cdef int restart(self) except -1
    cdef int descriptor_lost(self) except -1


cdef class WatchSet:
    # The attached connections by descriptor, with a reference to each, and the array's length.
    cdef PyObject** connections
    cdef Py_ssize_t capacity
    # The epoll set, or -1. How many connections are in it. The loop's watcher, if there are any.
    cdef int set
    cdef Py_ssize_t watched
    cdef object watcher
    # The label of a connection in the epoll set is its descriptor and its ticket. A ticket comes
    # again only after four billion connections.
    cdef uint32_t tickets
    # The labels of the connections that are ready, their number, and the next one to be read.
    cdef uint64_t ready[MAX_READY]
    cdef int count
    cdef int next
    # The latest label that was reported for no connection.
    cdef uint64_t stale
    cdef bint is_out_of_date

    cdef bint is_usable(self) noexcept
    cdef int attach(self, Watched connection) except -1
    cdef int detach(self, Watched connection) except -1
    cdef PyObject* owner_of(self, uint64_t label) noexcept
    cdef int watch(self, Watched connection) except -1
    cdef int forget(self, Watched connection) except -1
    cdef int close_set(self) except -1
    cdef bint has_next(self, Recipient recipient) noexcept
    cdef Watched read_next(self)
    cdef void report(self, Watched connection) noexcept
    cdef int renew(self) except -1
    cdef list unwatch_all(self)
    cdef int abandon(self) except -1
