# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=True
"""The compiled twin of ``reader_py.py``, which is the reference and explains the algorithm.

Differences from the reference:

- Input is a pair of C pointers. A payload is unmasked straight into its final object.
- An error of the peer does not raise an exception inside the parser: try blocks cost time for every
  message. The methods return after they have called ``_fail()``.
- The Close frame that most clients send is received here, see ``take_usual_close()``.
"""
import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport UINT32_MAX, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from geventws.protocol._frames cimport (
    apply_mask_to,
    apply_mask_to_ascii,
    get_number,
    put_head,
    turn_mask,
    utf8_state,
    utf8_take,
)

from geventws.exceptions import InvalidPayload, MessageTooBig, ProtocolError
from geventws.protocol.reader_py import MAX_STEPS, NO_LIMIT as MOST, compression_overhead
from geventws.protocol.state import State


cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t, Py_UCS4)
    void* PyUnicode_DATA(object)
    int PyUnicode_Resize(PyObject**, Py_ssize_t) except -1
    object decode_utf8 "PyUnicode_DecodeUTF8"(const char*, Py_ssize_t, const char*)
    int _PyBytes_Resize(PyObject**, Py_ssize_t) except -1


cdef object PENDING = State.PENDING
cdef object OPEN = State.OPEN
cdef object CLOSING = State.CLOSING
cdef object DRAINING = State.DRAINING
#: The payloads of Close frames with these codes.
cdef bytes NORMAL_CLOSURE = b"\x03\xe8"
cdef bytes GOING_AWAY = b"\x03\xe9"
cdef int MOST_STEPS = MAX_STEPS
cdef Py_ssize_t NO_LIMIT = MOST
cdef uint8_t UNUSED_BYTE[1]

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
    FIRST_CAPACITY = 4 << 10


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
    """The input of one side of a connection; see the twin in ``reader_py.py``."""

    def __init__(self, bint client=False):
        self.is_client = client
        self.state = PENDING
        self.close_reason = ""
        self.max_message_size = NO_LIMIT

    def _configure(self, max_message_size, extension):
        """Set the parameters that the opening handshake has agreed on."""
        self.max_message_size = (
            NO_LIMIT if max_message_size is None else min(max_message_size, NO_LIMIT)
        )
        self.extension = extension
        if extension is not None:
            self.min_compressed = extension.min_size

    def __dealloc__(self):
        self.drop_message()

    cdef void drop_message(self) noexcept:
        if self.message != NULL:
            Py_DECREF(<object>self.message)
            self.message = NULL
        self.used = self.capacity = 0

    def _discard_input(self):
        """Discard all input. From DRAINING on, no more is accepted."""
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
        """Parse the first ``size`` bytes of a buffer in place, after the kept input."""
        self.borrow_at(<uint8_t*><char*>buffer, size)
        if self.borrowed:
            self.owner = buffer

    def keep(self):
        """Copy the rest of a borrowed buffer, so that the caller may reuse the buffer."""
        self.keep_rest()

    cdef int add(self, const uint8_t* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t rest = self.end - self.at
        cdef bytes joined
        cdef uint8_t* out
        if self.state is not OPEN and self.state is not CLOSING:
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
        if self.state is OPEN or self.state is CLOSING:
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
        """A number that identifies the incomplete message or frame; 0 if there is none."""
        if self.opcode:
            return self.message_number
        if self.at == self.end:
            return 0
        if not self.rests_at_start():
            self.add(NULL, 0)
        return self.rest_number

    cdef bint rests_at_start(self) noexcept:
        """Whether the kept input was kept before, and none of it has been parsed."""
        return (
            not self.borrowed and self.owner is not None
            and self.at == <uint8_t*>PyBytes_AS_STRING(self.owner)
        )

    def next_message(self):
        """Parse the input up to the end of the next message and return it.

        ``None`` means that no message is complete, that the connection is not open any more
        (messages before the peer's Close frame are skipped), or that :attr:`interrupted` is set.

        After an exception, such as MemoryError, the state is DRAINING and the input is discarded:
        the next byte may be anywhere inside a frame.
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
                self._abort()
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
                # The header is incomplete, but its first bytes may be invalid already.
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
                if self.at == at or self.state is DRAINING or self.interrupted:
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
        """Set :attr:`interrupted` if input is left."""
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
            first & RSV == RSV1 and self.extension is not None and opcode in (TEXT, BINARY)
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
        """Parse a frame outside of the fast path: control, fragment, or incomplete data.

        Does not change ``at`` when more bytes are needed first.
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
                if opcode == CLOSE and self.take_usual_close(control):
                    return None
                try:
                    self._receive_control(opcode, control)
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

    cdef bint take_usual_close(self, bytes payload) except -1:
        """Receive the Close frame of most clients, as ``_receive_control()`` does: 1000 or 1001.

        Returns false, and does nothing, if it is not the only control frame that is due.
        """
        if (
            (payload != NORMAL_CLOSURE and payload != GOING_AWAY) or self.state is not OPEN
            or self._pings is not None or self._output is not None
        ):
            return False
        self.close_received = self.closed_by_peer = True
        self.close_code = 1000 if payload == NORMAL_CLOSURE else 1001
        self._output = [self.encode(CLOSE, payload)]
        self.state = DRAINING
        self.discard_input()
        self.has_news = True
        return True

    cdef int make_room(self, Py_ssize_t size, Py_ssize_t arrived) except -1:
        """Reserve room for ``size`` more bytes.

        Reserves up to eight times the size that has arrived, or the size of the latest message. The
        size in the frame's header is only an upper bound.
        """
        cdef Py_ssize_t capacity = self.used + size
        if capacity <= self.capacity:
            return 0
        capacity = max(
            capacity,
            min(max(8 * arrived, FIRST_CAPACITY, <Py_ssize_t>self.latest), self.used + self.left),
        )
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
            # _PyBytes_Resize() has freed the object.
            self.drop_message()
            raise
        return 0

    cdef int become_bytes(self) except -1:
        """Continue a text that is not ASCII."""
        cdef PyObject* message = new_message(False, self.capacity)
        cdef uint8_t* data = data_of(message, False)
        memcpy(data, self.data, self.used)
        Py_DECREF(<object>self.message)
        self.message = message
        self.data = data
        self.is_str = False
        return 0

    cdef object continue_frame(self):
        """Add the available part of the current frame's payload to the message."""
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
        """Return the complete message, and get ready for the next one."""
        cdef bint is_text = self.opcode == TEXT
        cdef object message
        if self.state is not OPEN:
            # After our Close frame, messages are discarded and need not be decompressed.
            self.opcode = 0
            self.drop_message()
            return None
        if self.compressed:
            message = (<char*>self.data)[:self.used]
            self.drop_message()
            return self.inflate(message)
        self.opcode = 0
        self.latest = <uint32_t>min(self.used, UINT32_MAX)
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
        """Decompress the first piece of a message."""
        cdef object begun
        try:
            begun = self.extension.inflate(payload, self.max_message_size)
        except ProtocolError as problem:
            self._fail(problem)
            return None
        if type(begun) is bytes:
            return self.take_inflated(begun)
        self.inflation = begun
        self.wait_for_inflation()
        return None

    cdef object continue_inflating(self):
        """Decompress the next piece of a message, while the connection is open."""
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
        """Ask for another call: the frame lacks one byte, which is not used."""
        self.left = 1
        if self.at < self.end:
            self.at -= 1
        else:
            self.owner = None
            self.borrowed = False
            self.at = UNUSED_BYTE
            self.end = UNUSED_BYTE + 1
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
        """Encode a message as one frame, compressed if that was agreed and makes it shorter."""
        compressed = self.compress(payload, len(payload)) if compress else None
        if compressed is None:
            return self.encode(opcode, payload)
        return self.encode(RSV1 | opcode, compressed)

    cdef object compress(self, payload, Py_ssize_t size):
        """The compressed payload, bytes-like or ``str``; None if it should not be compressed."""
        if self.extension is None or size < self.min_compressed:
            return None
        return self.extension.compress(payload.encode() if type(payload) is str else payload)

    def encode(self, int opcode, payload, bint fin=True):
        """Encode a frame. A client masks it with four new random bytes (section 5.3)."""
        return encode_frame(opcode, payload, os.urandom(4) if self.is_client else None, fin)


cdef PyObject* new_message(bint is_str, Py_ssize_t capacity) except NULL:
    """A new str or bytes object with one reference, so that it can be resized."""
    message = PyUnicode_New(capacity, 127) if is_str else PyBytes_FromStringAndSize(NULL, capacity)
    Py_INCREF(message)
    return <PyObject*>message


cdef uint8_t* data_of(PyObject* message, bint is_str) noexcept:
    if is_str:
        return <uint8_t*>PyUnicode_DATA(<object>message)
    return <uint8_t*>PyBytes_AS_STRING(<object>message)
