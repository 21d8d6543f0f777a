"""``geventwebsocket.websocket``: the interface of gevent-websocket for a WebSocket of geventws."""

from __future__ import annotations

import struct
from collections.abc import Callable
from logging import Logger
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from .. import WebSocket as _WebSocket
from ..exceptions import ConnectionClosed
from ..protocol.frames import MAX_REASON, CloseCode, Opcode, encode_text, may_be_sent, parse_close
from ..protocol.reader import encode_frame
from .exceptions import FrameTooLargeException, ProtocolError, SocketDead, WebSocketError
from .utf8validator import Utf8Validator

if TYPE_CHECKING:
    from ..typing import Environ

__all__ = [
    "MSG_ALREADY_CLOSED",
    "MSG_CLOSED",
    "MSG_SOCKET_DEAD",
    "FrameTooLargeException",
    "Header",
    "ProtocolError",
    "Stream",
    "Utf8Validator",
    "WebSocket",
    "WebSocketError",
]

MSG_SOCKET_DEAD = "Socket is dead"
MSG_ALREADY_CLOSED = "Connection is already closed"
MSG_CLOSED = "Connection closed"


class Handler(Protocol):
    """The attributes of the handler that are used here."""

    #: The WebSocket of geventws.
    accepted: _WebSocket
    server: Any  # gevent's server, with the attributes that gevent-websocket adds

    @property
    def logger(self) -> Logger: ...

    def remove_client(self) -> None: ...


class Readable(Protocol):
    """An object with a method ``read()``, such as a file."""

    def read(self, size: int, /) -> bytes: ...


class WebSocket:
    """The value of ``environ["wsgi.websocket"]``; it is open from the beginning.

    As in gevent-websocket:

    - ``receive()`` returns ``bytearray`` for binary messages. At the end of the connection it
      returns ``None`` once, and then raises :exc:`WebSocketError`.
    - ``send()`` raises :exc:`WebSocketError` if the connection has ended.
    - ``close()`` does not wait for the peer.
    - ``environ`` is ``None`` after the end.

    Unlike in gevent-websocket, close codes and reasons are sent, and :attr:`closed` becomes true
    when the peer has disconnected, also without a call of ``receive()``.
    """

    OPCODE_CONTINUATION = 0x00
    OPCODE_TEXT = 0x01
    OPCODE_BINARY = 0x02
    OPCODE_CLOSE = 0x08
    OPCODE_PING = 0x09
    OPCODE_PONG = 0x0A

    def __init__(self, environ: Environ, stream: Stream, handler: Handler) -> None:
        self._ws = handler.accepted
        self._is_closed = False
        self.environ: Environ | None = environ
        self.stream: Stream | None = stream
        self.raw_read: Callable[[int], bytes] | None = stream.read
        self.raw_write: Callable[[bytes], None] | None = stream.write
        self.handler = handler
        self.utf8validator = Utf8Validator()

    def __repr__(self) -> str:
        return repr(self._ws)

    def _allow_messages_of(self, size: int) -> None:
        self._ws._allow_messages_of(size)

    def _variable(self, name: str) -> str | None:
        return None if self.environ is None else self.environ.get(name)

    @property
    def origin(self) -> str | None:
        return self._variable("HTTP_ORIGIN")

    @property
    def protocol(self) -> str | None:
        """The subprotocols that the client has *requested*, separated by commas."""
        return self._variable("HTTP_SEC_WEBSOCKET_PROTOCOL")

    @property
    def version(self) -> str | None:
        return self._variable("HTTP_SEC_WEBSOCKET_VERSION")

    @property
    def path(self) -> str | None:
        return self._variable("PATH_INFO")

    @property
    def logger(self) -> Logger:
        return self.handler.logger

    @property
    def current_app(self) -> Any:  # any object with on_close()
        """The attribute ``current_app`` of the application, or an object with ``on_close()``."""
        return getattr(self.handler.server.application, "current_app", _NoApp())

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, and no received message is left."""
        return self._is_closed or self._ws.closed

    def receive(self) -> str | bytearray | None:
        """Return the next message; ``None`` once at the end of the connection. Blocks.

        :raises WebSocketError: after the end of the connection.
        """
        if self._is_closed:
            raise self._socket_dead(MSG_ALREADY_CLOSED)
        try:
            message = self._ws.receive()
        except ConnectionClosed:
            raise self._socket_dead(MSG_ALREADY_CLOSED) from None
        if message is None:
            self._end()
            if self._ws.close_code == CloseCode.ABNORMAL_CLOSURE:
                self.current_app.on_close(MSG_CLOSED)
            return None
        return message if isinstance(message, str) else bytearray(message)

    def detach(
        self,
        on_message: Callable[[WebSocket, str | bytearray], object],
        on_close: Callable[[WebSocket], object],
    ) -> None:
        """Let the connection go on after the end of the application, in callbacks.

        :param on_message: called with each message, until the application calls :meth:`close`.
        :param on_close: called at the end of the connection.
        """

        def take(_: _WebSocket, message: str | bytes) -> None:
            if not self._is_closed:
                on_message(self, message if isinstance(message, str) else bytearray(message))

        def end(_: _WebSocket) -> None:
            try:
                on_close(self)
            finally:
                self.handler.remove_client()

        self._ws.detach(take, end)

    def read_message(self) -> str | bytearray | None:
        """Return the next message; see :meth:`receive`."""
        return self.receive()

    # Any: as in gevent-websocket, a message may be any argument of bytes() or str().
    def send(self, message: Any, binary: bool | None = None) -> None:
        """Send a message: ``str`` as text, and every other type as binary.

        :raises WebSocketError: if the connection has ended.
        """
        if binary is None:
            binary = not isinstance(message, str)
        try:
            self.send_frame(message, self.OPCODE_BINARY if binary else self.OPCODE_TEXT)
        except WebSocketError:
            raise self._socket_dead(MSG_SOCKET_DEAD) from None

    def send_frame(self, message: Any, opcode: int) -> None:
        """Send a text, binary, Ping, Pong or Close frame.

        :raises ValueError: for another opcode.
        :raises WebSocketError: if the connection has ended.
        """
        ws = self._ws
        if self._is_closed:
            raise self._socket_dead(MSG_ALREADY_CLOSED)
        try:
            if opcode == self.OPCODE_TEXT:
                ws.send(self._encode_bytes(message), binary=False)
            elif opcode == self.OPCODE_BINARY:
                ws.send(
                    self._encode_bytes(message)
                    if isinstance(message, str) or ws._is_ending
                    else bytes(message)
                )
            elif opcode == self.OPCODE_PING:
                ws.ping(self._encode_bytes(message))
            elif opcode == self.OPCODE_PONG:
                ws._send_frames(encode_frame(Opcode.PONG, self._encode_bytes(message)))
            elif opcode == self.OPCODE_CLOSE:
                self.close(message=message)
            else:
                raise ValueError(f"frames with the opcode {opcode} cannot be sent")
        except ConnectionClosed:
            raise self._socket_dead(MSG_SOCKET_DEAD) from None

    def close(self, code: int = 1000, message: str | bytes | None = b"") -> None:
        """Send a Close frame. Does not wait for the peer, and never raises WebSocketError."""
        if self._is_closed:
            self.current_app.on_close(MSG_ALREADY_CLOSED)
            return
        if not may_be_sent(code):
            code = CloseCode.NORMAL_CLOSURE
        reason = self._encode_bytes(message)[:MAX_REASON].decode(errors="ignore")
        self._ws._start_close(code, reason)
        self._end()

    def handle_close(self, header: Header, payload: bytes) -> None:
        """Handle a Close frame. geventws does not call this method."""
        code, reason = parse_close(payload)
        self.close(code, reason)

    def handle_ping(self, header: Header, payload: bytes) -> None:
        """Handle a Ping frame. geventws does not call this method."""
        self.send_frame(payload, self.OPCODE_PONG)

    def handle_pong(self, header: Header, payload: bytes) -> None:
        """Handle a Pong frame: do nothing. geventws does not call this method."""

    def read_frame(self) -> tuple[Header, bytes]:
        """Return the next message as one frame; see :meth:`receive`.

        :raises WebSocketError: at the end of the connection.
        """
        message = self.receive()
        if message is None:
            raise self._socket_dead(MSG_CLOSED)
        opcode = self.OPCODE_TEXT if isinstance(message, str) else self.OPCODE_BINARY
        payload = self._encode_bytes(message)
        return Header(True, opcode, length=len(payload)), payload

    def validate_utf8(self, payload: bytes) -> None:
        """Validate the next bytes of a text. geventws does not call this method.

        :raises UnicodeError: if they are not UTF-8.
        """
        self.utf8validate_last = self.utf8validator.validate(payload)
        if not self.utf8validate_last[0]:
            raise UnicodeError(f"invalid UTF-8 at octet {self.utf8validate_last[3]}")

    @staticmethod
    def _encode_bytes(text: object) -> bytes:
        if isinstance(text, (bytes, bytearray, memoryview)):
            return bytes(text)
        return encode_text(text if isinstance(text, str) else str(text or ""))

    def _decode_bytes(self, bytestring: bytes) -> str:
        """Return a text; close the connection with 1007 if it is not UTF-8."""
        try:
            return str(bytestring or b"", "utf-8")
        except UnicodeDecodeError:
            self.close(CloseCode.INVALID_PAYLOAD)
            raise

    @staticmethod
    def _is_valid_close_code(code: int) -> bool:
        return may_be_sent(code)

    def _end(self) -> None:
        self._is_closed = True
        self.environ = self.stream = self.raw_read = self.raw_write = None

    def _socket_dead(self, text: str) -> SocketDead:
        self.current_app.on_close(text)
        return SocketDead(text, self._ws.close_code or CloseCode.ABNORMAL_CLOSURE)


class _NoApp:
    """The object for ``current_app`` if the application does not have it."""

    def on_close(self, *args: Any) -> None:
        pass


class Stream:
    """The connection below the frames: ``write()`` sends encoded frames."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    def write(self, data: bytes) -> None:
        ws = self.handler.accepted
        if ws._is_ending:
            raise SocketDead(MSG_SOCKET_DEAD, ws.close_code or CloseCode.ABNORMAL_CLOSURE)
        ws._send_frames(bytes(data))

    def read(self, size: int = -1) -> bytes:
        raise NotImplementedError("geventws has no access to raw bytes: call receive()")


class Header:
    """The header of a frame (RFC 6455 section 5.2)."""

    FIN_MASK = 0x80
    OPCODE_MASK = 0x0F
    MASK_MASK = 0x80
    LENGTH_MASK = 0x7F
    RSV0_MASK = 0x40
    RSV1_MASK = 0x20
    RSV2_MASK = 0x10
    HEADER_FLAG_MASK: ClassVar[int] = RSV0_MASK | RSV1_MASK | RSV2_MASK

    def __init__(self, fin: int = 0, opcode: int = 0, flags: int = 0, length: int = 0) -> None:
        self.mask: bytes | str = ""
        self.fin = fin
        self.opcode = opcode
        self.flags = flags
        self.length = length

    def __repr__(self) -> str:
        return f"<Header fin={self.fin} opcode={self.opcode} length={self.length}>"

    def mask_payload(self, payload: bytes) -> bytearray:
        """Mask or unmask a payload."""
        mask = self.mask or b"\0\0\0\0"
        return bytearray(byte ^ ord(mask[i % 4 : i % 4 + 1]) for i, byte in enumerate(payload))

    unmask_payload = mask_payload

    @classmethod
    def decode_header(cls, stream: Readable) -> Header:
        """Read a header from an object with a method ``read()``.

        :raises WebSocketError: at the end of the stream.
        :raises ProtocolError: for a fragmented control frame, or one of more than 125 bytes.
        """

        def read(size: int) -> bytes:
            data = stream.read(size)
            if len(data) != size:
                raise WebSocketError("Unexpected EOF while decoding header")
            return data

        first, second = read(2)
        header = cls(
            fin=first & cls.FIN_MASK == cls.FIN_MASK,
            opcode=first & cls.OPCODE_MASK,
            flags=first & cls.HEADER_FLAG_MASK,
            length=second & cls.LENGTH_MASK,
        )
        if header.opcode >= Opcode.CLOSE:
            if not header.fin:
                raise ProtocolError(f"Received fragmented control frame: {first:#x}")
            if header.length > 125:
                raise FrameTooLargeException("Control frame cannot be larger than 125 bytes")
        if header.length == 126:
            (header.length,) = struct.unpack("!H", read(2))
        elif header.length == 127:
            (header.length,) = struct.unpack("!Q", read(8))
        if second & cls.MASK_MASK:
            header.mask = read(4)
        return header

    @classmethod
    def encode_header(
        cls, fin: bool, opcode: int, mask: bytes, length: int, flags: int
    ) -> bytearray:
        """Return an encoded header.

        :raises FrameTooLargeException: if the length needs more than 64 bits.
        """
        first = opcode | (flags & cls.HEADER_FLAG_MASK) | (cls.FIN_MASK if fin else 0)
        masked = cls.MASK_MASK if mask else 0
        if length < 126:
            head = struct.pack("!BB", first, masked | length)
        elif length <= 0xFFFF:
            head = struct.pack("!BBH", first, masked | 126, length)
        elif length <= 0xFFFFFFFFFFFFFFFF:
            head = struct.pack("!BBQ", first, masked | 127, length)
        else:
            raise FrameTooLargeException(f"a frame of {length} bytes")
        return bytearray(head + (mask or b""))
