# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=True
"""The compiled twin of ``reader.py`` and ``transport.py``, which are the reference and explain it.

What differs, and why:

- Input is a pair of C pointers, and a payload is unmasked straight into its final object.
- Plain sockets are read and written by ``recv(2)`` and ``send(2)`` on the descriptor, without the
  layers of Python's sockets; they never block, so the GIL stays. TLS goes through Python.
- Frames are made in the cork's buffer or on the stack. No greenlet switch may happen while a
  pointer into the C stack is in use elsewhere: a suspended greenlet's stack is copied away.
- ``greenlet``'s C API switches without a Python call.
- On Linux the plain sockets of a hub are watched together, in an epoll set of which the loop only
  knows that something in it can be read. A watcher each costs 250 bytes, a Python call a message,
  and with many connections the time to fetch all of that from memory.
"""
import os
import sys
from errno import EBADF
from weakref import WeakKeyDictionary

from cpython.buffer cimport PyBuffer_FillInfo, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from gevent import get_hub
from gevent.exceptions import BlockingSwitchOutError, ConcurrentObjectUseError
from gevent.ssl import SSLSocket

from geventws._core.reader import MAX_STEPS, NO_LIMIT as MOST, compression_overhead
from geventws._core.transport import MAX_RECORD, NOT_HERE, WOULD_BLOCK, _message, drop_watchers
from geventws.exceptions import InvalidPayload, MessageTooBig, ProtocolError
from geventws.frames import State, encode_text
from geventws.threads import call_in_child, call_in_hub, is_running


cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object, Py_ssize_t*) noexcept
    void PyErr_Clear()
    object PyUnicode_New(Py_ssize_t, Py_UCS4)
    void* PyUnicode_DATA(object)
    int PyUnicode_Resize(PyObject**, Py_ssize_t) except -1
    object decode_utf8 "PyUnicode_DecodeUTF8"(const char*, Py_ssize_t, const char*)
    object PyMemoryView_FromMemory(char*, Py_ssize_t, int)
    int PyBUF_WRITE
    unsigned long PyThread_get_thread_ident()
    object PyErr_SetFromErrno(object)
    int _PyBytes_Resize(PyObject**, Py_ssize_t) except -1


cdef extern from "greenlet/greenlet.h":
    ctypedef struct PyGreenlet:
        void* pimpl
    void PyGreenlet_Import()
    PyGreenlet* PyGreenlet_GetCurrent() except NULL
    object PyGreenlet_Switch(PyGreenlet*, PyObject*, PyObject*)
    PyObject* try_switch "PyGreenlet_Switch"(PyGreenlet*, PyObject*, PyObject*)


cdef extern from "speedups.h" nogil:
    bint DIRECT_IO
    int MAX_HEAD
    struct iovec:
        void* iov_base
        size_t iov_len
    ctypedef struct utf8_state:
        uint8_t lacking
    Py_ssize_t direct_recv(int, uint8_t*, size_t)
    Py_ssize_t direct_send(int, iovec*, int)
    bint would_block()
    void apply_mask_to(uint8_t*, const uint8_t*, size_t, uint32_t)
    bint apply_mask_to_ascii(uint8_t*, const uint8_t*, size_t, uint32_t)
    uint32_t turn_mask(uint32_t, size_t)
    bint utf8_take(utf8_state*, const uint8_t*, size_t)
    int put_head(uint8_t*, int, uint64_t)
    uint64_t get_number(const uint8_t*, int)
    uint64_t now_us()
    int poll_open()
    void poll_close(int)
    int poll_add(int, int, uint64_t)
    void poll_remove(int, int)
    int poll_ready(int, uint64_t*)
    enum: MAX_READY
    int descriptor_of(PyObject*)
    void fetch_line(void*)


PyGreenlet_Import()

cdef object OPEN = State.OPEN
cdef object CLOSED = State.CLOSED
cdef int MOST_STEPS = MAX_STEPS
cdef Py_ssize_t NO_LIMIT = MOST
cdef uint8_t NOT_LOOKED_AT[1]

cdef enum:
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PONG = 10
    FIN = 0x80
    RSV = 0x70
    RSV1 = 0x40
    MASKED = 0x80
    MAX_CONTROL = 125
    # The sizes of the reference twin, and those that only matter here.
    BUFFER_SIZE = 64 << 10
    MAX_CORK = 64 << 10
    SLICE_US = 1000
    # Of a large message that is coming in, more may be read at once: nobody else is due.
    LARGE_READ = 256 << 10
    # A payload from here on is not copied behind its header, but written from where it is.
    LARGE_PAYLOAD = 16 << 10
    ON_STACK = 4 << 10
    FIRST_CAPACITY = 4 << 10


# ------------------------------------------------------------------------------------- frames

def apply_mask(data, mask):
    """XOR ``data`` with the four bytes of ``mask`` over and over, RFC 6455 section 5.3."""
    cdef Py_buffer view
    cdef uint32_t key
    cdef bytes four = bytes(mask)
    cdef bytes result
    memcpy(&key, PyBytes_AS_STRING(four), 4)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        result = PyBytes_FromStringAndSize(NULL, view.len)
        apply_mask_to(<uint8_t*>PyBytes_AS_STRING(result), <uint8_t*>view.buf, view.len, key)
    finally:
        PyBuffer_Release(&view)
    return result


def encode_frame(int opcode, payload, mask=None, bint fin=True):
    """One frame, RFC 6455 section 5.2, with its length in the shortest form."""
    cdef Py_buffer view
    cdef uint8_t head[14]
    cdef int size
    cdef bytes result
    cdef uint8_t* out
    cdef uint32_t key = 0
    PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
    try:
        size = put_head(head, opcode | FIN if fin else opcode, view.len)
        if mask is not None:
            head[1] |= MASKED
            four = bytes(mask)
            memcpy(&key, PyBytes_AS_STRING(four), 4)
            memcpy(head + size, &key, 4)
            size += 4
        result = PyBytes_FromStringAndSize(NULL, size + view.len)
        out = <uint8_t*>PyBytes_AS_STRING(result)
        memcpy(out, head, size)
        apply_mask_to(out + size, <uint8_t*>view.buf, view.len, key)
    finally:
        PyBuffer_Release(&view)
    return result


cdef class FrameReader:
    """The input of one side of a connection; see the twin in ``reader.py``."""

    cdef public object state
    cdef public bint has_news
    cdef public bint interrupted
    cdef readonly bint is_client
    cdef readonly object deflate
    cdef Py_ssize_t min_deflate
    cdef Py_ssize_t max_message_size
    # Input: from `at` to `end`, inside of `owner`, or of the buffer of a hub if that is None.
    cdef uint8_t* at
    cdef uint8_t* end
    cdef object owner
    cdef bint borrowed
    # The message being assembled: an object with more capacity than it uses; a str as long as
    # all is ASCII, else bytes.
    cdef PyObject* message
    cdef uint8_t* data
    cdef bint is_str
    cdef Py_ssize_t used
    cdef Py_ssize_t capacity
    cdef int opcode
    cdef bint compressed
    cdef object inflation
    cdef utf8_state text_state
    # The frame whose header is parsed and whose payload is not all there.
    cdef Py_ssize_t left
    cdef uint32_t mask
    cdef bint fin
    # What has begun and is not complete, numbered: see unfinished().
    cdef uint32_t number
    cdef uint32_t message_number
    cdef uint32_t rest_number

    def __init__(self, bint client, max_message_size, deflate=None):
        self.is_client = client
        self.state = OPEN
        self.max_message_size = (
            NO_LIMIT if max_message_size is None else min(max_message_size, NO_LIMIT)
        )
        self.deflate = deflate
        if deflate is not None:
            self.min_deflate = deflate.min_size

    def __dealloc__(self):
        self.drop_message()

    cdef void drop_message(self) noexcept:
        if self.message != NULL:
            Py_DECREF(<object>self.message)
            self.message = NULL
        self.used = self.capacity = 0

    def _discard_input(self):
        """Forget what is there; nothing more will be taken in once the state is CLOSED."""
        self.discard_input()

    cdef void discard_input(self) noexcept:
        self.drop_message()
        self.inflation = None
        self.left = 0
        self.at = self.end

    @property
    def has_input(self):
        """Whether bytes are waiting to be parsed."""
        return self.at < self.end

    def receive_data(self, data):
        """Add bytes from the peer to the input."""
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.add(<uint8_t*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    def borrow(self, bytearray buffer, Py_ssize_t size):
        """Parse the first ``size`` bytes of a buffer in place, behind what was kept."""
        self.borrow_at(<uint8_t*><char*>buffer, size)
        if self.borrowed:
            self.owner = buffer

    def keep(self):
        """Copy what is left of a borrowed buffer, so that the caller may use it again."""
        self.keep_rest()

    cdef int add(self, const uint8_t* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t rest = self.end - self.at
        cdef bytes joined
        cdef uint8_t* out
        if self.state is CLOSED:
            return 0
        if not self.rests_at_start():
            self.number += 1
            self.rest_number = self.number
        joined = PyBytes_FromStringAndSize(NULL, rest + size)
        out = <uint8_t*>PyBytes_AS_STRING(joined)
        if rest:
            memcpy(out, self.at, rest)
        if size:
            memcpy(out + rest, data, size)
        self.owner = joined
        self.borrowed = False
        self.at = out
        self.end = out + rest + size
        return 0

    cdef int borrow_at(self, uint8_t* data, Py_ssize_t size) except -1:
        if self.at < self.end:
            return self.add(data, size)
        if self.state is not CLOSED:
            self.owner = None
            self.borrowed = True
            self.at = data
            self.end = data + size
        return 0

    cdef int keep_rest(self) except -1:
        if self.borrowed:
            if self.at < self.end:
                self.add(NULL, 0)
                if not self.borrowed:
                    return 0
            self.borrowed = False
            self.owner = None
            self.at = self.end = NULL
        return 0

    def unfinished(self):
        """A number for the message or the frame that has begun and is not complete; else 0."""
        if self.opcode:
            return self.message_number
        if self.at == self.end:
            return 0
        if not self.rests_at_start():
            self.add(NULL, 0)
        return self.rest_number

    cdef bint rests_at_start(self) noexcept:
        """Whether what is kept of the input has been kept before, and nothing of it was taken."""
        return (
            not self.borrowed and self.owner is not None
            and self.at == <uint8_t*>PyBytes_AS_STRING(self.owner)
        )

    def next_message(self):
        """Parse the input up to the end of the next message and return it.

        ``None`` means that there is none yet, that the connection is no longer open (messages are
        then skipped in search of the peer's Close frame), or that :attr:`interrupted` is set.

        After an exception, such as MemoryError, the state is CLOSED and the input is discarded: the
        next byte may be anywhere inside of a frame.
        """
        return self.parse()

    cdef object parse(self):
        # An except clause would save the state of exceptions for every message.
        cdef bint failed = True
        try:
            message = self.parse_frames()
            failed = False
        finally:
            if failed:
                self.discard_input()
                self.connection_lost()
        return message

    cdef object parse_frames(self):
        cdef uint8_t* at
        cdef uint8_t* payload
        cdef Py_ssize_t available, size, head
        cdef uint64_t long_size
        cdef uint32_t mask
        cdef int first, short_size
        cdef bint masked = not self.is_client
        cdef uint8_t* text
        cdef object message
        cdef int steps = 0
        while self.at < self.end:
            if self.left:
                message = self.continue_frame()
                if message is not None and self.state is OPEN:
                    return message
                if self.interrupted:
                    return None
                continue
            at = self.at
            available = self.end - at
            if available < 2:
                return None
            first = at[0]
            short_size = at[1] & 0x7F
            if (at[1] & MASKED != 0) != masked:
                self.bad("a frame without a mask" if masked else "a masked frame")
                return None
            head = 6 if masked else 2
            if short_size > 125:
                head += 2 if short_size == 126 else 8
            if head > available:
                # The rest of the header is due, but what is there may be wrong already.
                self.check_header(first, short_size)
                return None
            size = short_size
            if short_size > 125:
                long_size = get_number(at + 2, 2 if short_size == 126 else 8)
                if long_size < <uint64_t>(126 if short_size == 126 else 65536):
                    self.bad("a length that is not in its shortest form")
                    return None
                if long_size >> 63:
                    self.bad("a length of 2**63 bytes or more")
                    return None
                size = <Py_ssize_t>long_size
            payload = at + head
            if (
                size > available - head
                or (first != FIN | TEXT and first != FIN | BINARY)
                or self.opcode
                or size > self.max_message_size
            ):
                message = self.begin_frame(first, payload, size)
                if message is not None and self.state is OPEN:
                    return message
                if self.at == at or self.state is CLOSED or self.interrupted:
                    return None
                steps += 1
                if steps == MOST_STEPS:
                    self.interrupt()
                    return None
                continue
            self.at = payload + size
            mask = 0
            if masked:
                memcpy(&mask, payload - 4, 4)
            if first == FIN | BINARY:
                message = PyBytes_FromStringAndSize(NULL, size)
                apply_mask_to(<uint8_t*>PyBytes_AS_STRING(message), payload, size, mask)
            elif size == 0:
                message = ""
            else:
                # Most text is ASCII, and then a str is nothing but its bytes.
                message = PyUnicode_New(size, 127)
                text = <uint8_t*>PyUnicode_DATA(message)
                if not apply_mask_to_ascii(text, payload, size, mask):
                    try:
                        message = decode_utf8(<char*>text, size, NULL)
                    except UnicodeDecodeError:
                        self.bad_text()
                        return None
            if self.state is OPEN:
                return message
            steps += 1
            if steps == MOST_STEPS:
                self.interrupt()
                return None
        return None

    cdef void interrupt(self) noexcept:
        """Note that there may be more to parse."""
        if self.at < self.end:
            self.interrupted = self.has_news = True

    cdef bint bad(self, str reason) except -1:
        self._fail(ProtocolError(reason))
        return False

    cdef bint bad_text(self) except -1:
        self._fail(InvalidPayload("text that is not UTF-8"))
        return False

    cdef bint check_header(self, int first, Py_ssize_t size) except -1:
        """RFC 6455 section 5.2: reserved bits and opcodes; 5.4 and 5.5: fragmentation, control."""
        cdef int opcode = first & 0x0F
        if first & RSV and not (
            # Only the first frame of a message is marked as compressed, RFC 7692 section 6.1.
            first & RSV == RSV1 and self.deflate is not None and opcode in (TEXT, BINARY)
        ):
            return self.bad("a reserved bit is set")
        if opcode >= CLOSE:
            if opcode > PONG:
                return self.bad(f"the reserved opcode {opcode:#x}")
            if not first & FIN:
                return self.bad("a fragmented control frame")
            if size > MAX_CONTROL:
                return self.bad("a control frame of more than 125 bytes")
        elif opcode > BINARY:
            return self.bad(f"the reserved opcode {opcode:#x}")
        elif opcode == 0:
            if not self.opcode:
                return self.bad("a continuation of no message")
        elif self.opcode:
            return self.bad("a new message inside a fragmented one")
        return True

    cdef object begin_frame(self, int first, uint8_t* payload, Py_ssize_t size):
        """Take a frame off the fast path: control, fragment, or data that is not all there.

        Leaves ``at`` alone when more bytes are needed first.
        """
        cdef int opcode = first & 0x0F
        cdef Py_ssize_t most
        cdef bytes control
        cdef uint32_t mask = 0
        if not self.check_header(first, size):
            return None
        if not self.is_client:
            memcpy(&mask, payload - 4, 4)
        if opcode >= CLOSE:
            if size <= self.end - payload:
                self.at = payload + size
                control = PyBytes_FromStringAndSize(NULL, size)
                apply_mask_to(<uint8_t*>PyBytes_AS_STRING(control), payload, size, mask)
                try:
                    self._control(opcode, control)
                except ProtocolError as problem:
                    self._fail(problem)
            return None
        if opcode:
            self.opcode = opcode
            self.number += 1
            self.message_number = self.number
            self.compressed = first & RSV1 != 0
            self.is_str = opcode == TEXT and not self.compressed
            memset(&self.text_state, 0, sizeof(utf8_state))
        most = self.max_message_size
        if self.compressed:
            most += compression_overhead(most)
        if size > most - self.used:
            self._fail(MessageTooBig(f"a message of more than {self.max_message_size} bytes"))
            return None
        self.at = payload
        self.left = size
        self.mask = mask
        self.fin = first & FIN
        return self.continue_frame()

    cdef int make_room(self, Py_ssize_t size, Py_ssize_t arrived) except -1:
        """Have room for ``size`` bytes more.

        Reserves up to eight times as much as has arrived. What the header of the frame claims is an
        upper bound only.
        """
        cdef Py_ssize_t capacity = self.used + size
        if capacity <= self.capacity:
            return 0
        capacity = max(capacity, min(max(8 * arrived, FIRST_CAPACITY), self.used + self.left))
        if self.message == NULL:
            self.message = new_message(self.is_str, capacity)
        else:
            self.resize(capacity)
        self.data = data_of(self.message, self.is_str)
        self.capacity = capacity
        return 0

    cdef int resize(self, Py_ssize_t capacity) except -1:
        try:
            if self.is_str:
                PyUnicode_Resize(&self.message, capacity)
            else:
                _PyBytes_Resize(&self.message, capacity)
        except BaseException:
            # The latter has freed the object.
            self.drop_message()
            raise
        return 0

    cdef int become_bytes(self) except -1:
        """Go on with a text that is not ASCII."""
        cdef PyObject* message = new_message(False, self.capacity)
        cdef uint8_t* data = data_of(message, False)
        memcpy(data, self.data, self.used)
        Py_DECREF(<object>self.message)
        self.message = message
        self.data = data
        self.is_str = False
        return 0

    cdef object continue_frame(self):
        """Add what is there of the current frame's payload to the message."""
        cdef Py_ssize_t size
        cdef uint8_t* out
        cdef bint ascii
        if self.inflation is not None:
            return self.continue_inflating()
        size = min(self.left, self.end - self.at)
        if size:
            self.make_room(size, self.used + size)
            out = self.data + self.used
            ascii = apply_mask_to_ascii(out, self.at, size, self.mask)
            self.mask = turn_mask(self.mask, size)
            self.at += size
            self.left -= size
            self.used += size
            if self.opcode == TEXT and not self.compressed and (
                self.text_state.lacking or not ascii
            ):
                if not utf8_take(&self.text_state, out, size):
                    self.bad_text()
                    return None
                if self.is_str:
                    self.become_bytes()
        if self.left or not self.fin:
            return None
        if self.text_state.lacking:
            self.bad_text()
            return None
        return self.take_message()

    cdef object take_message(self):
        """The message is complete: hand it over and be ready for the next."""
        cdef bint is_text = self.opcode == TEXT
        cdef object message
        if self.state is not OPEN:
            # After our own Close frame messages are discarded: they are not inflated any more.
            self.opcode = 0
            self.drop_message()
            return None
        if self.compressed:
            message = (<char*>self.data)[:self.used]
            self.drop_message()
            return self.inflate(message)
        self.opcode = 0
        if not self.used:
            return "" if is_text else b""
        if is_text and not self.is_str:
            message = decode_utf8(<char*>self.data, self.used, NULL)
            self.drop_message()
            return message
        self.resize(self.used)
        message = <object>self.message
        self.drop_message()
        return message

    cdef object inflate(self, payload):
        """Inflate the first piece of a message."""
        cdef object begun
        try:
            begun = self.deflate.inflate(payload, self.max_message_size)
        except ProtocolError as problem:
            self._fail(problem)
            return None
        if type(begun) is bytes:
            return self.take_inflated(begun)
        self.inflation = begun
        self.wait_for_inflation()
        return None

    cdef object continue_inflating(self):
        """Inflate the next piece of a message, unless the connection is no longer open."""
        cdef object message
        self.left = 0
        self.at += 1
        if self.state is not OPEN:
            self.opcode = 0
            self.inflation = None
            return None
        try:
            message = self.inflation.advance()
        except ProtocolError as problem:
            self._fail(problem)
            return None
        if message is None:
            self.wait_for_inflation()
            return None
        self.inflation = None
        return self.take_inflated(message)

    cdef void wait_for_inflation(self) noexcept:
        """Be called again: the frame lacks a byte, which is not looked at."""
        self.left = 1
        if self.at < self.end:
            self.at -= 1
        else:
            self.owner = None
            self.borrowed = False
            self.at = NOT_LOOKED_AT
            self.end = NOT_LOOKED_AT + 1
        self.interrupt()

    cdef object take_inflated(self, message):
        cdef bint is_text = self.opcode == TEXT
        self.opcode = 0
        try:
            return message.decode() if is_text else message
        except UnicodeDecodeError:
            self.bad_text()
        return None

    def encode_message(self, int opcode, payload, bint compress=True):
        """A message of ours in one frame, compressed if that was agreed on and is worth it."""
        compressed = self.compress(payload, len(payload)) if compress else None
        if compressed is None:
            return self.encode(opcode, payload)
        return self.encode(RSV1 | opcode, compressed)

    cdef object compress(self, payload, Py_ssize_t size):
        """The payload, bytes-like or ``str``, compressed; None if it is better sent as it is."""
        if self.deflate is None or size < self.min_deflate:
            return None
        return self.deflate.compress(payload.encode() if type(payload) is str else payload)

    def encode(self, int opcode, payload, bint fin=True):
        """A frame of ours; a client masks it with four fresh random bytes (section 5.3)."""
        return encode_frame(opcode, payload, os.urandom(4) if self.is_client else None, fin)


cdef PyObject* new_message(bint is_str, Py_ssize_t capacity) except NULL:
    """A str or bytes object of our own: one reference, so that it may be resized."""
    message = PyUnicode_New(capacity, 127) if is_str else PyBytes_FromStringAndSize(NULL, capacity)
    Py_INCREF(message)
    return <PyObject*>message


cdef uint8_t* data_of(PyObject* message, bint is_str) noexcept:
    if is_str:
        return <uint8_t*>PyUnicode_DATA(<object>message)
    return <uint8_t*>PyBytes_AS_STRING(<object>message)


# ------------------------------------------------------------------------------------ transport

cdef class Shared:
    """What the connections of one hub share: only one of them is dispatched at a time."""

    cdef object __weakref__
    cdef uint8_t* buffer
    cdef uint8_t* cork
    cdef Py_ssize_t cork_size
    cdef Transport dispatched
    cdef uint64_t deadline
    # Those that are attached, by descriptor, with a reference to each; how many are in it.
    cdef PyObject** connections
    cdef Py_ssize_t capacity
    # The epoll set, or -1; how many connections are in it; the loop's watcher while there are any.
    cdef int set
    cdef Py_ssize_t watched
    cdef object watcher
    # What the kernel is told of a connection, and says when it is ready: its descriptor and its
    # ticket, which no other connection of this hub has had for billions of them.
    cdef uint32_t tickets
    cdef uint64_t ready[MAX_READY]
    # The latest that came though nobody was watched by it.
    cdef uint64_t stale

    def __cinit__(self):
        self.set = poll_open()
        self.buffer = <uint8_t*>PyMem_Malloc(BUFFER_SIZE)
        self.cork = <uint8_t*>PyMem_Malloc(MAX_CORK + LARGE_PAYLOAD + MAX_HEAD)
        if self.buffer == NULL or self.cork == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.buffer)
        PyMem_Free(self.cork)
        PyMem_Free(self.connections)
        poll_close(self.set)

    cdef int attach(self, Transport connection) except -1:
        """Remember whose descriptor it is."""
        cdef Py_ssize_t i, capacity
        cdef PyObject** connections
        cdef int fd = connection.descriptor
        if fd < 0:
            raise OSError(EBADF, "the socket is closed")
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
            # Somebody else has closed the descriptor of that one, and the system gave it out again.
            (<Transport>self.connections[fd])._disown()
        self.tickets += 1
        connection.ticket = self.tickets
        Py_INCREF(connection)
        self.connections[fd] = <PyObject*>connection
        return 0

    cdef int detach(self, Transport connection) except -1:
        """Forget whose descriptor it was."""
        cdef int fd = connection.descriptor
        if 0 <= fd < self.capacity and self.connections[fd] == <PyObject*>connection:
            self.connections[fd] = NULL
            Py_DECREF(connection)
        return 0

    cdef PyObject* owner_of(self, uint64_t label) noexcept:
        """The connection that the kernel was told this label of, if it is still watched."""
        cdef PyObject* owner
        cdef Py_ssize_t fd = <Py_ssize_t>(label & 0xFFFFFFFF)
        if fd >= self.capacity:
            return NULL
        owner = self.connections[fd]
        if owner == NULL or (<Transport>owner).ticket != label >> 32:
            return NULL
        return owner if (<Transport>owner).is_watched else NULL

    cdef int watch(self, Transport connection) except -1:
        """Read from it whenever there is something."""
        cdef uint64_t label = <uint64_t>connection.ticket << 32 | <uint64_t>connection.fd
        if poll_add(self.set, connection.fd, label) < 0:
            PyErr_SetFromErrno(OSError)
        connection.is_watched = True
        self.watched += 1
        if self.watcher is None:
            self.watcher = connection._hub.loop.io(self.set, 1)
            self.watcher.start(self.read)
        return 0

    cdef int forget(self, Transport connection) except -1:
        poll_remove(self.set, connection.fd)
        connection.is_watched = False
        self.watched -= 1
        if not self.watched:
            self.close_watcher()  # a loop that has nothing else to wait for may end
        return 0

    cdef int close_watcher(self) except -1:
        if self.watcher is not None:
            self.watcher.close()
            self.watcher = None
        return 0

    def read(self):
        """Read from those that have something to be read; in the hub."""
        cdef Transport connection
        cdef PyObject* owner
        cdef int i, count = poll_ready(self.set, self.ready)
        cdef bint is_out_of_date = False
        for i in range(count):
            if i + 1 < count:
                owner = self.owner_of(self.ready[i + 1])
                if owner != NULL:
                    (<Transport>owner).prefetch()
            owner = self.owner_of(self.ready[i])
            if owner == NULL:
                # Either one has ended another just now, or the kernel will say so again.
                is_out_of_date |= self.ready[i] == self.stale
                self.stale = self.ready[i]
                continue
            connection = <Transport>owner
            try:
                connection.on_readable()
            except BaseException:
                self.report(connection)
        if is_out_of_date:
            self.renew()

    cdef void report(self, Transport connection) noexcept:
        """Report the exception that is handled as gevent does; never raises.

        gevent would stop the watcher, and all connections of the hub would be deaf.
        """
        connection._hub.handle_error(connection, *sys.exc_info())

    cdef int renew(self) except -1:
        """Watch all connections anew.

        When somebody else closes a descriptor of which a duplicate lives, the kernel goes on to
        report it, and there is no other way to take it out of the set.
        """
        cdef Py_ssize_t fd
        cdef list watched = []
        for fd in range(self.capacity):
            if self.connections[fd] != NULL and (<Transport>self.connections[fd]).is_watched:
                watched.append(<Transport>self.connections[fd])
                (<Transport>self.connections[fd]).is_watched = False
        self.watched = 0
        self.close_watcher()
        poll_close(self.set)
        self.set = poll_open()
        for connection in watched:
            try:
                (<Transport>connection)._start_reading()
            except OSError:
                (<Transport>connection)._disown()  # its descriptor was closed
        return 0

    def abandon(self):
        """In a child process: the set is the parent's, and so are the connections in it."""
        self.close_watcher()
        poll_close(self.set)
        self.set = -1


cdef object shared_by_hub = WeakKeyDictionary()


def _after_fork():
    for hub, shared in list(shared_by_hub.items()):
        if is_running(hub):
            call_in_child(hub, shared.abandon)
    shared_by_hub.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


cdef class LargeText:
    """Lends the UTF-8 of a string, so that what the kernel did not take need not be copied."""

    cdef object owner
    cdef const uint8_t* data
    cdef Py_ssize_t size

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, <void*>self.data, self.size, 1, flags)


cdef class Counters:
    """What has passed through the connections that share this; see the twin."""

    cdef public uint64_t messages_received
    cdef public uint64_t messages_sent
    cdef public uint64_t bytes_received
    cdef public uint64_t bytes_sent


cdef class Transport:
    """The hot half of :class:`~geventws.connection.Connection`; see the twin in ``transport.py``."""

    cdef public FrameReader _protocol
    cdef readonly Counters _totals
    cdef public object _hub
    cdef public object _sock
    cdef public object _raw
    cdef public object _reader
    cdef public object _queue
    cdef public object _out
    cdef public object _ready
    cdef public object _waiter
    cdef public Py_ssize_t _out_size
    cdef readonly uint64_t _written
    cdef public Py_ssize_t _max_send_buffer
    cdef public bint _attached
    cdef public bint _opened
    cdef public bint _end_told
    cdef public bint _receives
    cdef public bint _is_tls
    cdef public bint _paused
    cdef public bint _resuming
    cdef public bint _heard
    cdef readonly unsigned long _thread
    cdef Shared _shared
    # The descriptor; and again, if it is read and written directly, else -1.
    cdef int descriptor
    cdef int fd
    cdef uint32_t ticket
    cdef bint is_watched

    def __init__(self, Counters totals not None):
        self._totals = totals
        self._hub = get_hub()
        self._thread = PyThread_get_thread_ident()
        self._opened = False
        self._end_told = False
        self._receives = False

    def _attach_transport(self, sock, FrameReader protocol, Py_ssize_t max_send_buffer):
        """Take over a gevent socket and start reading from it."""
        self._protocol = protocol
        self._max_send_buffer = max_send_buffer
        cdef Shared shared = shared_by_hub.get(self._hub)
        if shared is None:
            shared = shared_by_hub[self._hub] = Shared()
        self._shared = shared
        self._sock = sock
        self._is_tls = isinstance(sock, SSLSocket)
        self._raw = sock if self._is_tls else sock._sock
        if self._is_tls:
            sock.settimeout(0)
        else:
            drop_watchers(sock)
        self.descriptor = sock.fileno()
        is_direct = DIRECT_IO and not self._is_tls
        self.fd = descriptor_of(<PyObject*>self._raw) if is_direct else -1
        if self.fd != self.descriptor:
            self.fd = -1
        shared.attach(self)
        self._opened = True
        self._attached = True
        self._start_reading()

    def _start_reading(self):
        if self.fd >= 0 and self._shared.set >= 0:
            self._shared.watch(self)
            return
        if self._reader is None:
            self._reader = self._hub.loop.io(self._sock.fileno(), 1)
        self._reader.start(self._on_readable)

    def _stop_reading(self):
        if self.is_watched:
            self._shared.forget(self)
        elif self._reader is not None:
            self._reader.stop()

    def _detach(self):
        self._attached = False
        if is_running(self._hub):
            self._stop_reading()
            if self._reader is not None:
                self._reader.close()
        self._reader = None
        self._shared.detach(self)

    cdef bint has_socket(self) noexcept:
        """Whether the descriptor is still the socket's: who closes the socket may not tell us."""
        return descriptor_of(<PyObject*>self._raw) == self.fd

    cdef void prefetch(self) noexcept:
        """Have in the cache what the next dispatch needs."""
        fetch_line(<void*>self._protocol)
        fetch_line(<char*><void*>self._protocol + 64)
        fetch_line(<void*>self._raw)
        if self._waiter is not None:
            fetch_line((<PyGreenlet*>self._waiter).pimpl)
            fetch_line(<char*>(<PyGreenlet*>self._waiter).pimpl + 64)
            fetch_line(<char*>(<PyGreenlet*>self._waiter).pimpl + 128)

    @property
    def _send(self):
        return self._raw.send

    # ------------------------------------------------------------------------------- receiving

    def receive(self, timeout=None):
        """Block until the next message and return it: ``str`` for text, ``bytes`` for binary.

        Returns ``None`` once when the connection has ended, by either side or by its loss; what
        arrived before is returned first. Whatever is thrown in meanwhile (``gevent.Timeout``,
        ``kill()``), no message is lost and the WebSocket stays usable.

        :param timeout: in seconds; ``None`` waits for ever.
        :raises TimeoutError: when no message came in time.
        :raises ConnectionClosed: when the end has been returned already.
        :raises gevent.exceptions.ConcurrentObjectUseError: when another greenlet is receiving.
        :raises gevent.exceptions.BlockingSwitchOutError: in a callback of the event loop, which
            must not wait.
        :raises RuntimeError: in another thread than the view's, where it cannot wait.
        """
        cdef object message
        if timeout is not None:
            return self._receive_within(timeout)
        message = self.message_at_hand()
        return self.wait() if message is None else message

    cdef object message_at_hand(self):
        """What need not be waited for."""
        cdef FrameReader protocol
        cdef Shared shared
        cdef object message
        if PyThread_get_thread_ident() != self._thread:
            raise RuntimeError(NOT_HERE)
        if not self._opened:
            self._open()
        protocol = self._protocol
        shared = self._shared
        if shared.dispatched is self:
            if protocol.at < protocol.end:
                if now_us() < shared.deadline:
                    message = protocol.parse()
                    if protocol.has_news:
                        self._after_input()
                    if message is not None:
                        self._totals.messages_received += 1
                        return message
                else:
                    self._resume_later()
        elif self._queue or protocol.at < protocol.end:
            return self._receive_at_hand()
        return None

    cdef object wait(self):
        """Wait in the hub until a dispatch brings a message, or the end.

        The stack from here up is saved for each greenlet that waits: a ``finally`` adds 100 bytes.
        """
        cdef PyObject* switched
        cdef object message
        if self._protocol.state is not OPEN:
            self._tell_end()
            return None
        if self._waiter is not None:
            raise ConcurrentObjectUseError("another greenlet is receiving from this WebSocket")
        self._waiter = current_greenlet()
        if self._waiter is self._hub:
            self._waiter = None
            raise BlockingSwitchOutError("receive() must not wait in a callback of the event loop")
        self._receives = True
        while True:
            switched = try_switch(<PyGreenlet*>self._hub, NULL, NULL)
            if switched == NULL:
                self._waiter = None
                reraise()
            Py_DECREF(<object>switched)
            message = self._ready
            if message is not None:
                self._ready = self._waiter = None
                return message
            if self._protocol.state is not OPEN:
                self._waiter = None
                self._tell_end()
                return None

    def __iter__(self):
        """The messages until the connection ends."""
        return Messages(self)

    def __next__(self):
        return next(Messages(self))

    # --------------------------------------------------------------------------------- sending

    def send(self, data, binary=None, bint compress=True):
        """Send one message: ``str`` as text, bytes-like as binary.

        Returns when the message is in the kernel, or in a buffer that holds less than
        ``max_send_buffer`` bytes. While the buffer holds more, blocks as long as the peer reads;
        when the peer has not read anything for ``send_timeout`` seconds, the connection is dropped
        (1011). Messages are never torn or mixed, whichever greenlets send them. Bytes are copied: a
        buffer may be used again at once. In another thread than the view's it does the same, and
        blocks that thread until the hub of the view's has sent the message.

        :param binary: overrides the type: ``True`` sends a ``str`` in UTF-8 as binary, ``False``
            sends bytes, which must be UTF-8, as text.
        :param compress: ``False`` for what is compressed already, such as an image. It matters
            only where permessage-deflate was agreed on.
        :raises ConnectionClosed: when the connection has ended, whatever ``data`` is: the ``None``
            of :meth:`receive` may be sent back. A loss that nobody knows of yet shows only at a
            later call.
        :raises TypeError: for what is neither ``str`` nor bytes-like.
        :raises ValueError: for bytes that are sent as text and are not UTF-8, and for a ``str``
            with a lone surrogate, which UTF-8 cannot encode. Nothing is sent then.
        :raises TimeoutError: in another thread, when something blocks the view's for 30 seconds.
        """
        cdef const uint8_t* payload
        cdef Py_ssize_t size
        cdef int opcode
        cdef FrameReader protocol
        cdef object compressed
        if PyThread_get_thread_ident() != self._thread:
            call_in_hub(self._hub, self.send, data, binary, compress)
            return
        if not self._opened:
            self._open()
        protocol = self._protocol
        if protocol.state is not OPEN:
            raise self._closed_error()
        if binary is None and type(data) is str:
            opcode = TEXT
            payload = <const uint8_t*>PyUnicode_AsUTF8AndSize(data, &size)
            if payload == NULL:
                PyErr_Clear()
                encode_text(data)  # says what is wrong
                raise MemoryError
        else:
            if binary is None and type(data) is bytes:
                opcode = BINARY
            else:
                opcode, data = _message(data, binary)
            payload = <const uint8_t*>PyBytes_AS_STRING(data)
            size = PyBytes_GET_SIZE(data)
        if self._out_size >= self._max_send_buffer:
            self._wait_for_room()
        self._totals.messages_sent += 1
        if protocol.deflate is not None and compress:
            compressed = protocol.compress(data, size)
            if compressed is not None:
                opcode |= RSV1
                data = compressed
                payload = <const uint8_t*>PyBytes_AS_STRING(data)
                size = PyBytes_GET_SIZE(data)
        if protocol.is_client:
            self._transmit(protocol.encode(opcode, data.encode() if type(data) is str else data))
        else:
            self.transmit_payload(FIN | opcode, payload, size, data)
        if self._out_size >= self._max_send_buffer:
            self._wait_for_room()
        if protocol.state is CLOSED:
            raise self._closed_error()

    cdef int transmit_payload(
        self, int first, const uint8_t* payload, Py_ssize_t size, object data
    ) except -1:
        """Write an unmasked frame now, or gather it with the others of this dispatch."""
        cdef Shared shared = self._shared
        cdef FrameReader protocol = self._protocol
        cdef uint8_t small[ON_STACK]
        cdef uint8_t* out
        cdef iovec parts[2]
        cdef int head
        if shared.dispatched is self and (shared.cork_size or protocol.at < protocol.end):
            if size < LARGE_PAYLOAD:
                out = shared.cork + shared.cork_size
                head = put_head(out, first, size)
                memcpy(out + head, payload, size)
                shared.cork_size += head + size
                if protocol.at >= protocol.end or shared.cork_size >= MAX_CORK:
                    self.flush_cork()
                return 0
            if shared.cork_size:
                self.flush_cork()
        head = put_head(small, first, size)
        if size <= ON_STACK - MAX_HEAD:
            memcpy(small + head, payload, size)
            return self.write(small, head + size)
        parts[0].iov_base = small
        parts[0].iov_len = head
        parts[1].iov_base = <void*>payload
        parts[1].iov_len = size
        return self.write_parts(parts, data)

    cdef int write_parts(self, iovec* parts, object data) except -1:
        """Write a head and a payload that lies in ``data``, which is a str or bytes."""
        cdef Py_ssize_t head = parts[0].iov_len, size = parts[1].iov_len, sent = 0
        cdef const uint8_t* payload = <const uint8_t*>parts[1].iov_base
        cdef const char* first = <const char*>parts[0].iov_base
        cdef LargeText text
        if not self._attached:
            return 0
        self._totals.bytes_sent += head + size
        self._written += head + size
        if not self._out and self.fd >= 0:
            sent = direct_send(self.fd, parts, 2) if self.has_socket() else -1
            if sent < 0:
                if not (self.has_socket() and would_block()):
                    self._lost()
                    return 0
                sent = 0
            if sent == head + size:
                return 0
        elif not self._out:
            self._write(first[:head] + (<char*>payload)[:size])
            return 0
        if sent < head:
            self._queue_output(first[sent:head])
            sent = head
        if size < LARGE_PAYLOAD:
            self._queue_output((<char*>payload)[sent - head:size])
            return 0
        text = LargeText.__new__(LargeText)
        text.owner = data
        text.data = payload + sent - head
        text.size = size - (sent - head)
        self._queue_output(memoryview(text))
        return 0

    def _transmit(self, bytes frame):
        """Write a frame now, or gather it with the others of this dispatch."""
        cdef Shared shared = self._shared
        cdef Py_ssize_t size = PyBytes_GET_SIZE(frame)
        if (
            shared.dispatched is self and self._protocol.at < self._protocol.end
            and size < LARGE_PAYLOAD
        ):
            memcpy(shared.cork + shared.cork_size, PyBytes_AS_STRING(frame), size)
            shared.cork_size += size
            if shared.cork_size >= MAX_CORK:
                self.flush_cork()
        else:
            self._transmit_now(frame)

    def _transmit_now(self, bytes frames):
        """Write frames without delay, behind what is corked."""
        if self._shared.dispatched is self and self._shared.cork_size:
            self.flush_cork()
        self.write(<const uint8_t*>PyBytes_AS_STRING(frames), PyBytes_GET_SIZE(frames))

    cdef int flush_cork(self) except -1:
        cdef Shared shared = self._shared
        cdef Py_ssize_t size = shared.cork_size
        shared.cork_size = 0
        return self.write(shared.cork, size)

    cdef int write(self, const uint8_t* data, Py_ssize_t size) except -1:
        """Write behind what is waiting; what the kernel does not take waits.

        The loss of the connection does not raise: it shows in the protocol's state.
        """
        cdef Py_ssize_t sent
        if not self._attached:
            return 0
        self._totals.bytes_sent += size
        self._written += size
        if self._out:
            self._queue_output((<char*>data)[:size])
            return 0
        if self.fd < 0:
            self._write((<char*>data)[:size])
            return 0
        sent = self.send_now(data, size)
        if sent < size:
            self._queue_output((<char*>data)[sent:size])
        return 0

    cdef int write_shared(self, bytes frame) except -1:
        """The same for a frame that many connections have in common: what waits is not copied."""
        cdef Py_ssize_t sent, size = PyBytes_GET_SIZE(frame)
        if not self._attached:
            return 0
        self._totals.bytes_sent += size
        self._written += size
        if self._out:
            self._queue_output(frame)
            return 0
        if self.fd < 0:
            self._write(frame)
            return 0
        sent = self.send_now(<const uint8_t*>PyBytes_AS_STRING(frame), size)
        if sent < size:
            self._queue_output(memoryview(frame)[sent:] if sent else frame)
        return 0

    cdef Py_ssize_t send_now(self, const uint8_t* data, Py_ssize_t size) except -1:
        """How much the kernel has taken; all of it, too, when nobody is left to take it."""
        cdef iovec part
        cdef Py_ssize_t sent
        part.iov_base = <void*>data
        part.iov_len = size
        if self.has_socket():
            sent = direct_send(self.fd, &part, 1)
            if sent >= 0:
                return sent
            if would_block():
                return 0
        self._lost()
        return size

    def _write(self, bytes data):
        """Write to a Python socket, when nothing is waiting: TLS, or a system without send(2)."""
        if self._is_tls and len(data) > MAX_RECORD:
            self._queue_output(data)
            self._on_writable()
            return
        try:
            sent = self._raw.send(data)
        except WOULD_BLOCK:
            sent = 0
        except OSError:
            self._lost()
            return
        if sent < len(data):
            self._queue_output(memoryview(data)[sent:] if sent else data)

    # ------------------------------------------------------------------------------ in the hub

    def _on_readable(self):
        self.on_readable()

    cdef int on_readable(self) except -1:
        cdef bint failed = True
        try:
            self.read()
            failed = False
        finally:
            if failed:
                self._abort()
        return 0

    cdef int read(self) except -1:
        """Read once, and dispatch what has come."""
        cdef Shared shared = self._shared
        cdef FrameReader protocol = self._protocol
        cdef uint8_t* buffer = shared.buffer
        cdef Py_ssize_t size, room
        if self._resuming:
            return 0  # older input goes first; it is next in the loop
        if self.fd >= 0 and not self.has_socket():
            self._lost()
            return 0
        if self.fd >= 0 and protocol.left >= BUFFER_SIZE and protocol.at == protocol.end:
            # Straight to where it belongs, to be unmasked in place.
            room = min(protocol.left, LARGE_READ, max(protocol.used, BUFFER_SIZE))
            protocol.make_room(room, protocol.used)
            buffer = protocol.data + protocol.used
            size = direct_recv(self.fd, buffer, room)
            if size < 0 and would_block():
                return 0
        elif self.fd >= 0:
            size = direct_recv(self.fd, buffer, BUFFER_SIZE)
            if size < 0 and would_block():
                return 0
        else:
            size = self.read_from_python()
            if size == -2:
                return 0
        if size == 0:
            self._receive_eof()
            return 0
        if size < 0:
            self._lost()
            return 0
        self._heard = True
        self._totals.bytes_received += size
        protocol.borrow_at(buffer, size)
        self.dispatch()
        if self._is_tls:
            self._resume_pending()
        return 0

    cdef Py_ssize_t read_from_python(self) except -3:
        """Fill the buffer from a Python socket: -1 for an error, -2 for nothing yet."""
        cdef Py_ssize_t size = 0, more
        view = PyMemoryView_FromMemory(<char*>self._shared.buffer, BUFFER_SIZE, PyBUF_WRITE)
        try:
            size = self._raw.recv_into(view)
            # A TLS record has 16 KiB at most.
            while self._is_tls and 0 < size < BUFFER_SIZE:
                more = self._raw.recv_into(view[size:])
                if not more:
                    break
                size += more
        except WOULD_BLOCK:
            return size or -2
        except OSError:
            return size or -1  # what was read goes first; the next read reports it again
        return size

    def _dispatch(self):
        """Hand the input to the greenlet that waits for it, else to the queue."""
        self.dispatch()

    cdef int dispatch(self) except -1:
        cdef FrameReader protocol = self._protocol
        cdef Shared shared = self._shared
        cdef object message, waiter = self._waiter
        if waiter is not None:
            message = protocol.parse()
            if protocol.has_news:
                self._after_input()  # a Pong goes before what the view answers
            if message is not None:
                self._totals.messages_received += 1
                self._ready = message
                message = None
                shared.deadline = now_us() + SLICE_US
                shared.dispatched = self
                try:
                    PyGreenlet_Switch(<PyGreenlet*>waiter, NULL, NULL)
                finally:
                    shared.dispatched = None
                    if shared.cork_size:
                        self.flush_cork()
                    if self._ready is not None:
                        # The greenlet was dead.
                        self._enqueue(self._ready)
                        self._ready = None
        if self._waiter is None and protocol.at < protocol.end:
            self._fill_queue()
        protocol.keep_rest()
        if protocol.has_news:
            self._after_input()
        return 0


cdef class Messages:
    """Iterates over a connection.

    The connection's own ``__next__`` would be looked up for each message, because that is what
    CPython does for classes that are written in Python.
    """

    cdef Transport connection

    def __init__(self, Transport connection):
        self.connection = connection

    def __iter__(self):
        return self

    def __next__(self):
        cdef Transport connection = self.connection
        cdef object message
        if not connection._end_told:
            message = connection.message_at_hand()
            if message is None:
                message = connection.wait()
            if message is not None:
                return message
        raise StopIteration


def fan_out(connections, data):
    """Send one message to many connections; returns those that it was not sent to.

    These have ended, or their send buffer is full. A frame is made once, and compressed once, for
    all that can have the same. No greenlet switch happens on the way: nobody waits for a slow peer.
    """
    cdef Transport connection
    cdef FrameReader protocol
    cdef bytes payload
    cdef object deflate = None, frame = None
    cdef dict frames = {}
    cdef list left_out = []
    opcode, payload = _message(data, None)
    for connection in connections:
        protocol = connection._protocol
        if protocol.state is not OPEN or connection._out_size >= connection._max_send_buffer:
            left_out.append(connection)
            continue
        connection._totals.messages_sent += 1
        if frame is None or protocol.deflate is not deflate or protocol.is_client:
            deflate = protocol.deflate
            if protocol.is_client or (deflate is not None and not deflate.is_shared):
                # It has a mask or a context of its own.
                connection._transmit(protocol.encode_message(opcode, payload))
                frame = None
                continue
            frame = frames.get(deflate)
            if frame is None:
                frame = frames[deflate] = protocol.encode_message(opcode, payload)
        if connection._shared.dispatched is connection:
            connection._transmit(frame)  # behind what it has corked
        else:
            connection.write_shared(frame)
    return left_out


cdef int reraise() except -1:
    """Go on with the exception that a call of C has left."""
    return -1


cdef object current_greenlet():
    """The running greenlet; the C API's reference is a new one."""
    cdef PyObject* current = <PyObject*>PyGreenlet_GetCurrent()
    greenlet = <object>current
    Py_DECREF(greenlet)
    return greenlet
