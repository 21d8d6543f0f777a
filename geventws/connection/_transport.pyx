# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=True
"""The compiled twin of ``transport_py.py``, which is the reference and explains the algorithm.

Differences from the reference:

- Plain sockets are read and written by ``recv(2)`` and ``send(2)`` on the descriptor, without the
  layers of Python's sockets. These calls never block, so the GIL is not released. TLS goes through
  Python.
- Frames are built in the cork's buffer or on the C stack. No greenlet switch may happen while
  another object points into the C stack: the stack of a suspended greenlet is copied away.
- ``greenlet``'s C API switches without a Python call.
- The slice of time of a dispatch is checked after its first message, and then for every fourth one.

Parts without a twin in Python, each with its own tests:

- the epoll set, in ``_epoll.pyx``;
- a greenlet that waits again reads from the next connection of that set itself, and switches to the
  greenlet that waits for it, see ``next_view()``;
- large reads: the rest of a large message is read straight into the message, see ``read()``;
- vectored writes: a large payload is written from where it is, see ``write_parts()``;
- the answer to a Close frame and the end of TCP in one packet, see ``ends_as_usual()``.
"""
from errno import EBADF

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_DECREF, PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from geventws.connection._epoll cimport (
    CALLBACK, VIEW, Recipient, Watched, WatchSet, admit_to_collection, exempt_from_collection,
)
from geventws.protocol._frames cimport MAX_HEAD, put_head
from geventws.protocol._reader cimport FrameReader

import sys
from collections import deque
from functools import partial

from gevent import get_hub
from gevent.exceptions import BlockingSwitchOutError, ConcurrentObjectUseError
from gevent.socket import socket as gevent_socket
from gevent.ssl import SSLSocket

from geventws.connection.greenlets import LightGreenlet
from geventws.connection.lifecycle import End
from geventws.connection.tcp import MAX_RECORD
from geventws.connection.threads import call_in_hub
from geventws.connection.transport_py import (
    NOT_HERE,
    WOULD_BLOCK,
    _message,
    close_watchers,
    receive_within,
)
from geventws.protocol.frames import encode_text
from geventws.protocol.state import State


cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object, Py_ssize_t*) noexcept
    void PyErr_Clear()
    Py_ssize_t Py_REFCNT(PyObject*)
    object PyMemoryView_FromMemory(char*, Py_ssize_t, int)
    int PyBUF_WRITE
    unsigned long PyThread_get_thread_ident()


cdef extern from "greenlet/greenlet.h":
    ctypedef struct PyGreenlet:
        void* pimpl
    void PyGreenlet_Import()
    PyGreenlet* PyGreenlet_GetCurrent() except NULL
    object PyGreenlet_Switch(PyGreenlet*, PyObject*, PyObject*)
    PyObject* try_switch "PyGreenlet_Switch"(PyGreenlet*, PyObject*, PyObject*)


cdef extern from "system.h" nogil:
    bint DIRECT_IO
    struct iovec:
        void* iov_base
        size_t iov_len
    Py_ssize_t direct_recv(int, uint8_t*, size_t)
    Py_ssize_t direct_send(int, iovec*, int, bint)
    bint would_block()
    uint64_t now_us()
    int descriptor_of(PyObject*)
    void fetch_line(void*)
    void* weak_references(PyObject*)
    bint has_context()


PyGreenlet_Import()

cdef object PENDING = State.PENDING
cdef object OPEN = State.OPEN
cdef object DRAINING = State.DRAINING
cdef object CLOSED = State.CLOSED
cdef object END_BY_CLOSE = End.COMPLETE
cdef object END_BY_EOF = End.EOF
cdef object END_BY_ERROR = End.ERROR
cdef object END_BY_FAULT = End.FAULT
cdef object END_BY_DESCRIPTOR = End.DESCRIPTOR

cdef enum:
    TEXT = 1
    BINARY = 2
    FIN = 0x80
    RSV1 = 0x40
    # The sizes of the reference twin.
    BUFFER_SIZE = 64 << 10
    MAX_CORK = 64 << 10
    SLICE_US = 1000
    # To read the clock takes 4 % of the time of a small message.
    MAX_UNTIMED = 3
    # While a large message arrives, more is read at once: no other message is ready.
    LARGE_READ = 256 << 10
    # From this size on, a payload is not copied behind its header, but written from where it is.
    LARGE_PAYLOAD = 16 << 10
    ON_STACK = 4 << 10


cdef class HubBuffers:
    """Input buffer, cork, dispatch and epoll set of a hub; see the twin."""

    cdef object __weakref__
    cdef uint8_t* buffer
    cdef uint8_t* cork
    cdef Py_ssize_t cork_size
    cdef readonly Transport dispatched
    # The greenlet that the dispatch is for, until it runs. Its connection has the reference.
    cdef PyGreenlet* view
    cdef uint64_t deadline
    # How many messages may be parsed before the clock is read again.
    cdef int untimed
    cdef readonly WatchSet watches
    cdef public object leader
    cdef public Workers pool

    def __cinit__(self):
        self.watches = WatchSet()
        self.buffer = <uint8_t*>PyMem_Malloc(BUFFER_SIZE)
        self.cork = <uint8_t*>PyMem_Malloc(MAX_CORK + LARGE_PAYLOAD + MAX_HEAD)
        if self.buffer == NULL or self.cork == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.buffer)
        PyMem_Free(self.cork)

    cdef void begin_dispatch(self, Transport connection) noexcept:
        self.deadline = now_us() + SLICE_US
        self.untimed = 0
        self.dispatched = connection

    cdef bint has_time(self) noexcept:
        """Whether the dispatch may go on, for one message."""
        if self.untimed:
            self.untimed -= 1
        elif now_us() < self.deadline:
            self.untimed = MAX_UNTIMED
        else:
            return False
        return True

    cdef int lead(self) except -1:
        """Read from the next connections in the place of the hub, as long as nothing blocks."""
        cdef object leader = self.leader
        while leader is not None and self.leader is leader and self.watches.has_next(CALLBACK):
            self.watches.read_next()
        return 0

    cdef PyGreenlet* next_view(self) noexcept:
        """End the dispatch, and read from the next connections in the place of the hub.

        Returns the greenlet that the next dispatch is for, NULL if the hub must go on. A message
        then costs one switch instead of two.
        """
        cdef PyGreenlet* view
        try:
            self.end_dispatch(False)
        except BaseException:
            self.pool._hub.handle_error(self, *sys.exc_info())
        while self.view == NULL and self.watches.has_next(VIEW):
            self.watches.read_next()
        view = self.view
        self.view = NULL
        return view

    cdef int run_view(self) except -1:
        """Switch to the greenlet that the dispatch is for, if there is a new one; in the hub."""
        cdef bint failed = True
        if self.view == NULL:
            return 0
        view = <object><PyObject*>self.view
        self.view = NULL
        try:
            PyGreenlet_Switch(<PyGreenlet*>view, NULL, NULL)
            failed = False
        finally:
            # Perhaps another dispatch: that greenlet has gone on to the next connections.
            if self.dispatched is not None:
                self.end_dispatch(failed)
        return 0

    cdef int end_dispatch(self, bint failed) except -1:
        """The greenlet of the dispatch waits again, or for something else; or it has failed."""
        cdef Transport connection = self.dispatched
        try:
            if failed:
                connection.close_dispatch()
            else:
                failed = True
                connection.end_dispatch(True)
                failed = False
        finally:
            if failed:
                connection._transport_ended(END_BY_FAULT)
        return 0

    def abandon(self):
        """Forget the connections, in a child process: they belong to the parent."""
        self.watches.abandon()


cdef class Workers:
    """The greenlets of a hub that call callbacks; see the twin."""

    cdef readonly object _hub
    cdef HubBuffers buffers
    cdef Transport job
    cdef readonly list _idle
    cdef Py_ssize_t references
    cdef readonly set _leaving
    cdef readonly Py_ssize_t running
    cdef readonly object waiting
    cdef public bint ends_idle
    cdef public Py_ssize_t _unused

    def __init__(self, hub, HubBuffers buffers not None):
        self._hub = hub
        self.buffers = buffers
        self._idle = []
        self._leaving = set()
        self.waiting = deque()

    def run(self, Transport connection):
        """Call the callbacks of a connection for what is at hand; in the hub.

        Returns false if too many callbacks are running: then the connection waits.
        """
        return self.switch_to_worker(connection)

    cdef bint switch_to_worker(self, Transport connection) except -1:
        cdef HubBuffers buffers = self.buffers
        if self.running >= <Py_ssize_t>connection._options.max_callbacks:
            self._let_wait(connection)
            return False
        worker = self.take()
        self.job = connection
        self.running += 1
        buffers.leader = worker
        try:
            PyGreenlet_Switch(<PyGreenlet*>worker, NULL, NULL)
        finally:
            buffers.leader = None
            if buffers.dispatched is not None:
                buffers.end_dispatch(False)
        return True

    cdef object take(self):
        """A greenlet that nothing else refers to."""
        cdef list idle = self._idle
        while idle:
            worker = idle.pop()
            if len(idle) < self._unused:
                self._unused = len(idle)
            if (
                Py_REFCNT(<PyObject*>worker) == self.references
                and weak_references(<PyObject*>worker) == NULL
            ):
                return worker
            PyGreenlet_Switch(<PyGreenlet*>worker, NULL, NULL)  # without a job: it ends
        worker = LightGreenlet(self._work)
        PyGreenlet_Switch(<PyGreenlet*>worker, NULL, NULL)
        self.references = Py_REFCNT(<PyObject*>worker)
        return worker

    def _work(self):
        """Call callbacks, in a greenlet of the pool."""
        cdef PyObject* switched
        cdef Transport connection
        while True:
            switched = try_switch(<PyGreenlet*>self._hub, NULL, NULL)
            if switched == NULL:
                PyErr_Clear()  # an exception of an earlier callback, such as a Timeout
                self.job = None
            else:
                Py_DECREF(<object>switched)
            if self.job is None:
                self._forget(current_greenlet())
                return
            try:
                connection, self.job = self.job, None
                connection.deliver()
                connection = None  # its memory may be released meanwhile
                self.buffers.lead()
            except BaseException:
                self._hub.handle_error(self, *sys.exc_info())
            self.running -= 1
            is_leaving = bool(self._leaving) and current_greenlet() in self._leaving
            if not is_leaving:
                self._idle.append(current_greenlet())
            if self.waiting or not self.ends_idle:
                self._note_idle()
            if is_leaving:
                self._leaving.remove(current_greenlet())
                return

    def leave(self, worker):
        """Let a greenlet end after its callback: it was killed."""
        self._leaving.add(worker)

    def _forget(self, worker):
        """A greenlet ends, perhaps because other code has switched to it."""
        if worker in self._idle:
            self._idle.remove(worker)


cdef class LargeText:
    """The UTF-8 of a string as a buffer, so that unsent output need not be copied."""

    cdef object owner
    cdef const uint8_t* data
    cdef Py_ssize_t size

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, <void*>self.data, self.size, 1, flags)


cdef class Counters:
    """Messages and bytes of the connections that share this object; see the twin."""

    cdef public uint64_t messages_received
    cdef public uint64_t messages_sent
    cdef public uint64_t bytes_received
    cdef public uint64_t bytes_sent


cdef class Transport(Watched):
    """Messages in and out; see the twin in ``transport_py.py``."""

    # The connection.
    cdef public FrameReader _endpoint
    cdef readonly Counters _totals
    cdef public uint64_t _messages_received
    cdef readonly uint64_t _messages_sent
    cdef readonly object _sock
    cdef readonly object _raw
    cdef object reader
    cdef readonly unsigned long _thread
    cdef readonly bint _is_tls
    cdef HubBuffers buffers
    # Input.
    cdef public object _received
    cdef object ready
    cdef public object _waiter
    cdef public object _on_message
    cdef public object _worker
    cdef public bint _busy
    cdef public bint _receives
    cdef public bint _end_reported
    cdef public bint _resuming
    cdef public bint _heard
    # Output.
    cdef public object _output
    cdef readonly uint64_t _written

    def __init__(
        self, FrameReader endpoint not None, HubBuffers buffers not None, Counters counters not None
    ):
        self._endpoint = endpoint
        self.buffers = buffers
        self._totals = counters
        self._hub = get_hub()
        self._thread = PyThread_get_thread_ident()
        self.descriptor = self.fd = -1

    def _attach(self, sock):
        """Take over a socket, of gevent or of the operating system, and start to read from it."""
        cdef int descriptor = sock.fileno()
        if descriptor < 0:
            raise OSError(EBADF, "the socket is closed")
        self._sock = sock
        self._is_tls = isinstance(sock, SSLSocket)
        is_gevents = isinstance(sock, gevent_socket) and not self._is_tls
        self._raw = sock._sock if is_gevents else sock
        if self._is_tls:
            sock.settimeout(0)
        elif self._raw is not sock:
            close_watchers(sock)
        self.descriptor = descriptor
        is_direct = DIRECT_IO and not self._is_tls
        self.fd = descriptor_of(<PyObject*>self._raw) if is_direct else -1
        if self.fd != descriptor:
            self.fd = -1
        self.buffers.watches.attach(self)
        exempt_from_collection(self._endpoint)
        self._start_reading()

    def _replace_socket(self, sock):
        """Use another object for the descriptor: a socket of the operating system."""
        self._sock = self._raw = sock

    def _start_reading(self):
        if self.fd >= 0 and self.buffers.watches.is_usable():
            self.buffers.watches.watch(self)
            return
        if self._sock.fileno() != self.descriptor:
            raise OSError(EBADF, "other code has closed the socket")  # libev would abort
        if self.reader is None:
            self.reader = self._hub.loop.io(self.descriptor, 1)
        self.reader.start(self._on_readable)

    def _stop_reading(self):
        """Stop reading. Later input stays in the kernel."""
        if self.is_watched:
            self.buffers.watches.forget(self)
        elif self.reader is not None:
            self.reader.stop()

    def _detach(self):
        """Stop using the descriptor."""
        if self._hub.loop is not None and not self._hub.dead:  # is_running(), for each connection
            self._stop_reading()
            if self.reader is not None:
                self.reader.close()
        self.reader = None
        admit_to_collection(self._endpoint)
        self.buffers.watches.detach(self)

    cdef int descriptor_lost(self) except -1:
        self._transport_ended(END_BY_DESCRIPTOR)
        return 0

    cdef int restart(self) except -1:
        self._start_reading()
        return 0

    cdef bint has_socket(self) noexcept:
        """Whether the socket still has the descriptor: other code may have closed it."""
        return descriptor_of(<PyObject*>self._raw) == self.fd

    cdef Recipient recipient(self) noexcept:
        return CALLBACK if self._on_message is not None and self._waiter is None else VIEW

    cdef void prefetch(self) noexcept:
        """Fetch the memory of the next dispatch into the CPU cache."""
        fetch_line(<void*>self._endpoint)
        fetch_line(<char*><void*>self._endpoint + 64)
        fetch_line(<void*>self._raw)
        if self._waiter is not None:
            fetch_line((<PyGreenlet*>self._waiter).pimpl)
            fetch_line(<char*>(<PyGreenlet*>self._waiter).pimpl + 64)
            fetch_line(<char*>(<PyGreenlet*>self._waiter).pimpl + 128)

    # ------------------------------------------------------------------------------- receiving

    def receive(self, timeout=None):
        """Block until the next message and return it: ``str`` for text, ``bytes`` for binary.

        Returns ``None`` once when the connection has ended, whichever side ended it. Messages that
        arrived before the end are returned first. If an exception is thrown into the greenlet
        (``gevent.Timeout``, ``kill()``), no message is lost and the WebSocket stays usable.

        :param timeout: in seconds; ``None`` waits without a limit.
        :raises TimeoutError: when no message arrived in time.
        :raises TypeError: if the timeout is not a number.
        :raises ValueError: if the timeout is NaN.
        :raises ConnectionClosed: when ``None`` has been returned before.
        :raises gevent.exceptions.ConcurrentObjectUseError: when another greenlet is receiving.
        :raises gevent.exceptions.BlockingSwitchOutError: in a callback of the event loop, which
            must not wait.
        :raises RuntimeError: in another thread than the view's.
        """
        cdef object message
        if timeout is not None:
            return receive_within(self, timeout)
        message = self.message_at_hand()
        return self.wait() if message is None else message

    cdef object message_at_hand(self):
        """A message for which no wait is necessary, else None."""
        cdef FrameReader endpoint
        cdef HubBuffers buffers
        cdef object message
        if PyThread_get_thread_ident() != self._thread:
            raise RuntimeError(NOT_HERE)
        endpoint = self._endpoint
        if endpoint.state is PENDING:
            self._open()
        buffers = self.buffers
        if buffers.dispatched is self:
            if endpoint.at < endpoint.end:
                if buffers.has_time():
                    message = endpoint.parse()
                    if endpoint.has_news and not self.ends_as_usual():
                        self._input_parsed()
                    if message is not None:
                        self._totals.messages_received += 1
                        self._messages_received += 1
                        return message
                else:
                    self._resume_later()
        elif self._received is not None or endpoint.at < endpoint.end:
            return self._receive_parsed()
        return None

    cdef object wait(self):
        """Wait in the hub until a dispatch brings a message, or the end.

        The stack from here up is saved for each greenlet that waits: a ``finally`` adds 100 bytes.
        """
        cdef PyObject* switched
        cdef PyGreenlet* target = NULL
        cdef object message
        if self._endpoint.state is not OPEN:
            return self.report_end()
        if self._waiter is not None:
            raise ConcurrentObjectUseError("another greenlet is receiving from this WebSocket")
        self._waiter = current_greenlet()
        if self._waiter is self._hub:
            self._waiter = None
            raise BlockingSwitchOutError("receive() must not wait in a callback of the event loop")
        self._receives = True
        if self.buffers.dispatched is self and self.buffers.leader is None:
            target = self.buffers.next_view()
        while True:
            switched = try_switch(
                target if target != NULL else <PyGreenlet*>self._hub, NULL, NULL
            )
            target = NULL
            if switched == NULL:
                self._waiter = None
                reraise()
            Py_DECREF(<object>switched)
            message = self.ready
            if message is not None:
                self.ready = self._waiter = None
                return message
            if self._endpoint.state is not OPEN:
                self._waiter = None
                return self.report_end()

    cdef object report_end(self):
        """Return ``None`` the first time, then raise."""
        if self._end_reported:
            raise self._closed_error()
        self._end_reported = True
        return None

    def __iter__(self):
        """The messages until the connection ends."""
        return Messages(self)

    def __next__(self):
        return next(Messages(self))

    # --------------------------------------------------------------------------------- sending

    def send(self, data, *, binary=None, bint compress=True):
        """Send one message: ``str`` as text, bytes-like as binary.

        Returns when the message is in the kernel, or in a buffer that holds less than
        ``max_send_buffer`` bytes. While the buffer holds more, blocks as long as the peer reads.
        When the peer has read nothing for ``send_timeout`` seconds, the connection is dropped
        (1011). Messages of several greenlets are never torn or mixed. Bytes are copied: the caller
        may reuse a buffer at once. In another thread than the view's, blocks that thread until the
        hub of the view has sent the message.

        :param binary: overrides the type: ``True`` sends a ``str`` in UTF-8 as binary, ``False``
            sends bytes, which must be UTF-8, as text.
        :param compress: ``False`` for data that is compressed already, such as an image. No effect
            without permessage-deflate.
        :raises ConnectionClosed: when the connection has ended. This is checked before ``data``:
            ``ws.send(ws.receive())`` raises it at the end. If a loss is not detected yet, a
            later call raises it.
        :raises TypeError: when ``data`` is neither ``str`` nor bytes-like.
        :raises ValueError: for bytes that are sent as text and are not UTF-8, and for a ``str``
            with a lone surrogate, which UTF-8 cannot encode. Nothing is sent then.
        :raises TimeoutError: in another thread, when the thread of the view is blocked for 30
            seconds.
        """
        cdef const uint8_t* payload
        cdef Py_ssize_t size
        cdef int opcode
        cdef FrameReader endpoint
        cdef object compressed
        if PyThread_get_thread_ident() != self._thread:
            call_in_hub(self._hub, partial(self.send, data, binary=binary, compress=compress))
            return
        endpoint = self._endpoint
        if endpoint.state is not OPEN:
            if endpoint.state is PENDING:
                _message(data, binary)  # raises before the 101 is sent
            self._require_open()
        if binary is None and type(data) is str:
            opcode = TEXT
            payload = <const uint8_t*>PyUnicode_AsUTF8AndSize(data, &size)
            if payload == NULL:
                PyErr_Clear()
                encode_text(data)  # explains the error
                raise MemoryError
        else:
            if binary is None and type(data) is bytes:
                opcode = BINARY
            else:
                opcode, data = _message(data, binary)
            payload = <const uint8_t*>PyBytes_AS_STRING(data)
            size = PyBytes_GET_SIZE(data)
        if self._output is not None:
            self._wait_for_room()
        self._totals.messages_sent += 1
        self._messages_sent += 1
        if endpoint.extension is not None and compress:
            compressed = endpoint.compress(data, size)
            if compressed is not None:
                opcode |= RSV1
                data = compressed
                payload = <const uint8_t*>PyBytes_AS_STRING(data)
                size = PyBytes_GET_SIZE(data)
        if endpoint.is_client:
            self._transmit(endpoint.encode(opcode, data.encode() if type(data) is str else data))
        else:
            self.transmit_payload(FIN | opcode, payload, size, data)
        if self._output is not None:
            self._wait_for_room()
        if endpoint.state is CLOSED:
            raise self._closed_error()

    def _require_open(self):
        """Finish the opening handshake if it is pending; raise if the connection has ended."""
        if self._endpoint.state is PENDING:
            self._open()
        if self._endpoint.state is not OPEN:
            raise self._closed_error()

    cdef int transmit_payload(
        self, int first, const uint8_t* payload, Py_ssize_t size, object data
    ) except -1:
        """Write an unmasked frame now, or cork it with the other frames of this dispatch."""
        cdef HubBuffers buffers = self.buffers
        cdef FrameReader endpoint = self._endpoint
        cdef uint8_t small[ON_STACK]
        cdef uint8_t* out
        cdef iovec parts[2]
        cdef int head
        if buffers.dispatched is self and (buffers.cork_size or endpoint.at < endpoint.end):
            if size < LARGE_PAYLOAD:
                out = buffers.cork + buffers.cork_size
                head = put_head(out, first, size)
                memcpy(out + head, payload, size)
                buffers.cork_size += head + size
                if endpoint.at >= endpoint.end or buffers.cork_size >= MAX_CORK:
                    self.flush_cork()
                return 0
            if buffers.cork_size:
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
        """Write a header and a payload inside ``data``, which is a str or bytes."""
        cdef Py_ssize_t head = parts[0].iov_len, size = parts[1].iov_len, sent = 0
        cdef const uint8_t* payload = <const uint8_t*>parts[1].iov_base
        cdef const char* first = <const char*>parts[0].iov_base
        cdef LargeText text
        if self._endpoint.state is CLOSED:
            return 0
        self._totals.bytes_sent += head + size
        self._written += head + size
        if self._output is None and self.fd >= 0:
            sent = direct_send(self.fd, parts, 2, False) if self.has_socket() else -1
            if sent < 0:
                if not (self.has_socket() and would_block()):
                    self._output_failed()
                    return 0
                sent = 0
            if sent == head + size:
                return 0
        elif self._output is None:
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
        """Write a frame now, or cork it with the other frames of this dispatch."""
        cdef HubBuffers buffers = self.buffers
        cdef Py_ssize_t size = PyBytes_GET_SIZE(frame)
        if (
            buffers.dispatched is self and self._endpoint.at < self._endpoint.end
            and size < LARGE_PAYLOAD
        ):
            memcpy(buffers.cork + buffers.cork_size, PyBytes_AS_STRING(frame), size)
            buffers.cork_size += size
            if buffers.cork_size >= MAX_CORK:
                self.flush_cork()
        else:
            self._transmit_now(frame)

    def _transmit_now(self, bytes frames):
        """Write frames without delay, after the corked ones."""
        if self.buffers.dispatched is self and self.buffers.cork_size:
            self.flush_cork()
        self.write(<const uint8_t*>PyBytes_AS_STRING(frames), PyBytes_GET_SIZE(frames))

    cdef int flush_cork(self) except -1:
        cdef HubBuffers buffers = self.buffers
        cdef Py_ssize_t size = buffers.cork_size
        buffers.cork_size = 0
        return self.write(buffers.cork, size)

    cdef int write(self, const uint8_t* data, Py_ssize_t size, bint is_last=False) except -1:
        """Write after the output that waits; the rest waits for room in the kernel.

        ``is_last`` promises that the end of TCP follows at once, if nothing waits.
        The loss of the connection raises nothing: the state of the endpoint shows it.
        """
        cdef Py_ssize_t sent
        if self._endpoint.state is CLOSED:
            return 0
        self._totals.bytes_sent += size
        self._written += size
        if self._output is not None:
            self._queue_output((<char*>data)[:size])
            return 0
        if self.fd < 0:
            self._write((<char*>data)[:size])
            return 0
        sent = self.send_now(data, size, is_last)
        if sent < size:
            self._queue_output((<char*>data)[sent:size])
        return 0

    cdef int write_shared(self, bytes frame) except -1:
        """The same for a frame of many connections: its rest is not copied."""
        cdef Py_ssize_t sent, size = PyBytes_GET_SIZE(frame)
        if self._endpoint.state is CLOSED:
            return 0
        self._totals.bytes_sent += size
        self._written += size
        if self._output is not None:
            self._queue_output(frame)
            return 0
        if self.fd < 0:
            self._write(frame)
            return 0
        sent = self.send_now(<const uint8_t*>PyBytes_AS_STRING(frame), size)
        if sent < size:
            self._queue_output(memoryview(frame)[sent:] if sent else frame)
        return 0

    cdef Py_ssize_t send_now(
        self, const uint8_t* data, Py_ssize_t size, bint is_last=False
    ) except -1:
        """How many bytes the kernel has taken; all of them if the connection is lost."""
        cdef iovec part
        cdef Py_ssize_t sent
        part.iov_base = <void*>data
        part.iov_len = size
        if self.has_socket():
            sent = direct_send(self.fd, &part, 1, is_last)
            if sent >= 0:
                return sent
            if would_block():
                return 0
        self._output_failed()
        return size

    def _write(self, bytes data):
        """Write to a Python socket while no output waits: TLS, or a system without send(2)."""
        if self._is_tls and len(data) > MAX_RECORD:
            self._queue_output(data)
            return
        try:
            sent = self._raw.send(data)
        except WOULD_BLOCK:
            sent = 0
        except OSError:
            self._output_failed()
            return
        if sent < len(data):
            self._queue_output(memoryview(data)[sent:] if sent else data)

    # ------------------------------------------------------------------------------ in the hub

    def _on_readable(self):
        try:
            self.on_readable()
        finally:
            self.buffers.run_view()

    cdef int on_readable(self) except -1:
        cdef bint failed = True
        try:
            self.read()
            failed = False
        finally:
            if failed:
                self._transport_ended(END_BY_FAULT)
        return 0

    cdef int read(self) except -1:
        """Read once, and dispatch the input."""
        cdef HubBuffers buffers = self.buffers
        cdef FrameReader endpoint = self._endpoint
        cdef uint8_t* buffer = buffers.buffer
        cdef Py_ssize_t size, room
        if self._resuming:
            return 0  # older input is parsed first; the loop comes to it next
        if self.fd >= 0 and not self.has_socket():
            self._transport_ended(END_BY_ERROR)
            return 0
        if self.fd >= 0 and endpoint.left >= BUFFER_SIZE and endpoint.at == endpoint.end:
            # Straight into the message, to be unmasked in place.
            room = min(
                endpoint.left, LARGE_READ,
                max(endpoint.capacity - endpoint.used, endpoint.used, BUFFER_SIZE),
            )
            endpoint.make_room(room, endpoint.used)
            buffer = endpoint.data + endpoint.used
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
            self._transport_ended(END_BY_EOF)
            return 0
        if size < 0:
            self._transport_ended(END_BY_ERROR)
            return 0
        self._heard = True
        self._totals.bytes_received += size
        endpoint.borrow_at(buffer, size)
        self.dispatch()
        if self._is_tls and endpoint.state is not CLOSED and self._sock.pending():
            self._resume_later()  # the loop does not report input that OpenSSL holds
        return 0

    cdef Py_ssize_t read_from_python(self) except -3:
        """Fill the buffer from a Python socket: -1 for an error, -2 for nothing yet."""
        cdef Py_ssize_t size = 0, more
        view = PyMemoryView_FromMemory(<char*>self.buffers.buffer, BUFFER_SIZE, PyBUF_WRITE)
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
            return size or -1  # the next read reports the error again
        return size

    cdef int run_view(self) except -1:
        return self.buffers.run_view()

    def _dispatch(self):
        """Pass the input to the greenlet that waits for it, to the callback, or to the queue."""
        try:
            self.dispatch()
        finally:
            self.buffers.run_view()

    cdef int dispatch(self) except -1:
        """The same, but leave the switch to the greenlet to the caller: see ``run_view()``."""
        cdef FrameReader endpoint = self._endpoint
        cdef HubBuffers buffers = self.buffers
        cdef object message, waiter = self._waiter
        if waiter is not None:
            message = endpoint.parse()
            if endpoint.has_news and not self.ends_as_usual():
                self._input_parsed()  # a Pong is sent before the view answers
            if message is not None:
                self._totals.messages_received += 1
                self._messages_received += 1
                self.ready = message
                buffers.begin_dispatch(self)
                buffers.view = <PyGreenlet*>waiter
                return 0
        elif self._on_message is not None and not self._busy:
            if buffers.leader is not None:
                return self.deliver()
            if buffers.pool.switch_to_worker(self):
                return 0
        if self._waiter is None and endpoint.at < endpoint.end:
            self._parse_ahead()
        endpoint.keep_rest()
        if endpoint.has_news:
            self._input_parsed()
        return 0

    cdef bint ends_as_usual(self) except -1:
        """Answer the peer's Close frame, if nothing else is due, and end the connection.

        In all other cases, ``_input_parsed()`` does this, in more steps.
        """
        cdef FrameReader endpoint = self._endpoint
        cdef bytes frame
        if not (
            endpoint.close_received and endpoint.state is DRAINING and endpoint._output is not None
            and endpoint._pings is None and endpoint.pong is None and self._output is None
            and self.fd >= 0 and not endpoint.is_client and not endpoint.interrupted
            and not (self.buffers.dispatched is self and self.buffers.cork_size)
        ):
            return False
        frame = b"".join(endpoint._output)
        endpoint._output = None
        endpoint.has_news = False
        self.write(<const uint8_t*>PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), True)
        if self._output is None:
            self._transport_ended(END_BY_CLOSE)
        else:
            endpoint.has_news = True  # the answer waits for room in the kernel
            self._input_parsed()
        return True

    cdef int deliver(self) except -1:
        """Call the callback for each message at hand; in the leader."""
        cdef HubBuffers buffers = self.buffers
        cdef FrameReader endpoint = self._endpoint
        cdef object message, leader = buffers.leader
        cdef bint is_interrupted = False
        cdef Py_ssize_t count
        cdef void* weak
        self._worker = leader
        self._busy = True
        if self._received is None:
            buffers.begin_dispatch(self)
        count = Py_REFCNT(<PyObject*>leader)
        weak = weak_references(<PyObject*>leader)
        try:
            while self._on_message is not None and not is_interrupted:
                message = self.message_at_hand()
                if message is None:
                    break
                try:
                    self._on_message(self, message)
                except BaseException as problem:
                    self._callback_failed(problem)
                message = None
                if has_context():
                    leader.gr_context = None
                if buffers.leader is leader and (
                    Py_REFCNT(<PyObject*>leader) != count
                    or weak_references(<PyObject*>leader) != weak
                ):
                    buffers.leader = None  # something refers to this greenlet
                is_interrupted = buffers.leader is not leader
        except BaseException:
            is_interrupted = True
            raise
        finally:
            try:
                if buffers.dispatched is self:
                    self.end_dispatch(False)
                if endpoint.state is CLOSED and not is_interrupted:
                    self._finish()
                elif (is_interrupted or self._on_message is None) and (
                    self._received is not None or endpoint.at < endpoint.end
                    or endpoint.state is CLOSED
                ):
                    self._resume_later()
            except BaseException:
                self._busy = False  # the end of the connection has to call the last callback
                self._transport_ended(END_BY_FAULT)
                raise
            finally:
                self._busy = False
                self._worker = None
        return 0

    cdef int close_dispatch(self) except -1:
        self.buffers.dispatched = None
        if self.buffers.cork_size:
            self.flush_cork()
        return 0

    cdef int end_dispatch(self, bint is_suspended) except -1:
        cdef FrameReader endpoint = self._endpoint
        cdef object message
        self.close_dispatch()
        if self.ready is not None:
            # The greenlet was dead.
            message, self.ready = self.ready, None
            self._parse_ahead(message)
        if is_suspended and self._waiter is None and endpoint.at < endpoint.end:
            self._parse_ahead()
        endpoint.keep_rest()
        if endpoint.has_news:
            self._input_parsed()
        return 0


cdef class Messages:
    """Iterates over a connection.

    CPython would look up ``__next__`` of the connection for each message, because its class is
    written in Python.
    """

    cdef Transport connection

    def __init__(self, Transport connection):
        self.connection = connection

    def __iter__(self):
        return self

    def __next__(self):
        cdef Transport connection = self.connection
        cdef object message
        if not connection._end_reported:
            message = connection.message_at_hand()
            if message is None:
                message = connection.wait()
            if message is not None:
                return message
        raise connection._end_of_iteration()


cdef class SharedMessage:
    """A message for many connections: ``str`` is sent as text, bytes-like as binary.

    Its frame is built once, and compressed once, for all connections that can share it.
    """

    cdef object opcode
    cdef bytes payload
    #: The frames, by the extension of the connection; the key None stands for no extension.
    cdef dict frames

    def __init__(self, data):
        self.opcode, self.payload = _message(data, None)
        self.frames = {}


def fan_out(connections, SharedMessage message):
    """Send one message to many connections; return the connections that it was not sent to.

    These have ended, or their send buffer is full. No greenlet switch happens: a slow peer causes
    no delay.
    """
    cdef Transport connection
    cdef FrameReader endpoint
    cdef object extension = None, frame = None
    cdef object opcode = message.opcode
    cdef bytes payload = message.payload
    cdef dict frames = message.frames
    cdef list left_out = []
    for connection in connections:
        endpoint = connection._endpoint
        if endpoint.state is not OPEN or (
            connection._output is not None and connection._output.is_full
        ):
            left_out.append(connection)
            continue
        connection._totals.messages_sent += 1
        connection._messages_sent += 1
        if frame is None or endpoint.extension is not extension or endpoint.is_client:
            extension = endpoint.extension
            if endpoint.is_client or (extension is not None and not extension.is_shared):
                # Not shared: it has its own mask or compression context.
                connection._transmit(endpoint.encode_message(opcode, payload))
                frame = None
                continue
            frame = frames.get(extension)
            if frame is None:
                frame = frames[extension] = endpoint.encode_message(opcode, payload)
        if connection.buffers.dispatched is connection:
            connection._transmit(frame)  # after the frames that it has corked
        else:
            connection.write_shared(frame)
    return left_out


cdef int reraise() except -1:
    """Raise the exception that a C call has set."""
    return -1


cdef object current_greenlet():
    """The running greenlet; the C API's reference is a new one."""
    cdef PyObject* current = <PyObject*>PyGreenlet_GetCurrent()
    greenlet = <object>current
    Py_DECREF(greenlet)
    return greenlet
