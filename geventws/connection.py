"""A WebSocket on a gevent socket: bounds, waiting, closing; what is not the way of every message.

That way is in :mod:`geventws._core`, in Python and compiled; this is the common rest.
"""
from __future__ import annotations

import itertools
import select
import socket
import struct
from collections import deque
from sys import getsizeof
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

from gevent import getcurrent
from gevent.event import Event
from gevent.monkey import get_original
from gevent.timeout import Timeout

from ._core import MAX_RECORD, SLICE, WOULD_BLOCK, Transport
from .exceptions import ConnectionClosed
from .frames import MAX_CONTROL_PAYLOAD, CloseCode, Opcode, State, encode_text
from .progress import unacknowledged
from .protocol import Protocol
from .sweeper import sweeper_of
from .threads import call_in_hub, get_ident, is_running
from .totals import CLIENTS, Totals

if TYPE_CHECKING:
    from .options import Options

_OPEN = State.OPEN
_WRITE = 2
#: How often a connection that is not read from is asked whether the peer is still there.
_HANGUP_INTERVAL = 1.0
#: poll() reports a half-closed peer by POLLRDHUP, where there is one.
_HANGUP = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)
#: The one of the operating system: a patched one would wait in the hub.
_poll = get_original("select", "poll")
#: How often, within a time limit, a waiting greenlet looks whether the peer makes progress.
_LOOKS = 4
#: Below this size in bytes, pieces of output that wait are joined: an object for each would weigh
#: more than the bytes in it.
_SMALL = 4 << 10
#: The most buffers that one sendmsg() takes; IOV_MAX is 1024 or more on the systems gevent knows.
_MAX_VECTOR = 64
#: No two pings of this process are alike, so that a Pong tells which one it answers.
_ping_numbers = itertools.count()


class Connection(Transport):
    """One side of a connection in blocking style; see :class:`geventws.WebSocket`."""

    __slots__ = (
        "__weakref__", "_begun", "_done", "_due", "_ended", "_fault",
        "_gone", "_hangup_timer", "_latency", "_max_queue", "_max_queue_size", "_options", "_ping",
        "_ping_due", "_pinged", "_progress", "_progressed", "_queue_size", "_room", "_shut",
        "_slice_end", "_sweeper", "_writer",
    )

    _protocol: Protocol
    _totals: Totals
    _due: int

    def __init__(self, options: Options, totals: Totals = CLIENTS) -> None:
        super().__init__(totals)
        self._options = options
        self._sweeper = sweeper_of(self._hub)
        self._due = 0

    def _open(self) -> None:
        """Finish the opening handshake and :meth:`_attach`; called at the first use."""
        raise NotImplementedError

    def _attach(self, sock: Any, protocol: Protocol, early: bytes = b"") -> None:
        """Take over a gevent socket; ``early`` are the bytes that were read from it already."""
        options = self._options
        self._max_queue = options.max_queue
        self._max_queue_size = options.max_queue_size
        self._queue_size = 0
        #: When a greenlet that receives outside of a dispatch has to let the others run.
        self._slice_end = 0.0
        self._hangup_timer: Any = None
        self._writer: Any = None
        self._room: Event | None = None
        self._done: Event | None = None
        self._ended = False
        self._shut = False
        self._gone = False
        self._pinged = False
        self._begun: tuple[int, float] | None = None
        self._fault: str | None = None
        self._ping: tuple[bytes, float] | None = None
        self._latency: float | None = None
        #: How many bytes the peer had taken when it was last looked at, and when it was last seen
        #: to take any, by monotonic().
        self._progress = 0
        self._progressed = 0.0
        try:
            # Nagle's algorithm would hold small frames back for 40 ms.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass  # a unix socket has no such algorithm
        self._attach_transport(sock, protocol, options.max_send_buffer)
        self._ping_due = monotonic() + (options.ping_interval or 0)
        if not self._due:
            self._sweeper.add(self, options.check_interval)
        self._totals.opened += 1
        if early:
            self._totals.bytes_received += len(early)
            protocol.receive_data(early)
        if early or self._is_tls:
            # These bytes make no descriptor readable.
            self._resume_later()

    # -------------------------------------------------------------- receiving

    def _receive_within(self, timeout: float) -> str | bytes | None:
        if not self._opened:
            self._open()
        timer = Timeout.start_new(timeout, TimeoutError(f"no message within {timeout} seconds"))
        try:
            return self.receive()
        finally:
            timer.close()

    def _receive_at_hand(self) -> str | bytes | None:
        """The next message of the queue or of the input that was kept."""
        self._receives = True
        now = monotonic()
        if now >= self._slice_end:
            if self._slice_end:
                # Whatever is thrown in here, the message stays where it is.
                self._sweeper.let_others_run()
                now = monotonic()
            self._slice_end = now + SLICE
        if not self._queue:
            protocol = self._protocol
            message = self._next_message()
            if message is not None:
                self._totals.messages_received += 1
            if protocol.has_news:
                self._after_input()
            return message
        queued = self._queue.popleft()
        self._queue_size -= getsizeof(queued)
        if not self._queue:
            self._queue = None
            self._queue_size = 0
            if self._paused:
                self._unpause()
        return queued

    def _next_message(self) -> str | bytes | None:
        try:
            return self._protocol.next_message()
        except BaseException:
            self._abort()
            raise

    def _tell_end(self) -> None:
        """``None`` once, then :exc:`ConnectionClosed`."""
        if self._end_told:
            raise self._closed_error()
        self._end_told = True

    # ---------------------------------------------------------------- sending

    def ping(self, data: str | bytes = b"") -> None:
        """Send a Ping with up to 125 bytes (RFC 6455 section 5.5.2); does not wait for the Pong.

        :attr:`latency` tells how long the Pong took, once it is there.

        :raises ConnectionClosed: when the connection has ended.
        :raises ValueError: for more than 125 bytes, or a ``str`` with a lone surrogate.
        """
        if get_ident() != self._thread:
            call_in_hub(self._hub, self.ping, data)
            return
        if not self._opened:
            self._open()
        protocol = self._protocol
        payload = encode_text(data, "a Ping") if isinstance(data, str) else bytes(memoryview(data))
        if len(payload) > MAX_CONTROL_PAYLOAD:
            raise ValueError(f"a Ping carries at most {MAX_CONTROL_PAYLOAD} bytes")
        if protocol.state is not _OPEN:
            raise self._closed_error()
        self._send_ping(payload)

    def _send_ping(self, payload: bytes) -> None:
        self._ping = payload, perf_counter()
        self._totals.pings_sent += 1
        self._transmit(self._protocol.encode(Opcode.PING, payload))

    def _check(self) -> float | None:
        """What a peer must do in time; in the hub, every now and then (see :class:`Sweeper`)."""
        options = self._options
        if self._protocol.state is not _OPEN:
            return self._check_closing()
        now = monotonic()
        if options.message_timeout is not None and self._is_overdue(now, options.message_timeout):
            self._fault = f"did not finish a message within {options.message_timeout:g} seconds"
            self._begin_close(CloseCode.POLICY_VIOLATION, "message timeout")
            return self._check_closing()
        if options.ping_interval is not None and now >= self._ping_due:
            delay = self._check_life()
            if delay is None:
                return None
            self._ping_due = now + delay
        if options.ping_interval is None:
            return options.check_interval
        return min(options.check_interval, self._ping_due - now)

    def _check_closing(self) -> float | None:
        """Nobody has called close(): let the peer go as close() would."""
        left = self._options.close_timeout - self._stalled_for()
        if left <= 0:
            self._give_up_closing()
            return None
        return left

    def _abandon(self) -> None:
        """In a child process: take nothing from the peer that is meant for the parent."""
        self._stop_reading()

    def _is_overdue(self, now: float, timeout: float) -> bool:
        """Whether the peer has begun a message, or a frame, and not finished it in time."""
        if self._paused or self._resuming:
            return False  # it is up to us
        number = self._protocol.unfinished()
        if not number:
            self._begun = None
        elif self._begun is None or self._begun[0] != number:
            self._begun = number, now
        else:
            return now - self._begun[1] >= timeout
        return False

    def _check_life(self) -> float | None:
        """Keepalive: whatever comes from the peer is a sign of life, and silence is asked about."""
        options = self._options
        if self._heard or (self._paused and self._pinged and not unacknowledged(self._sock)):
            # The Pong of a peer that is not read from is not seen, but that it has got the Ping.
            self._heard = self._pinged = False
            return options.ping_interval
        if not self._pinged:
            self._pinged = True
            self._send_ping(next(_ping_numbers).to_bytes(8, "big"))
            self._watch_progress()
            return options.ping_timeout
        left = options.ping_timeout - self._stalled_for()
        if left > 0:
            return left  # it reads what was sent before the Ping
        self._give_up(
            f"did not answer a ping within {options.ping_timeout:g} seconds",
            "keepalive ping timeout",
        )
        return None

    def _queue_output(self, data: bytes | memoryview) -> None:
        """Let bytes wait until the kernel has room for them."""
        size = len(data)
        if self._out is None:
            self._out = deque()
            self._watch_progress()
        last = self._out[-1] if self._out else None
        if size >= _SMALL:
            self._out.append(data)
        elif isinstance(last, bytearray) and len(last) < _SMALL:
            last += data
        else:
            self._out.append(bytearray(data))
        self._out_size += size
        if self._writer is None:
            self._writer = self._hub.loop.io(self._sock.fileno(), _WRITE)
        if not self._writer.active:
            self._writer.start(self._on_writable)

    def _on_writable(self) -> None:
        """Write what is waiting; in the hub."""
        try:
            self._write_waiting()
        except BaseException:
            self._abort()
            raise

    def _write_waiting(self) -> None:
        try:
            while self._out:
                if self._is_tls:
                    # OpenSSL wants to see the same bytes again after it refused them. Of more than
                    # a record it would not tell how much it has sent.
                    sent = self._send(memoryview(self._out[0])[:MAX_RECORD])
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
        except WOULD_BLOCK:
            pass
        except OSError:
            self._lost()
            return
        if not self._out:
            self._out = None
            self._writer.stop()
            if self._ended:
                self._say_goodbye()
        if self._room is not None and self._out_size <= self._max_send_buffer // 2:
            self._room.set()

    def _wait_for_room(self) -> None:
        """Block while the send buffer is full and the peer reads; drop a peer that does not.

        In a callback of the event loop, which must not wait, this returns at once.
        """
        if getcurrent() is self._hub:
            return
        protocol = self._protocol
        if self._room is None:
            self._room = Event()
        timeout = self._options.send_timeout
        left = None
        while self._out_size >= self._max_send_buffer and protocol.state is _OPEN:
            if timeout is not None:
                left = min(timeout - self._stalled_for(), timeout / _LOOKS)
            if left is not None and left <= 0:
                self._totals.slow_consumers_dropped += 1
                self._give_up(f"did not read for {timeout:g} seconds", "send timeout")
            else:
                self._room.clear()
                self._room.wait(left)
        if protocol.state is not _OPEN:
            raise self._closed_error()

    # --------------------------------------------------------------- progress

    def _watch_progress(self) -> None:
        """Let :meth:`_stalled_for` count from now on."""
        self._progress = self._taken()
        self._progressed = monotonic()

    def _stalled_for(self) -> float:
        """For how many seconds the peer has not been seen to take anything of what was sent."""
        now = monotonic()
        taken = self._taken()
        if taken > self._progress:
            self._progressed = now
        self._progress = taken
        return now - self._progressed

    def _taken(self) -> int:
        """How many bytes have arrived at the peer.

        A slow peer frees a part of the kernel's buffer long before there is room for more.
        """
        return self._written - self._out_size - unacknowledged(self._sock)

    # ------------------------------------------------------------ in the hub

    def _enqueue(self, message: str | bytes) -> None:
        if self._queue is None:
            self._queue = deque()
        self._queue.append(message)
        self._queue_size += getsizeof(message)

    def _fill_queue(self) -> None:
        """Parse ahead of the view up to the bounds; above them, stop reading."""
        protocol = self._protocol
        if protocol.state is not _OPEN:
            self._next_message()  # looks for the peer's Close and discards the rest
            return
        while len(self._queue or ()) < self._max_queue and self._queue_size < self._max_queue_size:
            message = self._next_message()
            if message is None:
                return
            self._totals.messages_received += 1
            self._enqueue(message)
        self._pause()

    def _after_input(self) -> None:
        """Send what parsing has left to say, and end if it found the end."""
        protocol = self._protocol
        protocol.has_news = False
        if protocol.interrupted:
            protocol.interrupted = False
            self._resume_later()
        frames = protocol.take_output()
        # A peer that reads nothing can do without Pongs.
        if frames and (protocol.state is not _OPEN or self._out_size < self._max_send_buffer):
            self._transmit_now(frames)
        if protocol.pong is not None:
            self._take_pong(protocol.pong)
            protocol.pong = None
        if protocol.state is State.CLOSED:
            self._end()

    def _take_pong(self, payload: bytes) -> None:
        if self._ping is not None and payload == self._ping[0]:
            self._latency = perf_counter() - self._ping[1]
            self._totals.pongs_received += 1
            self._ping = None
            if self._pinged and self._options.ping_interval is not None:
                # Keepalive has its answer, and need not wait until it is due.
                self._pinged = self._heard = False
                self._ping_due = monotonic() + self._options.ping_interval

    def _resume_later(self) -> None:
        """Dispatch the input that was kept as soon as the loop has seen to the others."""
        if not self._resuming:
            self._resuming = True
            self._sweeper.next_turn(self._resume)

    def _resume(self) -> None:
        self._resuming = False
        if not self._attached or self._paused:
            return
        if self._protocol.has_input:
            try:
                self._dispatch()
                self._resume_pending()
            except BaseException:
                self._abort()
                raise
        elif self._is_tls:
            self._on_readable()

    def _resume_pending(self) -> None:
        """Read on soon if OpenSSL holds bytes back: these make no descriptor readable."""
        if self._is_tls and self._attached and not self._paused and self._sock.pending():
            self._resume_later()

    def _pause(self) -> None:
        """Stop reading: what the peer sends now stays in the kernel, and then with the peer."""
        if not self._attached:
            return
        self._paused = True
        self._stop_reading()
        if self._hangup_timer is None:
            self._hangup_timer = self._hub.loop.timer(_HANGUP_INTERVAL, _HANGUP_INTERVAL)
            self._hangup_timer.start(self._check_hangup)

    def _unpause(self) -> None:
        """The queue is used up: fill it with what was kept, and read on if that is used up too."""
        self._paused = False
        self._fill_queue()
        if self._protocol.has_news:
            self._after_input()
        if not self._paused and self._attached:
            self._stop_hangup_timer()
            self._start_reading()
            if self._is_tls:
                self._resume_later()

    def _stop_hangup_timer(self) -> None:
        if self._hangup_timer is not None:
            self._hangup_timer.close()
            self._hangup_timer = None

    def _check_hangup(self) -> None:
        """Notice the end of a peer that is not read from."""
        poll = _poll()
        try:
            poll.register(self._sock.fileno(), _HANGUP)
            has_gone = poll.poll(0)
        except (OSError, ValueError):
            has_gone = True  # somebody has closed the socket
        if has_gone:
            # What it has sent before is still to be received.
            self._gone = True
            self._stop_hangup_timer()

    # ---------------------------------------------------------------- closing

    @property
    def closed(self) -> bool:
        """Whether the connection has ended or is about to: nothing can be sent any more.

        Turns true by itself when the peer closes or vanishes, even if nobody receives. Who does
        receive gets all that the peer has sent first, so that
        ``while not ws.closed: ws.receive()`` loses nothing.
        """
        if not self._opened:
            self._open()
        if not self._has_ended:
            return False
        by_peer = self._gone or self._protocol.closed_by_peer
        return not (by_peer and self._receives and self._queue)

    @property
    def _has_ended(self) -> bool:
        return self._gone or self._protocol.state is not _OPEN

    @property
    def close_code(self) -> int | None:
        """The code of the Close frame that came first, the peer's or ours; ``None`` while open.

        1005: the frame had no code. 1006: the connection was lost without a Close frame.
        """
        if not self._opened:
            return None
        code = self._protocol.close_code
        return CloseCode.ABNORMAL_CLOSURE if code is None and self._gone else code

    @property
    def close_reason(self) -> str:
        """The reason that came with :attr:`close_code`."""
        return self._protocol.close_reason if self._opened else ""

    @property
    def latency(self) -> float | None:
        """How many seconds the latest Ping took to be answered; ``None`` before the first."""
        return self._latency if self._opened else None

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the connection (RFC 6455 section 7.1.2), from any greenlet or thread, repeatedly.

        A greenlet in :meth:`receive` gets its ``None``. What :meth:`send` has accepted is delivered
        first, as long as the peer reads. Blocks until the peer has answered; when it has neither
        answered nor read anything for ``close_timeout`` seconds, TCP is dropped. After the first
        close, no effect.

        :param code: 1000 to 1014 as far as they may be sent, or 3000 to 4999.
        :param reason: at most 123 bytes of UTF-8.
        :raises ValueError: for another code, a longer reason, or one with a lone surrogate.
        """
        if get_ident() != self._thread:
            if is_running(self._hub):
                call_in_hub(self._hub, self.close, code, reason)
            elif self._opened:
                self._drop()
            return
        if not self._opened:
            self._open()
        self._begin_close(code, reason)
        try:
            self._wait_for_end()
        finally:
            self._drop()

    def _wait_for_end(self) -> None:
        """Block until the peer has closed, too, or has stopped to read."""
        timeout = self._options.close_timeout
        if self._done is None:
            self._done = Event()
        while self._attached:
            left = timeout - self._stalled_for()
            if left <= 0:
                self._give_up_closing()
            else:
                self._done.wait(min(left, timeout / _LOOKS))

    def _give_up_closing(self) -> None:
        """Drop a peer that has not answered our Close frame in time."""
        if self._out:
            self._totals.slow_consumers_dropped += 1
            self._fault = self._fault or (
                f"did not read for {self._options.close_timeout:g} seconds while closing;"
                f" {self._out_size} bytes were not delivered"
            )
        self._drop()

    def _begin_close(self, code: int, reason: str = "") -> None:
        """Send a Close frame and wake ``receive()``, without waiting for the peer."""
        protocol = self._protocol
        if protocol.state is not _OPEN:
            return
        protocol.close(code, reason)
        self._watch_progress()
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
        if self._attached:
            self._watch_progress()
        self._wake()

    def _say_goodbye(self) -> None:
        """The last frame is out. The server closes TCP first, RFC 6455 section 7.1.1."""
        if not self._attached:
            return
        protocol = self._protocol
        if protocol.is_client:
            return  # until the server closes, or close() has waited long enough
        try:
            if self._is_tls:
                self._send_close_notify()
            # A peer that has closed, too, has nothing more to say.
            self._sock.shutdown(socket.SHUT_RDWR if protocol.close_received else socket.SHUT_WR)
        except OSError:
            pass  # the peer was quicker
        if protocol.close_received:
            self._stop()
            self._shut = True
        # Else the peer may be sending still: to close now would answer it with a RST, and that
        # could overtake our Close frame. Read and discard until it stops.

    def _send_close_notify(self) -> None:
        """End TLS in good order, RFC 8446 section 6.1."""
        try:
            self._sock.unwrap()
        except (OSError, ValueError):
            pass  # the alert is out; the peer's own, for which unwrap() would wait, is not needed

    def _receive_eof(self) -> None:
        """The peer has shut its side down: it sends nothing more."""
        if self._out and self._protocol.close_received:
            self._stop_reading()  # it may still read what was sent before its Close frame
            return
        if self._out:
            self._fault = self._fault or (
                f"closed the connection; {self._out_size} bytes were not delivered"
            )
        if self._is_tls:
            self._send_close_notify()
        self._lost()

    def _lost(self) -> None:
        """The peer has gone, cleanly or not."""
        self._protocol.connection_lost()
        self._ended = True
        self._stop()

    def _abort(self) -> None:
        """Drop the connection after an exception that is nobody's fault but ours.

        What is left of its input may lie in a buffer that the connections of the hub share.
        """
        self._protocol._discard_input()
        self._protocol.keep()
        self._drop()

    def _disown(self) -> None:
        """Somebody else has closed our descriptor: let go, and do not touch it any more."""
        self._shut = True
        self._lost()

    def _give_up(self, fault: str, reason: str) -> None:
        """Drop a peer that is of no use any more, and with it what the kernel holds for it."""
        self._fault = fault
        self._protocol.close(CloseCode.INTERNAL_ERROR, reason)
        self._protocol.take_output()  # it would not arrive
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # it has gone by itself
        self._lost()

    def _drop(self) -> None:
        """End the connection whatever its state; the descriptor stays its owner's to close."""
        if not self._opened or (self._shut and not self._attached):
            return
        self._lost()
        if not self._shut:
            self._shut = True
            try:
                self._sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the peer was quicker

    def _stop(self) -> None:
        """Let go of the loop, so that nothing here meets the descriptor's next owner."""
        if self._attached:
            self._detach()
        if is_running(self._hub):
            self._stop_hangup_timer()
            if self._writer is not None:
                self._writer.close()
        self._writer = None
        self._sweeper.remove(self)
        self._out = None
        self._out_size = 0
        if self._done is not None:
            self._done.set()
        if self._room is not None:
            self._room.set()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and is_running(self._hub):
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
    def _complaint(self) -> str | None:
        """What the log should say of the peer."""
        if not self._opened:
            return None
        error = self._protocol.error
        if error is not None:
            return f"broke the protocol: {error}; closed with {error.close_code}"
        return self._fault

