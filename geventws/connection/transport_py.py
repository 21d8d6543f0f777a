"""Messages through a gevent socket: reads in the hub, corked writes, direct greenlet switches.

The Python twin, which is the reference for ``_transport.pyx``. It contains the path of every
message. Start, end, deadlines and full buffers are in
:mod:`geventws.connection.connection`.

How it works:

- Each connection has one READ watcher, which stays active. Its callback runs in the hub,
  reads into a buffer that all connections of the hub share, and parses the first message.
- If a greenlet waits in :meth:`Transport.receive`, the callback switches into it: a *dispatch*.
  Until that greenlet blocks, its further calls of ``receive()`` parse the rest of the shared
  buffer. If no greenlet waits, messages go to a bounded queue, so that Close, Ping and the loss of
  the connection are noticed at once.
- During a dispatch, frames that are sent while input is left are *corked*: they are gathered, and
  leave in one system call as soon as the input is used up or the greenlet blocks. A greenlet that
  has no input left may start to compute, so its frame leaves at once.

Ownership: a connection belongs to the thread that has created it, and to its hub. ``send()``
from another thread runs in this hub. ``_waiter`` is the one greenlet inside ``receive()``; any
number of greenlets may be inside ``send()``.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from errno import EBADF
from functools import partial
from math import isnan
from sys import getrefcount
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import getweakrefcount

from gevent import get_hub, getcurrent
from gevent.exceptions import ConcurrentObjectUseError
from gevent.socket import socket as gevent_socket
from gevent.ssl import SSLSocket, SSLWantReadError, SSLWantWriteError
from gevent.timeout import Timeout

from ..exceptions import WebSocketError
from ..protocol.frames import Opcode, encode_text
from ..protocol.state import State
from .greenlets import LightGreenlet
from .lifecycle import End
from .tcp import MAX_RECORD
from .threads import call_in_hub, get_ident, is_running

if TYPE_CHECKING:
    from gevent.hub import Hub
    from greenlet import greenlet

    from ..protocol.endpoint import Endpoint
    from ..protocol.permessage_deflate import PerMessageDeflate
    from .queues import ReceiveQueue, SendBuffer

#: The error message of receive() in another thread.
NOT_HERE = (
    "receive() can wait only in the thread of the view: receive there, and pass the messages on,"
    " for instance with hub.threadpool.apply() or a queue.Queue"
)
_PENDING = State.PENDING
_OPEN = State.OPEN
_CLOSED = State.CLOSED
_TEXT = int(Opcode.TEXT)
_BINARY = int(Opcode.BINARY)
_READ = 1
#: Raised by a socket that would block; send() of gevent's TLS sockets may also return 0.
WOULD_BLOCK = (BlockingIOError, SSLWantReadError, SSLWantWriteError)
#: In bytes. 256 KiB would delay other connections, 16 KiB would reduce the throughput.
_BUFFER_SIZE = 64 << 10
_MAX_CORK = 64 << 10
#: The maximum number of seconds that one connection may occupy the loop.
SLICE = 0.001


class HubBuffers:
    """Input buffer, cork and dispatch of a hub: only one connection is dispatched at a time."""

    __slots__ = (
        "buffer",
        "connections",
        "cork",
        "cork_size",
        "deadline",
        "dispatched",
        "leader",
        "pool",
    )

    #: The greenlets of the hub that call callbacks.
    pool: Workers

    def __init__(self) -> None:
        self.buffer = bytearray(_BUFFER_SIZE)
        #: The attached connections by descriptor.
        self.connections: dict[int, Transport] = {}
        #: The connection whose greenlet runs on behalf of the watcher's callback.
        self.dispatched: Transport | None = None
        #: The greenlet of the pool that runs in the place of the hub, until it blocks.
        self.leader: Any = None
        #: The time at which that greenlet must let the loop run.
        self.deadline = 0.0
        #: Frames of that greenlet that are written together.
        self.cork: list[bytes] = []
        self.cork_size = 0

    def abandon(self) -> None:
        """Forget the connections, in a child process: they belong to the parent."""
        self.connections.clear()


class Workers:
    """The greenlets of a hub that call callbacks.

    The lower half of :class:`~geventws.connection.callbacks.CallbackPool`, which implements the
    methods for what happens rarely.
    """

    __slots__ = (
        "_buffers",
        "_hub",
        "_idle",
        "_job",
        "_leaving",
        "_references",
        "_unused",
        "ends_idle",
        "running",
        "waiting",
    )

    def __init__(self, hub: Hub, buffers: HubBuffers) -> None:
        self._hub = hub
        self._buffers = buffers
        #: The connection for the greenlet to which the hub switches.
        self._job: Transport | None = None
        #: Greenlets that wait, the latest one last.
        self._idle: list[Any] = []
        #: The number of references to a greenlet that nothing else refers to.
        self._references = 0
        #: Greenlets that were killed in their callback, and end after it.
        self._leaving: set[object] = set()
        #: The number of greenlets that are running callbacks.
        self.running = 0
        #: Connections that wait for a greenlet, each at most once.
        self.waiting: deque[Any] = deque()
        #: Whether a timer ends the greenlets that are not needed any more; their number.
        self.ends_idle = False
        self._unused = 0

    def run(self, connection: Any) -> bool:
        """Call the callbacks of a connection for what is at hand; in the hub.

        Returns false if too many callbacks are running: then the connection waits.
        """
        if self.running >= connection._options.max_callbacks:
            self._let_wait(connection)
            return False
        buffers = self._buffers
        worker = self._take()
        self._job = connection
        self.running += 1
        buffers.leader = worker
        try:
            worker.switch()
        finally:
            buffers.leader = None
            if buffers.dispatched is not None:
                buffers.dispatched._end_dispatch(is_suspended=True)
        return True

    def _take(self) -> LightGreenlet:
        """Return a greenlet that nothing else refers to."""
        idle = self._idle
        while idle:
            worker: LightGreenlet = idle.pop()
            if self._unused > len(idle):  # noqa: PLR1730 - faster
                self._unused = len(idle)
            if getrefcount(worker) + getweakrefcount(worker) == self._references:
                return worker
            worker.switch()  # without a job: it ends
        worker = LightGreenlet(self._work)
        worker.switch()
        self._references = getrefcount(worker) + getweakrefcount(worker)
        return worker

    def _work(self) -> None:
        """Call callbacks, in a greenlet of the pool."""
        while True:
            try:
                self._hub.switch()
            except BaseException:  # noqa: BLE001 - of an earlier callback, such as a Timeout
                self._job = None
            connection, self._job = self._job, None
            if connection is None:
                self._forget(getcurrent())
                return
            try:
                connection._deliver()
                connection = None  # its memory may be released meanwhile
            except BaseException:  # noqa: BLE001 - reported as an exception in the hub
                self._hub.handle_error(self, *sys.exc_info())
            self.running -= 1
            is_leaving = self._leaving and getcurrent() in self._leaving
            if not is_leaving:
                self._idle.append(getcurrent())
            if self.waiting or not self.ends_idle:
                self._note_idle()
            if is_leaving:
                self._leaving.remove(getcurrent())
                return

    def leave(self, worker: object) -> None:
        """Let a greenlet end after its callback: it was killed."""
        self._leaving.add(worker)

    def _forget(self, worker: Any) -> None:
        """A greenlet ends, perhaps because other code has switched to it."""
        if worker in self._idle:
            self._idle.remove(worker)

    # ----------------------------------------------- implemented by the pool

    def _let_wait(self, connection: Any) -> None:
        """All greenlets are running: let a connection wait."""
        raise NotImplementedError

    def _note_idle(self) -> None:
        """A callback has ended, and connections wait, or no timer would end its greenlet."""
        raise NotImplementedError


def close_watchers(sock: Any) -> None:
    """Free the two watchers of a gevent socket: no greenlet waits in its methods any more."""
    sock._read_event.close()
    sock._write_event.close()
    sock._read_event = sock._write_event = None


class Counters:
    """Messages and bytes of the connections that share this object."""

    __slots__ = ("bytes_received", "bytes_sent", "messages_received", "messages_sent")

    def __init__(self) -> None:
        self.messages_received = 0
        self.messages_sent = 0
        #: Including the headers of frames, and as compressed as they arrive.
        self.bytes_received = 0
        #: Passed to the kernel, or waiting for room there.
        self.bytes_sent = 0


class Transport:
    """Messages in and out; the lower half of :class:`~geventws.connection.connection.Connection`.

    One object holds both halves, to save memory. The transport calls only the methods of the
    upper half in the section "implemented by the connection".

    :param endpoint: the protocol; the opening handshake may still be pending.
    :param buffers: of the running hub.
    :param counters: where messages and bytes are counted.
    """

    __slots__ = (  # noqa: RUF023 - grouped
        # The connection.
        "__weakref__",
        "_buffers",
        "_descriptor",
        "_endpoint",
        "_hub",
        "_is_tls",
        "_messages_received",
        "_messages_sent",
        "_raw",
        "_reader",
        "_sock",
        "_thread",
        "_totals",
        # Input.
        "_busy",
        "_end_reported",
        "_heard",
        "_on_message",
        "_ready",
        "_received",
        "_receives",
        "_recv_into",
        "_resuming",
        "_waiter",
        "_worker",
        # Output.
        "_output",
        "_send",
        "_written",
    )

    def __init__(self, endpoint: Endpoint, buffers: HubBuffers, counters: Counters) -> None:
        self._endpoint = endpoint
        self._buffers = buffers
        self._totals = counters
        #: The messages of this connection.
        self._messages_received = self._messages_sent = 0
        self._hub = get_hub()
        self._thread = get_ident()
        #: The gevent socket, and the socket that is read and written: for TLS the same, else the
        #: system's socket below. Any: the attributes exist only while the connection is attached.
        self._sock: Any = None
        self._raw: Any = None
        self._reader: Any = None
        self._descriptor = -1
        self._is_tls = False
        self._recv_into: Callable[..., int]
        self._send: Callable[..., int]
        #: The greenlet inside receive(), and the message that a dispatch has for it.
        self._waiter: greenlet | None = None
        self._ready: str | bytes | None = None
        #: Messages that were parsed ahead; None while there are none.
        self._received: ReceiveQueue | None = None
        #: Whether receive() has ever waited.
        self._receives = False
        #: Whether receive() has returned None.
        self._end_reported = False
        #: Whether a dispatch of the kept input is scheduled.
        self._resuming = False
        #: For a detached connection: the callback for each message; whether it is running, or
        #: waits for a greenlet; and the greenlet that runs it.
        self._on_message: Callable[[Any, str | bytes], object] | None = None
        self._busy = False
        self._worker: greenlet | None = None
        #: Whether bytes of the peer have arrived since the last reset of this flag.
        self._heard = False
        #: Output that waits for room in the kernel; None while there is none.
        self._output: SendBuffer | None = None
        #: The number of bytes that were passed to the kernel, or wait for it.
        self._written = 0

    def _attach(self, sock: Any) -> None:
        """Take over a socket, of gevent or of the operating system, and start to read from it."""
        descriptor = sock.fileno()
        if descriptor < 0:
            raise OSError(EBADF, "the socket is closed")
        self._sock = sock
        self._is_tls = isinstance(sock, SSLSocket)
        # gevent's own methods would block. A TLS socket also buffers decrypted bytes.
        is_gevents = isinstance(sock, gevent_socket) and not self._is_tls
        self._raw = sock._sock if is_gevents else sock
        if self._is_tls:
            sock.settimeout(0)
        elif self._raw is not sock:
            close_watchers(sock)
        self._recv_into = self._raw.recv_into
        self._send = self._raw.send
        self._descriptor = descriptor
        connections = self._buffers.connections
        former = connections.get(descriptor)
        if former is not None:
            # Other code has closed the descriptor of that connection, and the system reuses it.
            former._transport_ended(End.DESCRIPTOR)
        connections[descriptor] = self
        self._reader = self._hub.loop.io(descriptor, _READ)
        self._start_reading()

    def _replace_socket(self, sock: Any) -> None:
        """Use another object for the descriptor: a socket of the operating system."""
        self._sock = self._raw = sock
        self._recv_into = sock.recv_into
        self._send = sock.send

    def _start_reading(self) -> None:
        if self._sock.fileno() != self._descriptor:
            raise OSError(EBADF, "other code has closed the socket")  # libev would abort
        self._reader.start(self._on_readable)

    def _stop_reading(self) -> None:
        """Stop reading. Later input stays in the kernel."""
        self._reader.stop()

    def _detach(self) -> None:
        """Stop using the descriptor."""
        if self._reader is not None and is_running(self._hub):
            self._reader.close()
        self._reader = None
        connections = self._buffers.connections
        if connections.get(self._descriptor) is self:
            del connections[self._descriptor]

    # -------------------------------------------------------------- receiving

    def receive(self, timeout: float | None = None) -> str | bytes | None:
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
        if timeout is not None:
            return receive_within(self, timeout)
        if get_ident() != self._thread:
            raise RuntimeError(NOT_HERE)
        endpoint = self._endpoint
        # In a dispatch, all messages are in the input.
        if self._buffers.dispatched is not self or endpoint._position < endpoint._end:
            message = self._message_at_hand()
            if message is not None:
                return message
        if endpoint.state is not _OPEN:
            self._report_end()
            return None
        if self._waiter is not None:
            raise ConcurrentObjectUseError("another greenlet is receiving from this WebSocket")
        self._waiter = getcurrent()
        self._receives = True
        try:
            while True:
                self._hub.switch()
                message = self._ready
                if message is not None:
                    self._ready = None
                    return message
                if endpoint.state is not _OPEN:
                    self._report_end()
                    return None
                # Another greenlet has switched to this one, without a message.
        finally:
            self._waiter = None

    def _message_at_hand(self) -> str | bytes | None:
        """Return a message for which no wait is necessary, else ``None``."""
        endpoint = self._endpoint
        if endpoint.state is _PENDING:
            self._open()
        buffers = self._buffers
        if buffers.dispatched is self:
            if endpoint._position < endpoint._end:  # has_input, inlined on the hot path
                if monotonic() < buffers.deadline:
                    message = endpoint.next_message()
                    if endpoint.has_news:
                        self._input_parsed()
                    if message is not None:
                        self._totals.messages_received += 1
                        self._messages_received += 1
                        return message
                else:
                    self._resume_later()
        elif self._received is not None or endpoint.has_input:
            return self._receive_parsed()
        return None

    def _report_end(self) -> None:
        """Return ``None`` the first time, then raise."""
        if self._end_reported:
            raise self._closed_error()
        self._end_reported = True

    def __iter__(self) -> Iterator[str | bytes]:
        """The messages until the connection ends."""
        return self

    def __next__(self) -> str | bytes:
        message = self.receive() if not self._end_reported else None
        if message is None:
            raise self._end_of_iteration()
        return message

    # ---------------------------------------------------------------- sending

    def send(
        self,
        data: str | bytes | bytearray | memoryview,
        *,
        binary: bool | None = None,
        compress: bool = True,
    ) -> None:
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
        if get_ident() != self._thread:
            call_in_hub(self._hub, partial(self.send, data, binary=binary, compress=compress))
            return
        endpoint = self._endpoint
        if endpoint.state is not _OPEN:
            if endpoint.state is _PENDING:
                _message(data, binary)  # raises before the 101 is sent
            self._require_open()
        if binary is None and type(data) is str:
            opcode = _TEXT
            try:
                payload = data.encode()
            except UnicodeEncodeError:
                payload = encode_text(data)  # explains the error
        else:
            opcode, payload = _message(data, binary)
        if self._output is not None:
            self._wait_for_room()
        self._totals.messages_sent += 1
        self._messages_sent += 1
        frame = endpoint.encode_message(opcode, payload, compress)
        buffers = self._buffers
        # _transmit(), inlined on the hot path
        if buffers.dispatched is self and (buffers.cork or endpoint._position < endpoint._end):
            self._cork(frame)
        else:
            self._write(frame)
        if self._output is not None:
            self._wait_for_room()
        if endpoint.state is _CLOSED:
            raise self._closed_error()

    def _require_open(self) -> None:
        """Finish the opening handshake if it is pending; raise if the connection has ended."""
        if self._endpoint.state is _PENDING:
            self._open()
        if self._endpoint.state is not _OPEN:
            raise self._closed_error()

    def _transmit(self, frame: bytes) -> None:
        """Write a frame now, or cork it with the other frames of this dispatch."""
        buffers = self._buffers
        if buffers.dispatched is self and (buffers.cork or self._endpoint.has_input):
            self._cork(frame)
        else:
            self._write(frame)

    def _cork(self, frame: bytes) -> None:
        """Gather a frame while input is left and there is room; otherwise write all."""
        buffers = self._buffers
        buffers.cork.append(frame)
        buffers.cork_size += len(frame)
        if buffers.cork_size >= _MAX_CORK or not self._endpoint.has_input:
            self._flush_cork()

    def _transmit_now(self, frames: bytes) -> None:
        """Write frames without delay, after the corked ones."""
        if self._buffers.dispatched is self and self._buffers.cork:
            self._buffers.cork.append(frames)
            self._flush_cork()
        else:
            self._write(frames)

    def _flush_cork(self) -> None:
        # Emptied before any call: if one raises, no other connection may send it.
        buffers = self._buffers
        cork, buffers.cork, buffers.cork_size = buffers.cork, [], 0
        self._write(b"".join(cork))

    def _write(self, data: bytes) -> None:
        """Write data after the waiting output. Queue the part that the kernel does not accept.

        The loss of the connection raises nothing: the state of the endpoint shows it.
        """
        if self._endpoint.state is _CLOSED:
            return
        size = len(data)
        self._totals.bytes_sent += size
        self._written += size
        if self._output is not None or (self._is_tls and size > MAX_RECORD):
            self._queue_output(data)
            return
        try:
            sent = self._send(data)
        except WOULD_BLOCK:
            sent = 0
        except OSError:
            self._output_failed()
            return
        if sent < size:
            self._queue_output(memoryview(data)[sent:] if sent else data)

    # ------------------------------------------------------------ in the hub

    def _on_readable(self) -> None:
        """Read once, and dispatch the input."""
        if self._resuming:
            return  # older input is parsed first, in the next turn of the loop
        buffer = self._buffers.buffer
        try:
            try:
                size = self._recv_into(buffer)
                if self._is_tls and size:
                    size = self._fill_from_tls(size)
            except WOULD_BLOCK:
                return
            except OSError:
                self._transport_ended(End.ERROR)
                return
            if not size:
                self._transport_ended(End.EOF)
                return
            self._heard = True
            self._totals.bytes_received += size
            endpoint = self._endpoint
            endpoint.borrow(buffer, size)
            self._dispatch()
            if self._is_tls and endpoint.state is not _CLOSED and self._sock.pending():
                self._resume_later()  # the loop does not report input that OpenSSL holds
        except BaseException:
            self._transport_ended(End.FAULT)
            raise

    def _fill_from_tls(self, size: int) -> int:
        """Read until the shared buffer is full: a TLS record has 16 KiB at most."""
        view = memoryview(self._buffers.buffer)
        try:
            while size < _BUFFER_SIZE and (more := self._recv_into(view[size:])):
                size += more
        except OSError:
            pass  # would block, or an error that the next read reports again
        return size

    def _dispatch(self) -> None:
        """Pass the input to the greenlet that waits for it, to the callback, or to the queue."""
        endpoint = self._endpoint
        buffers = self._buffers
        waiter = self._waiter
        if waiter is not None:
            message = endpoint.next_message()
            if endpoint.has_news:
                self._input_parsed()  # a Pong is sent before the view answers
            if message is not None:
                self._totals.messages_received += 1
                self._messages_received += 1
                self._ready = message
                if endpoint._position < endpoint._end:
                    buffers.deadline = monotonic() + SLICE
                buffers.dispatched = self
                try:
                    waiter.switch()
                finally:
                    buffers.dispatched = None
                    if buffers.cork:
                        self._flush_cork()
                    if self._ready is not None:
                        # The greenlet had ended, and has not taken the message.
                        message, self._ready = self._ready, None
                        self._parse_ahead(message)
        elif self._on_message is not None and not self._busy and buffers.pool.run(self):
            return
        if endpoint._position < endpoint._end:
            if self._waiter is None:
                self._parse_ahead()
            endpoint.keep()
        if endpoint.has_news:
            self._input_parsed()

    def _deliver(self) -> None:
        """Call the callback for each message at hand; in the leader."""
        endpoint = self._endpoint
        buffers = self._buffers
        leader = self._worker = buffers.leader
        self._busy = True
        if self._received is None:
            buffers.deadline = monotonic() + SLICE
            buffers.dispatched = self
        count = getrefcount(leader) + getweakrefcount(leader)
        is_interrupted = False
        try:
            while self._on_message is not None and not is_interrupted:
                message = self._message_at_hand()
                if message is None:
                    break
                try:
                    self._on_message(self, message)
                except BaseException as problem:  # noqa: BLE001 - it ends this connection only
                    self._callback_failed(problem)
                del message
                leader.gr_context = None
                if buffers.leader is not leader:
                    is_interrupted = True
                elif getrefcount(leader) + getweakrefcount(leader) != count:
                    buffers.leader = None  # something refers to this greenlet
                    is_interrupted = True
                elif buffers.dispatched is self and endpoint._position == endpoint._end:
                    break
        except BaseException:
            is_interrupted = True
            raise
        finally:
            try:
                if buffers.dispatched is self:
                    self._end_dispatch()
                if endpoint.state is _CLOSED and not is_interrupted:
                    self._finish()
                elif (is_interrupted or self._on_message is None) and (
                    self._received is not None or endpoint.has_input or endpoint.state is _CLOSED
                ):
                    self._resume_later()
            except BaseException:
                self._busy = False  # the end of the connection has to call the last callback
                self._transport_ended(End.FAULT)
                raise
            finally:
                self._busy = False
                self._worker = None

    def _end_dispatch(self, *, is_suspended: bool = False) -> None:
        """Send the corked frames, and keep the rest of the input.

        :param is_suspended: whether the callback blocks: the messages behind its own are queued.
        """
        buffers = self._buffers
        endpoint = self._endpoint
        buffers.dispatched = None
        if buffers.cork:
            self._flush_cork()
        if endpoint._position < endpoint._end:
            if is_suspended and self._waiter is None:
                self._parse_ahead()
            endpoint.keep()
        if endpoint.has_news:
            self._input_parsed()

    # ------------------------------------------- implemented by the connection

    def _open(self) -> None:
        """Finish the opening handshake, or raise."""
        raise NotImplementedError

    def _closed_error(self) -> WebSocketError:
        """The exception for a use of the connection after its end."""
        raise NotImplementedError

    def _end_of_iteration(self) -> Exception:
        """The exception for an iteration after the end of the connection."""
        raise NotImplementedError

    def _receive_parsed(self) -> str | bytes | None:
        """Return the next message of the queue or of the kept input; None without one."""
        raise NotImplementedError

    def _parse_ahead(self, message: str | bytes | None = None) -> None:
        """Queue a message that no greenlet took, then parse as many as the limits allow."""
        raise NotImplementedError

    def _input_parsed(self) -> None:
        """Handle output, a Pong, another state, or an interruption of the endpoint."""
        raise NotImplementedError

    def _resume_later(self) -> None:
        """Dispatch the kept input after the other connections have had their turn."""
        raise NotImplementedError

    def _queue_output(self, data: bytes | memoryview) -> None:
        """Write the data when the kernel has room."""
        raise NotImplementedError

    def _wait_for_room(self) -> None:
        """Block while too much output waits."""
        raise NotImplementedError

    def _output_failed(self) -> None:
        """The socket takes no more output, but may have input."""
        raise NotImplementedError

    def _transport_ended(self, end: End) -> None:
        """The socket, or a callback of the hub, has failed."""
        raise NotImplementedError

    def _callback_failed(self, problem: BaseException) -> None:
        """The callback of the application has raised an exception."""
        raise NotImplementedError

    def _finish(self) -> None:
        """The connection has ended, and its messages are delivered: call the last callback."""
        raise NotImplementedError


def receive_within(transport: Transport, timeout: float) -> str | bytes | None:
    """Receive with a time limit. The time of the opening handshake is not counted."""
    seconds = seconds_of(timeout)
    if transport._endpoint.state is _PENDING:
        transport._open()
    timer = Timeout.start_new(seconds, TimeoutError(f"no message within {timeout} seconds"))
    try:
        return transport.receive()
    finally:
        timer.close()


def seconds_of(timeout: float | None) -> float | None:
    """Return a time limit in seconds as a ``float``; ``None`` for no limit.

    :raises TypeError: if it is not a number.
    :raises ValueError: for NaN, with which gevent's loop would call no timer any more.
    """
    if timeout is None:
        return None
    if isnan(timeout):
        raise ValueError("timeout must be a number of seconds, not NaN")
    return float(timeout)


class SharedMessage:
    """A message for many connections: ``str`` is sent as text, bytes-like as binary.

    Its frame is built once, and compressed once, for all connections that can share it.
    """

    __slots__ = ("frames", "opcode", "payload")

    def __init__(self, data: str | bytes | bytearray | memoryview) -> None:
        self.opcode, self.payload = _message(data, None)
        #: The frames, by the extension of the connection; the key None stands for no extension.
        self.frames: dict[PerMessageDeflate | None, bytes] = {}


def fan_out(connections: Iterable[Transport], message: SharedMessage) -> list[Transport]:
    """Send one message to many connections; return the connections that it was not sent to.

    These have ended, or their send buffer is full. No greenlet switch happens: a slow peer causes
    no delay.
    """
    opcode, payload, frames = message.opcode, message.payload, message.frames
    left_out = []
    for connection in connections:
        endpoint = connection._endpoint
        output = connection._output
        if endpoint.state is not _OPEN or (output is not None and output.is_full):
            left_out.append(connection)
            continue
        connection._totals.messages_sent += 1
        connection._messages_sent += 1
        extension = endpoint.extension
        if endpoint.is_client or (extension is not None and not extension.is_shared):
            # Not shared: its mask (RFC 6455 section 5.3) or its context (RFC 7692 section 7.2).
            connection._transmit(endpoint.encode_message(opcode, payload))
        else:
            frame = frames.get(extension)
            if frame is None:
                frame = frames[extension] = endpoint.encode_message(opcode, payload)
            connection._transmit(frame)
    return left_out


def bytes_of(data: Any) -> bytes:
    """Return the bytes of an object with a buffer, such as a ``bytearray`` or an array of NumPy.

    :raises TypeError: if it has none.
    """
    if type(data) is bytes:
        return data
    try:
        return memoryview(data).tobytes()
    except TypeError:
        raise TypeError(f"a message is str or bytes-like, not {type(data).__name__}") from None


def _message(data: Any, binary: bool | None) -> tuple[int, bytes]:
    """The opcode and the payload of a message.

    :raises TypeError: if it is neither ``str`` nor bytes-like.
    """
    if isinstance(data, str):
        return (_BINARY if binary else _TEXT), encode_text(data)
    if isinstance(data, (dict, list)):
        kind = type(data).__name__
        raise TypeError(f"a message is str or bytes-like, not {kind}; send_json() sends it as JSON")
    payload = bytes_of(data)
    if binary is None or binary:
        return _BINARY, payload
    try:
        payload.decode()
    except UnicodeDecodeError as problem:
        raise ValueError("a text message must be UTF-8") from problem
    return _TEXT, payload
