"""A WebSocket on a gevent socket: reads driven by the hub, corked writes, blocking calls.

The reference implementation. How it works, and why it is quick:

- One READ watcher a connection stays active for its whole life. Its callback runs in the hub,
  reads into a buffer that all connections of the hub share, and parses the first message.
- If a greenlet waits in :meth:`Connection.receive`, the callback switches straight into it: this
  is a *dispatch*. Until that greenlet blocks, its further calls of ``receive()`` parse the rest
  of the shared buffer. If nobody waits, messages go to a bounded queue, so that Close, Ping and
  the loss of the connection are noticed at once.
- During a dispatch, frames that are sent while input is left are *corked*: they gather, and leave
  in one system call as soon as the input is used up or the greenlet blocks. A greenlet that has
  nothing left to read may be about to compute, so its frame leaves at once.

Ownership: everything here belongs to the thread of the hub that opened the connection. ``_waiter``
is the one greenlet inside ``receive()``; any number may be inside ``send()``.
"""
from __future__ import annotations

import select
import socket
import struct
from collections import deque
from collections.abc import Iterator
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from gevent import get_hub, getcurrent, sleep
from gevent.event import Event
from gevent.exceptions import ConcurrentObjectUseError
from gevent.monkey import get_original
from gevent.ssl import SSLSocket, SSLWantReadError, SSLWantWriteError
from gevent.timeout import Timeout

from ..exceptions import ConnectionClosed, ProtocolError
from ..frames import MAX_CONTROL_PAYLOAD, CloseCode, Opcode, State
from .protocol import Protocol

if TYPE_CHECKING:
    from gevent.hub import Hub

    from ..options import Options

_OPEN = State.OPEN
_TEXT = int(Opcode.TEXT)
_BINARY = int(Opcode.BINARY)
_READ = 1
_WRITE = 2
_WOULD_BLOCK = (BlockingIOError, SSLWantReadError, SSLWantWriteError)
#: 256 KiB would cost fairness, 16 KiB throughput.
_BUFFER_SIZE = 64 << 10
_MAX_CORK = 64 << 10
#: How long a dispatch may keep the loop from the other connections, in seconds.
_SLICE = 0.001
#: How many messages in a row are received outside of a dispatch without letting the loop run.
_BURST = 32
#: How often a connection that is not read from is asked whether the peer is still there.
_HANGUP_INTERVAL = 1.0
#: poll() reports a half-closed peer by POLLRDHUP, where there is one.
_HANGUP = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)
#: The one of the operating system: a patched one would wait in the hub.
_poll = get_original("select", "poll")
#: The most buffers that one sendmsg() takes; IOV_MAX is 1024 or more on the systems gevent knows.
_MAX_VECTOR = 64


class _Shared:
    """What the connections of one hub share: only one of them is dispatched at a time."""

    __slots__ = ("buffer", "cork", "cork_size", "deadline", "dispatched")

    def __init__(self) -> None:
        self.buffer = bytearray(_BUFFER_SIZE)
        #: The connection whose greenlet runs on behalf of the watcher's callback.
        self.dispatched: Connection | None = None
        #: When its greenlet has to let the loop run.
        self.deadline = 0.0
        #: Its frames that are still to be written.
        self.cork: list[bytes] = []
        self.cork_size = 0


_shared_by_hub: WeakKeyDictionary[Hub, _Shared] = WeakKeyDictionary()


def _shared_of(hub: Hub) -> _Shared:
    shared = _shared_by_hub.get(hub)
    if shared is None:
        shared = _shared_by_hub[hub] = _Shared()
    return shared


class Connection:
    """The blocking side of a connection. :class:`geventws.WebSocket` documents what users see."""

    __slots__ = (
        "__weakref__", "_burst", "_done", "_end_told", "_ended", "_hangup_timer", "_hub",
        "_is_tls", "_latency", "_max_queue", "_max_queue_size", "_max_send_buffer", "_opened",
        "_options", "_out", "_out_size", "_paused", "_ping", "_protocol", "_queue", "_queue_size",
        "_raw", "_reader", "_ready", "_recv_into", "_resuming", "_room", "_send", "_shared",
        "_sock", "_waiter", "_writer",
    )

    def __init__(self, options: Options) -> None:
        self._options = options
        self._opened = False

    def _open(self) -> None:
        """Finish the opening handshake and :meth:`_attach`; called at the first use."""
        raise NotImplementedError

    def _attach(self, sock: Any, protocol: Protocol, early: bytes = b"") -> None:
        """Take over a gevent socket; ``early`` are the bytes that were read from it already."""
        options = self._options
        self._opened = True
        self._protocol = protocol
        self._max_queue = options.max_queue
        self._max_queue_size = options.max_queue_size
        self._max_send_buffer = options.max_send_buffer
        self._hub = get_hub()
        self._shared = _shared_of(self._hub)
        self._sock = sock
        self._is_tls = isinstance(sock, SSLSocket)
        sock.settimeout(0)
        # gevent's own methods would wait for readiness; a TLS socket keeps its bytes to itself.
        self._raw = sock if self._is_tls else sock._sock
        self._recv_into = self._raw.recv_into
        self._send = self._raw.send
        self._waiter: Any = None
        self._ready: str | bytes | None = None
        self._queue: deque[str | bytes] = deque()
        self._queue_size = 0
        self._burst = 0
        self._paused = False
        self._resuming = False
        self._hangup_timer: Any = None
        self._out: deque[bytes | memoryview] = deque()
        self._out_size = 0
        self._room: Event | None = None
        self._done: Event | None = None
        self._ended = False
        self._end_told = False
        self._ping: tuple[bytes, float] | None = None
        self._latency: float | None = None
        try:
            # Nagle's algorithm would hold small frames back for 40 ms.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass  # a unix socket has no such algorithm
        self._writer: Any = None
        self._reader: Any = self._hub.loop.io(sock.fileno(), _READ)
        self._reader.start(self._on_readable)
        if early:
            protocol.receive_data(early)
        if early or self._is_tls:
            # These bytes make no descriptor readable.
            self._resume_later()

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
        """
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
                        return message
                else:
                    self._resume_later()
        elif self._queue or protocol.has_input:
            message = self._receive_at_hand(protocol)
            if message is not None:
                return message
        return self._wait(timeout)

    def _receive_at_hand(self, protocol: Protocol) -> str | bytes | None:
        """The next message of the queue or of the input that was kept."""
        self._burst += 1
        if self._burst > _BURST:
            self._burst = 0
            # Let the loop run. Whatever is thrown in here, the message stays where it is.
            sleep(0)
        if not self._queue:
            message = protocol.next_message()
            if protocol.has_news:
                self._after_input()
            return message
        queued = self._queue.popleft()
        self._queue_size -= len(queued)
        if self._paused and not self._queue:
            self._unpause()
        return queued

    def _wait(self, timeout: float | None) -> str | bytes | None:
        """Wait in the hub until a dispatch brings a message, or the end."""
        protocol = self._protocol
        if protocol.state is not _OPEN:
            return self._tell_end()
        if self._waiter is not None:
            raise ConcurrentObjectUseError("another greenlet is receiving from this WebSocket")
        timer = None
        if timeout is not None:
            timer = Timeout.start_new(
                timeout, TimeoutError(f"no message within {timeout} seconds")
            )
        self._waiter = getcurrent()
        try:
            while True:
                self._hub.switch()
                message = self._ready
                if message is not None:
                    self._ready = None
                    return message
                if protocol.state is not _OPEN:
                    return self._tell_end()
                # Somebody else switched in here; it was not for us.
        finally:
            self._waiter = None
            if timer is not None:
                timer.close()

    def _tell_end(self) -> str | bytes | None:
        """``None`` once, then :exc:`ConnectionClosed`."""
        if self._end_told:
            raise self._closed_error()
        self._end_told = True
        return None

    def __iter__(self) -> Iterator[str | bytes]:
        """The messages until the connection ends."""
        return self

    def __next__(self) -> str | bytes:
        if self._opened and self._end_told:
            raise StopIteration
        message = self.receive()
        if message is None:
            raise StopIteration
        return message

    # ---------------------------------------------------------------- sending

    def send(self, data: str | bytes | bytearray | memoryview, binary: bool | None = None) -> None:
        """Send one message: ``str`` as text, bytes-like as binary.

        Returns when the message is on its way: in the kernel, or in a buffer of at most
        ``max_send_buffer`` bytes. While that is full, because the peer does not read, blocks for
        up to ``send_timeout`` seconds; then the connection is dropped. Messages are never torn or
        mixed, whichever greenlets send them. Bytes are copied: a buffer may be used again at once.

        :param binary: overrides the type: ``True`` sends a ``str`` in UTF-8 as binary, ``False``
            sends bytes, which must be UTF-8, as text.
        :raises ConnectionClosed: when the connection has ended. A loss that nobody knows of yet
            shows only at a later call.
        :raises TypeError: for what is neither ``str`` nor bytes-like.
        :raises ValueError: for bytes that are sent as text and are not UTF-8.
        """
        if not self._opened:
            self._open()
        protocol = self._protocol
        if binary is None and type(data) is str:
            opcode, payload = _TEXT, data.encode()
        else:
            opcode, payload = _message(data, binary)
        if protocol.state is not _OPEN:
            raise self._closed_error()
        if self._out_size >= self._max_send_buffer:
            self._wait_for_room()
        self._transmit(protocol.encode(opcode, payload))
        if protocol.state is State.CLOSED:
            raise self._closed_error()

    def ping(self, data: str | bytes = b"") -> None:
        """Send a Ping with up to 125 bytes (RFC 6455 section 5.5.2); does not wait for the Pong.

        :attr:`latency` tells how long the Pong took, once it is there.

        :raises ConnectionClosed: when the connection has ended.
        :raises ValueError: for more than 125 bytes.
        """
        if not self._opened:
            self._open()
        protocol = self._protocol
        payload = data.encode() if isinstance(data, str) else bytes(data)
        if len(payload) > MAX_CONTROL_PAYLOAD:
            raise ValueError(f"a Ping carries at most {MAX_CONTROL_PAYLOAD} bytes")
        if protocol.state is not _OPEN:
            raise self._closed_error()
        self._ping = payload, perf_counter()
        self._transmit(protocol.encode(Opcode.PING, payload))

    def _transmit(self, frame: bytes) -> None:
        """Write a frame now, or behind the others of this dispatch."""
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

    def _flush_cork(self) -> None:
        shared = self._shared
        data = b"".join(shared.cork)
        shared.cork.clear()
        shared.cork_size = 0
        if self._reader is not None:
            self._write(data)

    def _write(self, data: bytes) -> None:
        """Write behind what is waiting; what the kernel does not take waits.

        Does not raise: the loss of the connection shows in the protocol's state.
        """
        if self._out:
            self._out.append(data)
            self._out_size += len(data)
            return
        try:
            sent = self._send(data)
        except _WOULD_BLOCK:
            sent = 0
        except OSError:
            self._lost()
            return
        if sent < len(data):
            self._out.append(memoryview(data)[sent:] if sent else data)
            self._out_size = len(data) - sent
            if self._writer is None:
                self._writer = self._hub.loop.io(self._sock.fileno(), _WRITE)
            self._writer.start(self._on_writable)

    def _on_writable(self) -> None:
        """Write what is waiting; in the hub."""
        try:
            while self._out:
                if self._is_tls:
                    # OpenSSL wants to see the same bytes again after it refused them.
                    sent = self._send(self._out[0])
                else:
                    vector = [self._out[i] for i in range(min(len(self._out), _MAX_VECTOR))]
                    sent = self._raw.sendmsg(vector)
                if not sent:
                    break  # gevent's TLS sockets say so when they would block
                self._out_size -= sent
                while sent:
                    size = len(self._out[0])
                    if sent < size:
                        self._out[0] = memoryview(self._out[0])[sent:]
                        break
                    self._out.popleft()
                    sent -= size
        except _WOULD_BLOCK:
            pass
        except OSError:
            self._lost()
            return
        if not self._out:
            self._writer.stop()
            if self._ended:
                self._say_goodbye()
        if self._room is not None and self._out_size <= self._max_send_buffer // 2:
            self._room.set()

    def _wait_for_room(self) -> None:
        """Block while the send buffer is full; drop a peer that does not read for too long."""
        protocol = self._protocol
        if self._room is None:
            self._room = Event()
        timeout = self._options.send_timeout
        deadline = None if timeout is None else monotonic() + timeout
        while self._out_size >= self._max_send_buffer and protocol.state is _OPEN:
            remaining = None if deadline is None else deadline - monotonic()
            if remaining is not None and remaining <= 0:
                self._abort()
            else:
                self._room.clear()
                self._room.wait(remaining)
        if protocol.state is not _OPEN:
            raise self._closed_error()

    # ------------------------------------------------------------ in the hub

    def _on_readable(self) -> None:
        if self._resuming:
            return  # older input goes first; it is next in the loop
        shared = self._shared
        try:
            size = self._recv_into(shared.buffer)
            if self._is_tls and size:
                size = self._fill_from_tls(size)
        except _WOULD_BLOCK:
            return
        except OSError:
            self._lost()
            return
        if not size:
            self._lost()
            return
        self._protocol.borrow(shared.buffer, size)
        self._dispatch()
        if self._is_tls and self._reader is not None and not self._paused and self._sock.pending():
            # What OpenSSL holds back makes no descriptor readable.
            self._resume_later()

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
        if protocol.state is not _OPEN:
            protocol.next_message()  # nothing but the peer's Close is of interest
        elif waiter is not None:
            message = protocol.next_message()
            if protocol.has_news:
                self._after_input()  # a Pong goes before what the view answers
            if message is not None:
                self._ready = message
                shared.deadline = monotonic() + _SLICE
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
        if self._waiter is None and protocol.has_input and protocol.state is _OPEN:
            self._fill_queue()
        protocol.keep()
        if protocol.has_news:
            self._after_input()

    def _enqueue(self, message: str | bytes) -> None:
        self._queue.append(message)
        self._queue_size += len(message)

    def _fill_queue(self) -> None:
        """Parse ahead of the view up to the bounds; above them, stop reading."""
        protocol = self._protocol
        while len(self._queue) < self._max_queue and self._queue_size < self._max_queue_size:
            message = protocol.next_message()
            if message is None:
                return
            self._enqueue(message)
        self._pause()

    def _after_input(self) -> None:
        """Send what parsing has left to say, and end if it found the end."""
        protocol = self._protocol
        protocol.has_news = False
        if protocol.output:
            self._flush_output()
        if protocol.pong is not None:
            self._take_pong(protocol.pong)
            protocol.pong = None
        if protocol.state is State.CLOSED:
            self._end()

    def _flush_output(self) -> None:
        """Write the protocol's own frames."""
        protocol = self._protocol
        data = b"".join(protocol.output)
        protocol.output.clear()
        if protocol.state is _OPEN and self._out_size >= self._max_send_buffer:
            return  # only Pongs, for a peer that reads nothing: it can do without them
        if self._reader is not None:
            if self._shared.dispatched is self and self._shared.cork:
                self._shared.cork.append(data)
                self._flush_cork()
            else:
                self._write(data)

    def _take_pong(self, payload: bytes) -> None:
        if self._ping is not None and payload == self._ping[0]:
            self._latency = perf_counter() - self._ping[1]
            self._ping = None

    def _resume_later(self) -> None:
        """Dispatch the input that was kept as soon as the loop has seen to the others."""
        if not self._resuming:
            self._resuming = True
            self._hub.loop.run_callback(self._resume)

    def _resume(self) -> None:
        self._resuming = False
        if self._reader is None or self._paused:
            return
        if self._protocol.has_input:
            self._dispatch()
        elif self._is_tls:
            self._on_readable()

    def _pause(self) -> None:
        """Stop reading: what the peer sends now stays in the kernel, and then with the peer."""
        if self._reader is None:
            return
        self._paused = True
        self._reader.stop()
        if self._hangup_timer is None:
            self._hangup_timer = self._hub.loop.timer(_HANGUP_INTERVAL, _HANGUP_INTERVAL)
            self._hangup_timer.start(self._check_hangup)

    def _unpause(self) -> None:
        """The queue is used up: fill it with what was kept, and read on if that is used up too."""
        self._paused = False
        if self._protocol.state is _OPEN:
            self._fill_queue()
            self._after_input()
        if not self._paused and self._reader is not None:
            self._stop_hangup_timer()
            self._reader.start(self._on_readable)
            if self._is_tls:
                self._resume_later()

    def _stop_hangup_timer(self) -> None:
        if self._hangup_timer is not None:
            self._hangup_timer.close()
            self._hangup_timer = None

    def _check_hangup(self) -> None:
        """Notice the end of a peer that is not read from."""
        poll = _poll()
        poll.register(self._sock.fileno(), _HANGUP)
        if poll.poll(0):
            self._lost()

    # ---------------------------------------------------------------- closing

    @property
    def closed(self) -> bool:
        """Whether the connection has ended or is about to: nothing can be sent any more.

        Turns true by itself when the peer closes or vanishes, even if nobody receives.
        """
        if not self._opened:
            self._open()
        return self._protocol.state is not _OPEN

    @property
    def close_code(self) -> int | None:
        """The code of the Close frame that came first, the peer's or ours; ``None`` while open.

        1005: the frame had no code. 1006: the connection was lost without a Close frame.
        """
        return self._protocol.close_code if self._opened else None

    @property
    def close_reason(self) -> str:
        """The reason that came with :attr:`close_code`."""
        return self._protocol.close_reason if self._opened else ""

    @property
    def latency(self) -> float | None:
        """How many seconds the latest Ping took to be answered; ``None`` before the first."""
        return self._latency if self._opened else None

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the connection (RFC 6455 section 7.1.2), from any greenlet, as often as you like.

        A greenlet in :meth:`receive` gets its ``None``. Blocks until the peer has answered, at
        most ``close_timeout`` seconds; then TCP is dropped. After the first close, no effect.

        :param code: 1000 to 1014 as far as they may be sent, or 3000 to 4999.
        :param reason: at most 123 bytes of UTF-8.
        :raises ValueError: for another code, or a longer reason.
        """
        if not self._opened:
            self._open()
        self._begin_close(code, reason)
        try:
            if self._reader is not None:
                if self._done is None:
                    self._done = Event()
                self._done.wait(self._options.close_timeout)
        finally:
            self._drop()

    def _begin_close(self, code: int, reason: str = "") -> None:
        """Send a Close frame and wake ``receive()``, without waiting for the peer."""
        protocol = self._protocol
        if protocol.state is not _OPEN:
            return
        protocol.close(code, reason)
        if self._paused:
            self._unpause()  # the peer's Close is somewhere behind what was not read
        self._after_input()
        self._wake()

    def _end(self) -> None:
        """Nothing more will be received: tell everybody who waits, and TCP."""
        if self._ended:
            return
        self._ended = True
        if self._paused:
            self._unpause()
        if not self._out:
            self._say_goodbye()
        self._wake()

    def _say_goodbye(self) -> None:
        """The last frame is out. The server closes TCP first, RFC 6455 section 7.1.1."""
        if self._reader is None:
            return
        protocol = self._protocol
        if protocol.is_client:
            return  # until the server closes, or close() has waited long enough
        try:
            if self._is_tls:
                self._send_close_notify()
            self._sock.shutdown(socket.SHUT_WR)
        except (OSError, ValueError):
            pass  # the peer was quicker
        if protocol.error is None:
            self._stop()
        # Else the peer may be sending still: to close now would answer it with a RST, and that
        # could overtake our Close frame. Read and discard until it stops.

    def _send_close_notify(self) -> None:
        """End TLS in good order, RFC 8446 section 6.1."""
        try:
            self._sock.unwrap()
        except (OSError, ValueError):
            pass  # the alert is out; the peer's own, for which unwrap() would wait, is not needed

    def _lost(self) -> None:
        """The peer has gone, cleanly or not."""
        self._protocol.connection_lost()
        self._ended = True
        self._stop()

    def _abort(self) -> None:
        """Drop a peer that does not read, and with it what the kernel holds for it."""
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # it has gone by itself
        self._lost()

    def _drop(self) -> None:
        """End the connection whatever its state; the descriptor stays its owner's to close."""
        if not self._opened:
            return
        self._lost()
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was quicker

    def _stop(self) -> None:
        """Let go of the loop, so that nothing here meets the descriptor's next owner."""
        if self._reader is None:
            return
        self._reader.stop()
        self._reader.close()
        self._reader = None
        if self._writer is not None:
            self._writer.stop()
            self._writer.close()
            self._writer = None
        self._stop_hangup_timer()
        self._out.clear()
        self._out_size = 0
        if self._shared.dispatched is self:
            self._shared.cork.clear()
            self._shared.cork_size = 0
        if self._done is not None:
            self._done.set()
        if self._room is not None:
            self._room.set()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None:
            self._hub.loop.run_callback(self._switch_to_waiter)

    def _switch_to_waiter(self) -> None:
        # By now it may have returned from receive(), and wait for something else.
        if self._waiter is not None:
            self._waiter.switch()

    def _closed_error(self) -> ConnectionClosed:
        protocol = self._protocol
        code = CloseCode.ABNORMAL_CLOSURE if protocol.close_code is None else protocol.close_code
        return ConnectionClosed(code, protocol.close_reason, by_peer=protocol.closed_by_peer)

    @property
    def _error(self) -> ProtocolError | None:
        """How the peer broke the protocol, if it did."""
        return self._protocol.error if self._opened else None


def _message(
    data: str | bytes | bytearray | memoryview, binary: bool | None
) -> tuple[int, bytes]:
    """The opcode and the payload for what ``send()`` was given."""
    if isinstance(data, str):
        return (_BINARY if binary else _TEXT), data.encode()
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
