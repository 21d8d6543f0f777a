"""Messages through a gevent socket: reads driven by the hub, corked writes, raw switches.

The reference twin of what ``speedups.pyx`` compiles: the way of every message, and nothing that
happens once a connection or only when something is full; that is in :mod:`geventws.connection`.

How it works, and why it is quick:

- One READ watcher a connection stays active for its whole life. Its callback runs in the hub,
  reads into a buffer that all connections of the hub share, and parses the first message.
- If a greenlet waits in :meth:`Transport.receive`, the callback switches straight into it: this
  is a *dispatch*. Until that greenlet blocks, its further calls of ``receive()`` parse the rest
  of the shared buffer. If nobody waits, messages go to a bounded queue, so that Close, Ping and
  the loss of the connection are noticed at once.
- During a dispatch, frames that are sent while input is left are *corked*: they gather, and leave
  in one system call as soon as the input is used up or the greenlet blocks. A greenlet that has
  nothing left to read may be about to compute, so its frame leaves at once.

Ownership: everything here belongs to the thread that made the object, and to its hub; calls of
``send()`` from other threads are carried over. ``_waiter`` is the one greenlet inside
``receive()``; any number may be inside ``send()``.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from errno import EBADF
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from gevent import get_hub, getcurrent
from gevent.exceptions import ConcurrentObjectUseError
from gevent.ssl import SSLSocket, SSLWantReadError, SSLWantWriteError

from ..exceptions import ConnectionClosed
from ..frames import Opcode, State, encode_text
from ..threads import call_in_hub, get_ident, is_running

if TYPE_CHECKING:
    from gevent.hub import Hub

    from ..permessage_deflate import PerMessageDeflate
    from ..protocol import Protocol

#: Why receive() fails in another thread.
NOT_HERE = (
    "receive() waits in the thread of the view only: receive there, and hand the messages on, for"
    " instance by hub.threadpool.apply() or a queue.Queue"
)
_OPEN = State.OPEN
_CLOSED = State.CLOSED
_TEXT = int(Opcode.TEXT)
_BINARY = int(Opcode.BINARY)
_READ = 1
#: What a non-blocking socket raises; gevent's TLS sockets also return 0 from send().
WOULD_BLOCK = (BlockingIOError, SSLWantReadError, SSLWantWriteError)
#: What a TLS record carries at most, RFC 8446 section 5.1.
MAX_RECORD = 16 << 10
#: 256 KiB would cost fairness, 16 KiB throughput.
_BUFFER_SIZE = 64 << 10
_MAX_CORK = 64 << 10
#: How long one connection may keep the loop from the others, in seconds.
SLICE = 0.001


class _Shared:
    """What the connections of one hub share: only one of them is dispatched at a time."""

    __slots__ = ("buffer", "connections", "cork", "cork_size", "deadline", "dispatched")

    def __init__(self) -> None:
        self.buffer = bytearray(_BUFFER_SIZE)
        #: Those that are attached, by descriptor.
        self.connections: dict[int, Transport] = {}
        #: The connection whose greenlet runs on behalf of the watcher's callback.
        self.dispatched: Transport | None = None
        #: When its greenlet has to let the loop run.
        self.deadline = 0.0
        #: Its frames that are still to be written.
        self.cork: list[bytes] = []
        self.cork_size = 0


_shared_by_hub: WeakKeyDictionary[Hub, _Shared] = WeakKeyDictionary()


def drop_watchers(sock: Any) -> None:
    """Free the two that a gevent socket has of its own: nobody waits in its methods any more."""
    sock._read_event.close()
    sock._write_event.close()
    sock._read_event = sock._write_event = None


class Counters:
    """What has passed through the connections that share this."""

    __slots__ = ("bytes_received", "bytes_sent", "messages_received", "messages_sent")

    def __init__(self) -> None:
        self.messages_received = 0
        self.messages_sent = 0
        #: With frames' headers, and as compressed as they come.
        self.bytes_received = 0
        #: Handed to the kernel, or waiting for it to have room.
        self.bytes_sent = 0


class Transport:
    """The hot half of :class:`~geventws.connection.Connection`."""

    __slots__ = (
        "_attached", "_descriptor", "_end_told", "_heard", "_hub", "_is_tls", "_max_send_buffer",
        "_opened", "_out", "_out_size", "_paused", "_protocol", "_queue", "_raw", "_reader",
        "_ready", "_receives", "_recv_into", "_resuming", "_send", "_shared", "_sock", "_thread",
        "_totals", "_waiter", "_written",
    )

    _totals: Counters

    def __init__(self, totals: Counters) -> None:
        self._totals = totals
        self._hub = get_hub()
        self._thread = get_ident()
        self._opened = False
        self._end_told = False
        #: Whether anybody has ever called receive().
        self._receives = False

    def _attach_transport(self, sock: Any, protocol: Protocol, max_send_buffer: int) -> None:
        """Take over a gevent socket and start reading from it."""
        self._protocol = protocol
        self._max_send_buffer = max_send_buffer
        hub = self._hub
        shared = _shared_by_hub.get(hub)
        if shared is None:
            shared = _shared_by_hub[hub] = _Shared()
        self._shared = shared
        self._sock = sock
        self._is_tls = isinstance(sock, SSLSocket)
        # gevent's own methods would wait for readiness; a TLS socket keeps its bytes to itself.
        self._raw = sock if self._is_tls else sock._sock
        if self._is_tls:
            sock.settimeout(0)
        else:
            drop_watchers(sock)
        self._recv_into = self._raw.recv_into
        self._send = self._raw.send
        self._waiter: Any = None
        self._ready: str | bytes | None = None
        # An empty deque weighs 600 bytes, and most connections never need either.
        self._queue: deque[str | bytes] | None = None
        self._paused = False
        self._resuming = False
        #: Whether anything has come from the peer since this was reset.
        self._heard = False
        self._out: deque[bytes | bytearray | memoryview] | None = None
        self._out_size = 0
        #: How many bytes were handed to the kernel, or wait for it to have room.
        self._written = 0
        self._descriptor = sock.fileno()
        if self._descriptor < 0:
            raise OSError(EBADF, "the socket is closed")
        self._opened = True
        #: Until it is stopped for good.
        self._attached = True
        former = shared.connections.get(self._descriptor)
        if former is not None:
            # Somebody else has closed the descriptor of that one, and the system gave it out again.
            former._disown()
        shared.connections[self._descriptor] = self
        self._reader: Any = hub.loop.io(self._descriptor, _READ)
        self._start_reading()

    def _start_reading(self) -> None:
        self._reader.start(self._on_readable)

    def _stop_reading(self) -> None:
        """What the peer sends now stays in the kernel."""
        self._reader.stop()

    def _detach(self) -> None:
        """Let go of the descriptor."""
        self._attached = False
        if is_running(self._hub):
            self._reader.close()
        connections = self._shared.connections
        if connections.get(self._descriptor) is self:
            del connections[self._descriptor]

    # -------------------------------------------------------------- receiving

    def receive(self, timeout: float | None = None) -> str | bytes | None:
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
        if timeout is not None:
            return self._receive_within(timeout)
        if get_ident() != self._thread:
            raise RuntimeError(NOT_HERE)
        if not self._opened:
            self._open()
        protocol = self._protocol
        shared = self._shared
        if shared.dispatched is self:
            if protocol._position < protocol._end:  # has_input, on the hottest of paths
                if monotonic() < shared.deadline:
                    message = protocol.next_message()
                    if protocol.has_news:
                        self._after_input()
                    if message is not None:
                        self._totals.messages_received += 1
                        return message
                else:
                    self._resume_later()
        elif self._queue or protocol.has_input:
            message = self._receive_at_hand()
            if message is not None:
                return message
        return self._wait()

    def _wait(self) -> str | bytes | None:
        """Wait in the hub until a dispatch brings a message, or the end."""
        protocol = self._protocol
        if protocol.state is not _OPEN:
            self._tell_end()
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
                if protocol.state is not _OPEN:
                    self._tell_end()
                    return None
                # Somebody else switched in here; it was not for us.
        finally:
            self._waiter = None

    def __iter__(self) -> Iterator[str | bytes]:
        """The messages until the connection ends."""
        return self

    def __next__(self) -> str | bytes:
        message = self.receive() if not self._end_told else None
        if message is None:
            raise StopIteration
        return message

    # ---------------------------------------------------------------- sending

    def send(
        self, data: str | bytes | bytearray | memoryview, binary: bool | None = None,
        compress: bool = True,
    ) -> None:
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
        if get_ident() != self._thread:
            call_in_hub(self._hub, self.send, data, binary, compress)
            return
        if not self._opened:
            self._open()
        protocol = self._protocol
        if protocol.state is not _OPEN:
            raise self._closed_error()
        if binary is None and type(data) is str:
            opcode = _TEXT
            try:
                payload = data.encode()
            except UnicodeEncodeError:
                payload = encode_text(data)  # says what is wrong
        else:
            opcode, payload = _message(data, binary)
        if self._out_size >= self._max_send_buffer:
            self._wait_for_room()
        self._totals.messages_sent += 1
        self._transmit(protocol.encode_message(opcode, payload, compress))
        if self._out_size >= self._max_send_buffer:
            self._wait_for_room()
        if protocol.state is _CLOSED:
            raise self._closed_error()

    def _transmit(self, frame: bytes) -> None:
        """Write a frame now, or gather it with the others of this dispatch."""
        shared = self._shared
        if shared.dispatched is self:
            protocol = self._protocol
            if (
                protocol._position < protocol._end
                and shared.cork_size < _MAX_CORK
                and len(frame) < _MAX_CORK
            ):
                shared.cork.append(frame)
                shared.cork_size += len(frame)
                return
            if shared.cork:
                shared.cork.append(frame)
                self._flush_cork()
                return
        self._write(frame)

    def _transmit_now(self, frames: bytes) -> None:
        """Write frames without delay, behind what is corked."""
        if self._shared.dispatched is self and self._shared.cork:
            self._shared.cork.append(frames)
            self._flush_cork()
        else:
            self._write(frames)

    def _flush_cork(self) -> None:
        shared = self._shared
        cork, shared.cork, shared.cork_size = shared.cork, [], 0
        self._write(b"".join(cork))

    def _write(self, data: bytes) -> None:
        """Write behind what is waiting; what the kernel does not take waits.

        Does not raise: the loss of the connection shows in the protocol's state.
        """
        if not self._attached:
            return
        self._totals.bytes_sent += len(data)
        self._written += len(data)
        if self._out:
            self._queue_output(data)
            return
        if self._is_tls and len(data) > MAX_RECORD:
            self._queue_output(data)
            self._on_writable()
            return
        try:
            sent = self._send(data)
        except WOULD_BLOCK:
            sent = 0
        except OSError:
            self._lost()
            return
        if sent < len(data):
            self._queue_output(memoryview(data)[sent:] if sent else data)

    # ------------------------------------------------------------ in the hub

    def _on_readable(self) -> None:
        if self._resuming:
            return  # older input goes first; it is next in the loop
        try:
            self._read()
        except BaseException:
            self._abort()
            raise

    def _read(self) -> None:
        """Read once, and dispatch what has come."""
        shared = self._shared
        try:
            size = self._recv_into(shared.buffer)
            if self._is_tls and size:
                size = self._fill_from_tls(size)
        except WOULD_BLOCK:
            return
        except OSError:
            self._lost()
            return
        if not size:
            self._receive_eof()
            return
        self._heard = True
        self._totals.bytes_received += size
        self._protocol.borrow(shared.buffer, size)
        self._dispatch()
        if self._is_tls:
            self._resume_pending()

    def _fill_from_tls(self, size: int) -> int:
        """Read on until the shared buffer is full: a TLS record has 16 KiB at most."""
        view = memoryview(self._shared.buffer)
        try:
            while size < _BUFFER_SIZE and (more := self._recv_into(view[size:])):
                size += more
        except OSError:
            pass  # would block, or an error that the next read reports again
        return size

    def _dispatch(self) -> None:
        """Hand the input to the greenlet that waits for it, else to the queue."""
        protocol = self._protocol
        shared = self._shared
        waiter = self._waiter
        if waiter is not None:
            message = protocol.next_message()
            if protocol.has_news:
                self._after_input()  # a Pong goes before what the view answers
            if message is not None:
                self._totals.messages_received += 1
                self._ready = message
                shared.deadline = monotonic() + SLICE
                shared.dispatched = self
                try:
                    waiter.switch()
                finally:
                    shared.dispatched = None
                    if shared.cork:
                        self._flush_cork()
                    if self._ready is not None:
                        # The greenlet was dead.
                        self._enqueue(self._ready)
                        self._ready = None
        if self._waiter is None and protocol.has_input:
            self._fill_queue()
        protocol.keep()
        if protocol.has_news:
            self._after_input()

    # ------------------------------------------- what Connection does, rarely

    if TYPE_CHECKING:
        def _open(self) -> None: ...
        def _receive_within(self, timeout: float) -> str | bytes | None: ...
        def _receive_at_hand(self) -> str | bytes | None: ...
        def _tell_end(self) -> None: ...
        def _closed_error(self) -> ConnectionClosed: ...
        def _wait_for_room(self) -> None: ...
        def _queue_output(self, data: bytes | memoryview) -> None: ...
        def _enqueue(self, message: str | bytes) -> None: ...
        def _fill_queue(self) -> None: ...
        def _after_input(self) -> None: ...
        def _resume_later(self) -> None: ...
        def _resume_pending(self) -> None: ...
        def _on_writable(self) -> None: ...
        def _receive_eof(self) -> None: ...
        def _lost(self) -> None: ...
        def _abort(self) -> None: ...
        def _disown(self) -> None: ...


def fan_out(
    connections: Iterable[Transport], data: str | bytes | bytearray | memoryview
) -> list[Transport]:
    """Send one message to many connections; returns those that it was not sent to.

    These have ended, or their send buffer is full. A frame is made once, and compressed once, for
    all that can have the same. No greenlet switch happens on the way: nobody waits for a slow peer.
    """
    opcode, payload = _message(data, None)
    #: By the extension that the connections share; those without one have None.
    frames: dict[PerMessageDeflate | None, bytes] = {}
    left_out = []
    for connection in connections:
        protocol = connection._protocol
        deflate = protocol.deflate
        if protocol.state is not _OPEN or connection._out_size >= connection._max_send_buffer:
            left_out.append(connection)
            continue
        connection._totals.messages_sent += 1
        if protocol.is_client or (deflate is not None and not deflate.is_shared):
            # It has a mask (RFC 6455 section 5.3) or a context (RFC 7692 section 7.2) of its own.
            connection._transmit(protocol.encode_message(opcode, payload))
        else:
            frame = frames.get(deflate)
            if frame is None:
                frame = frames[deflate] = protocol.encode_message(opcode, payload)
            connection._transmit(frame)
    return left_out


def _message(
    data: str | bytes | bytearray | memoryview, binary: bool | None
) -> tuple[int, bytes]:
    """The opcode and the payload for what ``send()`` was given."""
    if isinstance(data, str):
        return (_BINARY if binary else _TEXT), encode_text(data)
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"a message is str or bytes-like, not {type(data).__name__}")
    payload = bytes(data)
    if binary is None or binary:
        return _BINARY, payload
    try:
        payload.decode()
    except UnicodeDecodeError as problem:
        raise ValueError("a text message must be UTF-8") from problem
    return _TEXT, payload
