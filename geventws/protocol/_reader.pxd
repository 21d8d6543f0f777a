# cython: language_level=3
"""The fields and C methods of the compiled frame reader, for the compiled transport."""
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t

from geventws.protocol._frames cimport utf8_state


# Small fields are next to each other: every byte counts for each connection.
cdef class FrameReader:
    cdef public object state
    cdef public bint has_news
    cdef public bint interrupted
    cdef readonly bint is_client
    # Control frames and the closing handshake, see Endpoint.
    cdef public bint close_received
    cdef public bint closed_by_peer
    cdef public object close_code
    cdef public object close_reason
    cdef public object error
    cdef public object pong
    cdef public object _output
    cdef public object _pings
    # Input: from `at` to `end`, inside `owner`, or inside the buffer of a hub if that is None.
    cdef bint borrowed
    cdef uint8_t* at
    cdef uint8_t* end
    cdef object owner
    cdef readonly object extension
    cdef Py_ssize_t min_compressed
    cdef Py_ssize_t max_message_size
    # The incomplete message: an object with more capacity than it uses. A str as long as all of
    # it is ASCII, else bytes.
    cdef PyObject* message
    cdef uint8_t* data
    cdef Py_ssize_t used
    cdef Py_ssize_t capacity
    cdef bint is_str
    cdef int opcode
    cdef bint compressed
    # The frame whose header is parsed and whose payload is incomplete.
    cdef bint fin
    cdef Py_ssize_t left
    cdef uint32_t mask
    # Numbers of the incomplete message and frame, see unfinished().
    cdef uint32_t number
    cdef uint32_t message_number
    cdef uint32_t rest_number
    cdef object inflation
    cdef utf8_state text_state
    # The size of the latest message that arrived in pieces, at most UINT32_MAX.
    cdef uint32_t latest

    cdef void drop_message(self) noexcept
    cdef void discard_input(self) noexcept
    cdef int add(self, const uint8_t* data, Py_ssize_t size) except -1
    cdef int borrow_at(self, uint8_t* data, Py_ssize_t size) except -1
    cdef int keep_rest(self) except -1
    cdef bint rests_at_start(self) noexcept
    cdef object parse(self)
    cdef object parse_frames(self)
    cdef void interrupt(self) noexcept
    cdef bint bad(self, str reason) except -1
    cdef bint bad_text(self) except -1
    cdef bint check_header(self, int first, Py_ssize_t size) except -1
    cdef bint take_usual_close(self, bytes payload) except -1
    cdef object begin_frame(self, int first, uint8_t* payload, Py_ssize_t size)
    cdef int make_room(self, Py_ssize_t size, Py_ssize_t arrived) except -1
    cdef int resize(self, Py_ssize_t capacity) except -1
    cdef int become_bytes(self) except -1
    cdef object continue_frame(self)
    cdef object take_message(self)
    cdef object inflate(self, payload)
    cdef object continue_inflating(self)
    cdef void wait_for_inflation(self) noexcept
    cdef object take_inflated(self, message)
    cdef object compress(self, payload, Py_ssize_t size)
