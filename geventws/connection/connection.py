"""The upper half of a connection: start, end, deadlines, and full buffers.

The path of every message is in :mod:`geventws.connection.transport_py`. One object holds both
halves. The transport lists the methods of this module that it calls.
"""

from __future__ import annotations

import functools
import socket
import sys
from _socket import socket as _new_socket  # not the one that gevent replaces
from collections.abc import Callable
from os import urandom
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from gevent import getcurrent
from gevent.event import Event
from gevent.socket import socket as gevent_socket

from ..exceptions import WebSocketError
from ..protocol.endpoint import Endpoint
from ..protocol.frames import (
    MAX_CONTROL_PAYLOAD,
    MESSAGE_TIMEOUT,
    CloseCode,
    Opcode,
    close_payload,
    encode_text,
)
from ..protocol.server_handshake import VERSION
from ..protocol.state import State
from .counters import CLIENTS, Totals
from .hub import hub_state
from .keepalive import Keepalive, Progress
from .lifecycle import TCP, End
from .queues import LostOutput, ReceiveQueue, SendBuffer
from .tcp import MAX_RECORD, disable_nagle, has_hung_up, reset_at_close, unacknowledged
from .threads import call_in_hub, get_ident, is_running
from .transport import SLICE, WOULD_BLOCK, Transport, seconds_of

if TYPE_CHECKING:
    from gevent._types import _TimerWatcher

    from ..options import Options
    from ..protocol.permessage_deflate import PerMessageDeflate

Result = TypeVar("Result")

# Looking up a member of an enum takes ten times as long as a global.
_PENDING = State.PENDING
_OPEN = State.OPEN
_DRAINING = State.DRAINING
_CLOSED = State.CLOSED
_COMPLETE = End.COMPLETE
_EOF = End.EOF
_DROPPED = End.DROPPED
_FAULT = End.FAULT
_DISOWNED = TCP.DISOWNED
_RESET = TCP.RESET
_WRITE = 2
#: Seconds between two checks for a hang-up of the peer while reading is paused.
_HANGUP_INTERVAL = 1.0
#: The number of checks of the peer's progress within one time limit.
_PROGRESS_CHECKS = 4


def _ends_connection(method: Callable[[Connection], Result]) -> Callable[[Connection], Result]:
    """Decorate a method: an unexpected exception ends the connection, and is raised again."""

    @functools.wraps(method)
    def guarded(self: Connection) -> Result:
        try:
            return method(self)
        except BaseException:
            self._end(_FAULT)
            raise

    return guarded


class Closeable(Protocol):
    """An object that ends with a connection, such as a subscription."""

    def close(self) -> None:
        """Never blocks."""


class Buffered(NamedTuple):
    """The messages and bytes that a connection buffers."""

    #: Received messages that the view has not taken, and their bytes of memory.
    messages: int
    received: int
    #: Sent bytes that wait for room in the kernel.
    unsent: int


class Connection(Transport):
    """One side of a connection in blocking style; see :class:`geventws.WebSocket`.

    Other modules of this package may call only the private methods of the section
    "internal interface".
    """

    __slots__ = (
        "_at_end",
        "_done",
        "_due",
        "_extensions",
        "_fault",
        "_hangup_timer",
        "_hung_up",
        "_id",
        "_is_detached",
        "_keepalive",
        "_on_close",
        "_options",
        "_owns_socket",
        "_paused",
        "_progress",
        "_send_buffer",
        "_slice_end",
        "_subprotocol",
        "_sweeper",
    )

    _totals: Totals

    def __init__(self, options: Options, *, client: bool, totals: Totals = CLIENTS) -> None:
        hub = hub_state()
        super().__init__(Endpoint(client), hub.buffers, totals)
        self._options = options
        self._sweeper = hub.sweeper
        #: The tick of the sweeper's next check of this connection; 0 if there is none.
        self._due = 0
        self._keepalive: Keepalive | None = None
        #: Why the connection was dropped, for the log.
        self._fault: str | None = None
        #: The progress of the peer; None while it is not measured.
        self._progress: Progress | None = None
        #: Set when TCP has ended, or the peer has hung up while reading was paused. None until a
        #: greenlet waits in close() or wait_closed().
        self._done: Event | None = None
        #: Whether reading has stopped because the queue is full.
        self._paused = False
        self._hangup_timer: _TimerWatcher | None = None
        #: Whether the peer has hung up while input was left to read.
        self._hung_up = False
        #: The time at which a greenlet that receives outside a dispatch must let others run.
        self._slice_end = 0.0
        self._send_buffer: SendBuffer | None = None
        #: Whether the socket is closed when the connection has ended. A server closes its own.
        self._owns_socket = False
        #: Whether callbacks get the messages and the end, and the callback for the end.
        self._is_detached = False
        self._on_close: Callable[[Any], object] | None = None
        #: Objects to close when the connection has ended; ``None`` without any.
        self._at_end: list[Closeable] | None = None
        self._subprotocol: str | None = None
        self._extensions = ""
        self._id = ""

    def _start(self, sock: Any, extension: PerMessageDeflate | None, early: bytes = b"") -> None:
        """Take over a socket after the opening handshake.

        :param sock: a gevent socket; or a DirectSocket, which this connection closes.
        :param early: bytes after the handshake that were already read from the socket.
        """
        options = self._options
        disable_nagle(sock)
        if not isinstance(sock, gevent_socket):
            self._owns_socket = True
        try:
            self._attach(sock)
        except BaseException:
            # The system may have no resources to watch the descriptor.
            self._detach()
            if self._owns_socket:
                sock.close()
            raise
        self._endpoint.open(options.max_message_size, extension)
        self._keepalive = Keepalive(monotonic() + (options.ping_interval or 0))
        if not self._due:
            self._sweeper.add(self, options.check_interval)
        self._totals.opened += 1
        if early:
            self._totals.bytes_received += len(early)
            self._endpoint.receive_data(early)
        if early or self._is_tls:
            # The event loop does not report these bytes: they are not in the kernel.
            self._resume_later()

    # ------------------------------------------------------------- public state

    @property
    def closed(self) -> bool:
        """Whether the connection has ended or is ending: nothing can be sent any more.

        Changes to true when the peer closes or vanishes, even if no greenlet receives. For a view
        that receives, it stays false until the view has taken all messages of the peer, so that
        ``while not ws.closed: ws.receive()`` loses none. False before the opening handshake is
        finished. Reading this attribute does not send the ``101``.
        """
        if not self._is_ending:
            return False
        by_peer = self._hung_up or self._endpoint.closed_by_peer
        if not (by_peer and self._receives):
            return True
        # Of a peer that has hung up, the kernel may hold more messages until it reports the end.
        return self._received is None and self._endpoint.state is not _OPEN

    @property
    def close_code(self) -> int | None:
        """The code of the first Close frame, from either side; ``None`` while open.

        1005: the frame had no code. 1006: the connection was lost without a Close frame.
        """
        code = self._endpoint.close_code
        return CloseCode.ABNORMAL_CLOSURE if code is None and self._hung_up else code

    @property
    def close_reason(self) -> str:
        """The reason that came with :attr:`close_code`."""
        return self._endpoint.close_reason

    @property
    def id(self) -> str:
        """16 random hexadecimal digits that identify the connection, also in geventws' log."""
        if not self._id:
            self._id = urandom(8).hex()
        return self._id

    @property
    def latency(self) -> float | None:
        """Seconds from the latest answered Ping to its Pong; ``None`` before the first."""
        return None if self._keepalive is None else self._keepalive.latency

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the server has chosen; ``None`` without one."""
        return self._subprotocol

    @property
    def extensions(self) -> str:
        """The negotiated extensions: permessage-deflate with its parameters, or empty."""
        return self._extensions

    @property
    def version(self) -> str:
        """The version of the WebSocket protocol: ``"13"``."""
        return VERSION

    # ------------------------------------------------------- internal interface

    @property
    def _is_ending(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._hung_up or self._endpoint.state > _OPEN

    def _start_close(self, code: int, reason: str = "") -> None:
        """Send a Close frame and wake ``receive()``, without waiting for the peer."""
        endpoint = self._endpoint
        if endpoint.state is not _OPEN:
            return
        if self._is_output_lost:
            self._end(End.ERROR)
            return
        endpoint.close(code, reason)
        self._watch_progress()
        if self._paused:
            self._continue_reading()  # the peer's Close frame follows unread messages
        self._input_parsed()
        self._wake()
        self._check_after_close_timeout()

    def _send_frames(self, frames: bytes) -> None:
        """Write complete frames that the caller has built."""
        self._transmit(frames)

    def _drop(self) -> None:
        """End the connection now, in any state. The server closes the descriptor."""
        state = self._endpoint.state
        if state is _PENDING:
            self._refuse()
        elif state is not _CLOSED:
            self._end(_DROPPED)

    def _refuse(self, lost_by_peer: bool | None = None) -> None:
        """End the connection before the opening handshake is finished.

        :param lost_by_peer: if TCP was lost, whether the peer ended it; else ``None``.
        """
        self._end_reported = True
        self._endpoint.refuse(lost_by_peer)
        self._sweeper.remove(self)
        if self._done is not None:
            self._done.set()
        if self._at_end is not None:
            self._close_dependents_later()

    def _has_id(self, id_: str | None) -> bool:
        """Whether :attr:`id` is this one. Creates no id."""
        return self._id == id_

    def _drop_slow_consumer(self, fault: str) -> None:
        """Close with 1013, without waiting: the peer reads too slowly."""
        self._fault = fault
        self._totals.slow_consumers_dropped += 1
        self._start_close(CloseCode.TRY_AGAIN_LATER, "too slow")

    def _note_gap(self) -> None:
        """Count that messages of a Broadcast were missed."""
        self._totals.broadcast_gaps += 1

    def _drop_incomplete(self) -> None:
        """Close with 1013, without waiting: messages of a Broadcast were missed."""
        self._start_close(CloseCode.TRY_AGAIN_LATER, "messages missed")

    def _close_at_end(self, dependent: Closeable) -> None:
        """Close an object when the connection has ended, in the hub: ``close()`` must not block."""
        if self._at_end is None:
            self._at_end = [dependent]
        else:
            self._at_end.append(dependent)
        if self._endpoint.state is _CLOSED:
            self._close_dependents_later()

    def _do_not_close_at_end(self, dependent: Closeable) -> None:
        """Undo :meth:`_close_at_end`."""
        if self._at_end is not None and dependent in self._at_end:
            self._at_end.remove(dependent)
            if not self._at_end:
                self._at_end = None

    def _close_dependents_later(self) -> None:
        """Not at once: this may be called while a message is sent to many connections."""
        if is_running(self._hub):
            self._hub.loop.run_callback(self._close_dependents)

    def _close_dependents(self) -> None:
        dependents, self._at_end = self._at_end, None
        for dependent in dependents or ():
            try:
                dependent.close()
            except Exception:  # noqa: BLE001 - the next one must still be closed
                self._hub.handle_error(dependent, *sys.exc_info())

    @property
    def _buffered(self) -> Buffered:
        received = self._received
        return Buffered(
            0 if received is None else len(received),
            0 if received is None else received.size,
            0 if self._output is None else self._output.size,
        )

    @property
    def _send_limit(self) -> int:
        """The maximum number of bytes that may wait for the peer."""
        return self._options.max_send_buffer

    @property
    def _fault_of_peer(self) -> str | None:
        """The fault of the peer, for the log; None without a fault."""
        error = self._endpoint.error
        if error is not None:
            return f"broke the protocol: {error}; closed with {error.close_code}"
        return self._fault

    # --------------------------------------------------------------------- JSON

    # Any: JSON, and what the option ``json`` makes of it.
    def send_json(self, value: Any, *, compress: bool = True) -> None:
        """Send a value as JSON in a text message. In all else as :meth:`send`.

        The option ``json`` replaces the encoder.

        :raises TypeError: if the value cannot be encoded.
        :raises ValueError: for NaN and Infinity, which are not JSON.
        """
        text = self._options.json.dumps(value)
        # Bytes, as orjson returns them, are sent as text, too.
        self.send(text, binary=None if isinstance(text, str) else False, compress=compress)

    def receive_json(self, timeout: float | None = None) -> Any:
        """Block until the next message and return the value of its JSON.

        At the end, raises :exc:`ConnectionClosed`: ``None`` is the value of ``null``. In all else
        as :meth:`receive`::

            while True:
                request = ws.receive_json()  # the exception at the end may leave the view

        A message that is not JSON closes the connection with 1007, and a binary message with 1003.
        To answer such messages instead, call :meth:`receive`, and decode them yourself.

        :param timeout: in seconds; ``None`` waits without a limit.
        :raises TimeoutError: when no message arrived in time.
        :raises ConnectionClosed: when the connection has ended, whichever side ended it, and for a
            message that is not JSON text.
        :raises TypeError: if the timeout is not a number.
        :raises ValueError: if the timeout is NaN.
        """
        message = self.receive(timeout)
        if isinstance(message, str):
            try:
                return self._options.json.loads(message)
            except (ValueError, RecursionError) as problem:  # RecursionError: deeply nested
                self._refuse_message(CloseCode.INVALID_PAYLOAD, "not JSON")
                raise self._closed_error() from problem
        if message is not None:
            self._refuse_message(CloseCode.UNSUPPORTED_DATA, "not a text message")
        raise self._closed_error()

    def _refuse_message(self, code: int, fault: str) -> None:
        """Close the connection without waiting: a message of the peer has the wrong type."""
        self._fault = f"sent a message that is {fault}; closed with {code}"
        self._start_close(code, fault)

    # ---------------------------------------------------------------- receiving

    def _open(self) -> None:
        raise NotImplementedError

    def _end_of_iteration(self) -> Exception:
        return StopIteration()

    def _closed_error(self) -> WebSocketError:
        return self._endpoint.closed_error(lost_by_peer=self._hung_up)

    def _receive_parsed(self) -> str | bytes | None:
        self._receives = True
        now = monotonic()
        if now >= self._slice_end:
            if self._slice_end:
                # An exception that is thrown into the greenlet here loses no message.
                self._sweeper.let_others_run()
                now = monotonic()
            self._slice_end = now + SLICE
        received = self._received
        if received is not None:
            message: str | bytes | None = received.take()
            if not received:
                self._received = None
                if self._paused:
                    self._continue_reading()
            return message
        endpoint = self._endpoint
        message = self._next_message()
        if message is not None:
            self._totals.messages_received += 1
            self._messages_received += 1
        if endpoint.has_news:
            self._input_parsed()
        return message

    @_ends_connection
    def _next_message(self) -> str | bytes | None:
        return self._endpoint.next_message()

    def _parse_ahead(self, message: str | bytes | None = None) -> None:
        if self._is_detached and self._on_message is None and not self._busy:
            while self._next_message() is not None:
                self._totals.messages_received += 1
                self._messages_received += 1
            return
        if message is not None:
            self._queue(message)
        if self._endpoint.state is not _OPEN:
            self._next_message()  # finds the peer's Close frame, and discards all other frames
            return
        while self._received is None or not self._received.is_full:
            message = self._next_message()
            if message is None:
                return
            self._totals.messages_received += 1
            self._messages_received += 1
            self._queue(message)
        self._pause_reading()

    def _queue(self, message: str | bytes) -> None:
        if self._received is None:
            self._received = ReceiveQueue(self._options)
        self._received.put(message)
        if self._is_detached and not self._busy:
            self._resume_later()  # another greenlet than a callback's has received before

    def _input_parsed(self) -> None:
        endpoint = self._endpoint
        endpoint.has_news = False
        if endpoint.interrupted:
            endpoint.interrupted = False
            self._resume_later()
        frames = endpoint.take_output()
        # Drop Pongs while the send buffer is full: they would grow it without limit.
        is_full = self._output is not None and self._output.is_full
        if frames and (endpoint.state is not _OPEN or not is_full):
            self._transmit_now(frames)
        if endpoint.pong is not None:
            self._take_pong(endpoint.pong)
            endpoint.pong = None
        if endpoint.state is _DRAINING:
            self._drain_output()

    # ------------------------------------------------------- pausing and resuming

    def _pause_reading(self) -> None:
        """The queue is full: stop reading, so that TCP makes the peer wait."""
        if self._paused or self._endpoint.state is _CLOSED:
            return
        self._paused = True
        self._stop_reading()
        if self._hangup_timer is None:
            self._hangup_timer = self._hub.loop.timer(_HANGUP_INTERVAL, _HANGUP_INTERVAL)
            self._hangup_timer.start(self._check_hangup)

    def _continue_reading(self) -> None:
        """The queue is empty: parse the kept input, then read from the socket again."""
        self._paused = False
        self._parse_ahead()
        if self._endpoint.has_news:
            self._input_parsed()
        if not self._paused and self._endpoint.state is not _CLOSED:
            self._stop_hangup_timer()
            try:
                self._start_reading()
            except OSError:
                self._end(End.DESCRIPTOR)  # other code has closed it meanwhile
                return
            if self._is_tls:
                self._resume_later()

    def _check_hangup(self) -> None:
        if has_hung_up(self._sock):
            self._note_hangup()

    def _note_hangup(self) -> None:
        """The peer has hung up. Messages that it has sent before are still received."""
        self._hung_up = True
        self._stop_hangup_timer()
        if self._done is not None:
            self._done.set()

    def _stop_hangup_timer(self) -> None:
        if self._hangup_timer is not None:
            self._hangup_timer.close()
            self._hangup_timer = None

    def _resume_later(self) -> None:
        if not self._resuming:
            self._resuming = True
            self._sweeper.next_turn(self._resume)

    @_ends_connection
    def _resume(self) -> None:
        self._resuming = False
        endpoint = self._endpoint
        if self._is_detached and not self._busy and self._waiter is None:
            self._resume_callbacks()
        elif endpoint.has_input and not self._paused and endpoint.state is not _CLOSED:
            self._dispatch()
        if self._is_tls and not self._paused and self._endpoint.state is not _CLOSED:
            self._on_readable()  # the loop does not report input that OpenSSL holds

    # ---------------------------------------------------------------- callbacks

    def _resume_callbacks(self) -> None:
        """Call the callbacks for what is at hand: messages, or the end of the connection."""
        is_closed = self._endpoint.state is _CLOSED
        if self._on_message is not None or (is_closed and self._on_close is not None):
            hub_state().buffers.pool.run(self)
        elif is_closed:
            self._finish()
        else:
            self._received = None
            if self._paused:
                self._continue_reading()
            elif self._endpoint.has_input:
                self._dispatch()

    def _release_from_server(self) -> None:
        """Take the socket away from the server, which would close it."""
        if self._owns_socket:
            return
        sock = self._sock
        if self._is_tls:
            sock._io_refs += 1  # close() has no effect before _end_tcp()
        else:
            family, kind, protocol = sock.family, sock.type, sock.proto
            self._replace_socket(_new_socket(family, kind, protocol, sock.detach()))
        self._owns_socket = True

    # ------------------------------------------------------------------ sending

    def _queue_output(self, data: bytes | memoryview) -> None:
        if self._output is None:
            if self._send_buffer is None:
                descriptor = self._sock.fileno()
                if descriptor < 0:
                    self._end(End.DESCRIPTOR)  # other code has closed it
                    return
                watcher = self._hub.loop.io(descriptor, _WRITE)
                self._send_buffer = SendBuffer(self._options.max_send_buffer, watcher)
            self._output = self._send_buffer
            self._watch_progress()
            self._send_buffer.watcher.start(self._on_writable)
            self._output.append(data)
            if self._is_tls and len(data) > MAX_RECORD:
                self._on_writable()  # these data were not passed to the socket yet
        else:
            self._output.append(data)

    @_ends_connection
    def _on_writable(self) -> None:
        output = self._output
        if output is None:
            return
        try:
            output.write_to(self._raw, self._is_tls)
        except WOULD_BLOCK:
            pass
        except OSError:
            self._output_failed()
            return
        if not output.size:
            self._output = None
            output.watcher.stop()
            if self._endpoint.state is _DRAINING:
                self._finish_output()

    def _wait_for_room(self) -> None:
        """Block while the send buffer is full. Drop a peer that reads nothing for send_timeout.

        Does not wait in a callback of the event loop.
        """
        if getcurrent() is not self._hub:
            self._block_while_full()
        if self._endpoint.state is not _OPEN or self._is_output_lost:
            raise self._closed_error()

    def _block_while_full(self) -> None:
        timeout = self._options.send_timeout
        left = None
        while (output := self._send_buffer) is not None and output.is_full:
            if timeout is not None:
                left = min(timeout - self._stalled_for(), timeout / _PROGRESS_CHECKS)
            if left is not None and left <= 0:
                self._totals.slow_consumers_dropped += 1
                self._drop_unresponsive(f"did not read for {timeout:g} seconds", "send timeout")
            else:
                output.room.clear()
                output.room.wait(left)
            if self._endpoint.state is not _OPEN:
                return

    def _output_failed(self) -> None:
        """TCP takes no more output: end it, but receive what the peer has sent before.

        A peer may send messages and a Close frame, and close its socket without reading ours.
        """
        if self._endpoint.state is not _OPEN or self._sock.fileno() < 0:
            self._end(End.ERROR)
            return
        buffer, self._send_buffer = self._send_buffer, None
        self._output = LostOutput()
        if buffer is not None:
            buffer.watcher.close()
            buffer.room.set()
        try:
            # The system keeps the input. The method of gevent's SSLSocket would disable TLS.
            (self._sock._sock if self._is_tls else self._raw).shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer has already ended TCP
        self._note_hangup()

    @property
    def _is_output_lost(self) -> bool:
        return isinstance(self._output, LostOutput)

    # ------------------------------------------------------ keepalive and deadlines

    def ping(self, data: str | bytes = b"") -> None:
        """Send a Ping with up to 125 bytes (RFC 6455 section 5.5.2). Does not wait for the Pong.

        :attr:`latency` is updated when the Pong has arrived. May be called in any thread.

        :raises ConnectionClosed: when the connection has ended.
        :raises TypeError: when ``data`` is neither ``str`` nor bytes-like.
        :raises ValueError: for more than 125 bytes, or a ``str`` with a lone surrogate.
        """
        if get_ident() != self._thread:
            call_in_hub(self._hub, functools.partial(self.ping, data))
            return
        payload = encode_text(data, "a Ping") if isinstance(data, str) else bytes(memoryview(data))
        if len(payload) > MAX_CONTROL_PAYLOAD:
            raise ValueError(f"a Ping carries at most {MAX_CONTROL_PAYLOAD} bytes")
        self._require_open()
        if self._is_output_lost:
            raise self._closed_error()
        self._send_ping(payload)

    def _send_ping(self, payload: bytes) -> None:
        if self._keepalive is not None:
            self._keepalive.note_ping(payload)
        self._totals.pings_sent += 1
        self._transmit(self._endpoint.encode(Opcode.PING, payload))

    def _take_pong(self, payload: bytes) -> None:
        keepalive = self._keepalive
        if keepalive is None or not keepalive.take_pong(payload):
            return
        self._totals.pongs_received += 1
        if keepalive.is_waiting and self._options.ping_interval is not None:
            keepalive.is_waiting = self._heard = False
            keepalive.due = monotonic() + self._options.ping_interval

    def _check(self) -> float | None:
        """Check the deadlines; see :class:`~geventws.connection.sweeper.Swept`."""
        options = self._options
        keepalive = self._keepalive
        if self._endpoint.state is not _OPEN or keepalive is None:
            return self._check_closing()
        now = monotonic()
        if options.message_timeout is not None:
            # While reading is paused, an unfinished message is not the peer's fault.
            waits_for_us = self._paused or self._resuming
            number = 0 if waits_for_us else self._endpoint.unfinished()
            if keepalive.is_message_overdue(number, now, options.message_timeout):
                self._fault = f"did not finish a message within {options.message_timeout:g} seconds"
                self._start_close(CloseCode.POLICY_VIOLATION, MESSAGE_TIMEOUT)
                return None  # _start_close() has asked for the next check
        if options.ping_interval is None or self._is_output_lost:
            return options.check_interval
        if now >= keepalive.due:
            delay = self._check_peer(keepalive)
            if delay is None:
                return None
            keepalive.due = now + delay
        return min(options.check_interval, keepalive.due - now)

    def _check_peer(self, keepalive: Keepalive) -> float | None:
        """Check whether bytes of the peer have arrived; after a silence, send a Ping.

        Returns the seconds until the next check, or None if the peer has been dropped.
        """
        options = self._options
        # While reading is paused, no Pong is read. TCP acknowledges that the Ping has arrived.
        got_ping = self._paused and keepalive.is_waiting and not unacknowledged(self._sock)
        if self._heard or got_ping:
            self._heard = keepalive.is_waiting = False
            return options.ping_interval
        if not keepalive.is_waiting:
            keepalive.is_waiting = True
            self._send_ping(keepalive.new_payload())
            self._watch_progress()
            return options.ping_timeout
        left = options.ping_timeout - self._stalled_for()
        if left > 0:
            return left  # the peer still reads output from before the Ping
        self._drop_unresponsive(
            f"did not answer a ping within {options.ping_timeout:g} seconds",
            "keepalive ping timeout",
        )
        return None

    def _check_closing(self) -> float | None:
        """Apply ``close_timeout`` to a closing connection, also if no greenlet waits for it."""
        if self._endpoint.state is _CLOSED:
            return None
        left = self._options.close_timeout - self._stalled_for()
        if left > 0:
            return left
        self._drop_unanswered()
        return None

    def _check_after_close_timeout(self) -> None:
        """Check a connection that is ending: perhaps no greenlet waits in ``close()``."""
        if self._endpoint.state is not _CLOSED:
            self._sweeper.remove(self)
            self._sweeper.add(self, self._options.close_timeout)

    def _watch_progress(self) -> None:
        """Measure the peer's progress from now on."""
        self._progress = Progress(self._acknowledged(), monotonic())

    def _stalled_for(self) -> float:
        """Seconds since the peer last acknowledged output."""
        if self._progress is None:
            self._watch_progress()
            return 0.0
        return self._progress.stalled_for(self._acknowledged(), monotonic())

    def _acknowledged(self) -> int:
        """The number of bytes that the peer has acknowledged.

        It shows the progress of a slow peer before the kernel has room for more output.
        """
        waiting = 0 if self._output is None else self._output.size
        return self._written - waiting - unacknowledged(self._sock)

    # ------------------------------------------------------------------ closing

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the connection (RFC 6455 section 7.1.2). May be called repeatedly, in any thread.

        A greenlet in :meth:`receive` gets ``None``. Messages that :meth:`send` has accepted are
        delivered first, as long as the peer reads. Blocks until the peer has answered. When the
        peer has neither answered nor read anything for ``close_timeout`` seconds, TCP is dropped.
        After the first call, no effect.

        :param code: 1000 to 1014 as far as they may be sent, or 3000 to 4999.
        :param reason: at most 123 bytes of UTF-8.
        :raises TypeError: for a code that is not an ``int``, or a reason that is not a ``str``.
        :raises ValueError: for another code, a longer reason, or one with a lone surrogate.
        """
        if get_ident() != self._thread:
            if is_running(self._hub):
                call_in_hub(self._hub, functools.partial(self.close, code, reason))
            else:
                self._drop()
            return
        if self._endpoint.state is _PENDING:
            close_payload(code, reason)  # raises before the 101 is sent
            self._open()
        self._start_close(code, reason)
        try:
            self._wait_for_end()
        finally:
            self._drop()

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Block until the connection has ended, whichever side ends it; return whether it has.

        For code that waits for something else than messages. Any number of greenlets may wait.
        Does not send the ``101``. Does not receive: messages wait for :meth:`receive`, within the
        limits of the options. When a limit is reached, a Close frame behind the messages is not
        seen, and only the loss of TCP is noticed. ``for message in ws: pass`` drops the messages.

        :param timeout: in seconds; ``None`` waits without a limit.
        :raises RuntimeError: in another thread than the view's.
        :raises TypeError: if the timeout is not a number.
        :raises ValueError: if the timeout is NaN.
        """
        seconds = seconds_of(timeout)
        if get_ident() != self._thread:
            raise RuntimeError("wait_closed() can wait only in the thread of the view")
        if self._done is None:
            self._done = Event()
        end = None if seconds is None else monotonic() + seconds
        while not (self._hung_up or self._endpoint.state is _CLOSED):
            left = None if end is None else end - monotonic()
            if left is not None and left <= 0:
                return False
            self._done.wait(left)
        return True

    def _wait_for_end(self) -> None:
        """Block until TCP has ended, or the peer makes no progress."""
        if self._endpoint.state is _CLOSED:
            return
        timeout = self._options.close_timeout
        if self._done is None:
            self._done = Event()
        while self._endpoint.state is not _CLOSED:
            left = timeout - self._stalled_for()
            if left <= 0:
                self._drop_unanswered()
            else:
                self._done.clear()  # set by a hang-up of the peer
                self._done.wait(min(left, timeout / _PROGRESS_CHECKS))

    def _drain_output(self) -> None:
        """After the end of the closing handshake: send the remaining output, then end TCP."""
        if self._is_output_lost:
            self._end(End.ERROR)
            return
        if self._paused:
            self._continue_reading()
        if self._output is None:
            self._finish_output()
        if self._endpoint.state is not _CLOSED:  # otherwise _end() has woken the greenlets
            self._watch_progress()
            self._wake()
            self._check_after_close_timeout()

    def _finish_output(self) -> None:
        """The kernel has all output. The server ends TCP first, RFC 6455 section 7.1.1."""
        endpoint = self._endpoint
        if endpoint.is_client:
            return  # wait until the server ends TCP, or close_timeout has passed
        if self._is_tls:
            self._send_close_notify()
        if endpoint.close_received:
            self._end(_COMPLETE)
            return
        # The peer may still be sending. A close() now would answer it with a RST, which could
        # overtake our Close frame. Read and discard until the peer stops.
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer has already ended TCP

    def _send_close_notify(self) -> None:
        """Send the close_notify alert of TLS, RFC 8446 section 6.1."""
        try:
            self._sock.unwrap()
        except (OSError, ValueError):
            pass  # the alert is sent; unwrap() would wait for the peer's alert, which is not needed

    def _transport_ended(self, end: End) -> None:
        if end is _EOF and self._output is not None and not self._is_output_lost:
            if self._endpoint.close_received:
                self._stop_reading()  # the peer may still read output from before its Close frame
                return
            self._fault = self._fault or (
                f"closed the connection; {self._output.size} bytes were not delivered"
            )
        if end is _EOF and self._is_tls:
            self._send_close_notify()
        self._end(end)

    def _drop_unanswered(self) -> None:
        """Drop a peer that has not answered our Close frame in time."""
        if self._output is not None:
            self._totals.slow_consumers_dropped += 1
            self._fault = self._fault or (
                f"did not read for {self._options.close_timeout:g} seconds while closing;"
                f" {self._output.size} bytes were not delivered"
            )
        self._end(_DROPPED)

    def _drop_unresponsive(self, fault: str, reason: str) -> None:
        """Drop a peer that does not read or answer, and discard the output in the kernel."""
        self._fault = fault
        self._endpoint.close(CloseCode.INTERNAL_ERROR, reason)
        self._endpoint.take_output()  # the Close frame would not arrive
        self._end(End.TIMEOUT)

    def _abandon(self) -> None:
        """In a child process: change to CLOSED, since the peer belongs to the parent.

        TCP is untouched, and no greenlet of the parent is woken.
        """
        self._at_end = None
        if self._endpoint.state is _PENDING:
            self._drop()
        else:
            self._is_detached = False
            self._endpoint.end_transport(by_peer=False)

    def _release(self) -> None:
        """Stop using the descriptor and the loop. May be called repeatedly."""
        self._detach()
        if self._hangup_timer is not None and is_running(self._hub):
            self._stop_hangup_timer()
        if self._send_buffer is not None and is_running(self._hub):
            self._send_buffer.watcher.close()
        self._output = None

    def _end(self, end: End) -> None:
        """Change to CLOSED: the only way there after the opening handshake, except for a fork.

        After this, nothing uses the descriptor: its owner may close it, and the system may
        reuse it. The state changes last: if a step raises, the next call repeats all steps.
        """
        endpoint = self._endpoint
        if endpoint.state is _CLOSED or endpoint.state is _PENDING:
            return
        if end is _FAULT:
            # Unparsed input may be in the buffer that all connections of the hub share.
            endpoint._discard_input()
            endpoint.keep()
        self._sweeper.remove(self)
        self._release()
        self._end_tcp(end.tcp)
        self._wake_all()
        self._send_buffer = None
        endpoint.end_transport()
        if self._at_end is not None:
            self._close_dependents_later()

    def _wake_all(self) -> None:
        """Wake the greenlets in ``send()``, ``close()`` and ``receive()``."""
        if self._send_buffer is not None:
            self._send_buffer.room.set()
        if self._done is not None:
            self._done.set()
        if self._is_detached and not self._busy and is_running(self._hub):
            self._resume_later()
        self._wake()

    def _end_tcp(self, action: TCP) -> None:
        sock = self._sock
        raw = sock._sock if self._is_tls else self._raw
        if action is _DISOWNED:
            raw.detach()
            return
        if action is _RESET:
            reset_at_close(sock)
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer has already ended TCP
        if not self._owns_socket:
            return
        if sock is raw or not is_running(self._hub):
            raw.close()  # a gevent socket would notify its loop
            return
        if self._is_tls:
            sock._decref_socketios()
        sock.close()

    def _wake(self) -> None:
        """Wake the greenlet in ``receive()``."""
        if self._waiter is not None and is_running(self._hub):
            self._hub.loop.run_callback(self._switch_to_waiter)

    def _switch_to_waiter(self) -> None:
        # By now the greenlet may have returned from receive(), and wait for something else.
        if self._waiter is not None:
            self._waiter.switch()
