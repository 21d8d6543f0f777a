"""``geventwebsocket.websocket``: the old manners around a :class:`geventws.WebSocket`."""

from __future__ import annotations

import struct
from typing import Any, ClassVar

from .. import WebSocket as _WebSocket
from ..exceptions import ConnectionClosed
from ..protocol.frames import MAX_REASON, CloseCode, Opcode, encode_text, may_be_sent, parse_close
from ..protocol.reader import encode_frame
from .exceptions import FrameTooLargeException, ProtocolError, SocketDead, WebSocketError
from .utf8validator import Utf8Validator

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


class WebSocket:
    """What is in ``environ["wsgi.websocket"]``, already open.

    As in gevent-websocket: ``receive()`` returns ``bytearray`` for binary messages, ``None`` once
    at the end, and raises :exc:`WebSocketError` from then on; ``send()`` raises it as soon as
    nothing can be sent; ``close()`` does not wait; after the end ``environ`` is ``None``.

    Unlike there, close codes and reasons are sent, and :attr:`closed` turns true when the peer has
    gone, even if nobody receives.
    """

    OPCODE_CONTINUATION = 0x00
    OPCODE_TEXT = 0x01
    OPCODE_BINARY = 0x02
    OPCODE_CLOSE = 0x08
    OPCODE_PING = 0x09
    OPCODE_PONG = 0x0A

    def __init__(self, environ: dict[str, Any], stream: Stream, handler: Any) -> None:
        self._ws: _WebSocket = handler.accepted
        self._is_closed = False
        self.environ: dict[str, Any] | None = environ
        self.stream: Stream | None = stream
        self.raw_read: Any = stream.read
        self.raw_write: Any = stream.write
        self.handler = handler
        self.utf8validator = Utf8Validator()

    def __repr__(self) -> str:
        return repr(self._ws)

    def _variable(self, name: str) -> str | None:
        return None if self.environ is None else self.environ.get(name)

    @property
    def origin(self) -> str | None:
        return self._variable("HTTP_ORIGIN")

    @property
    def protocol(self) -> str | None:
        """What the client has *requested* of subprotocols."""
        return self._variable("HTTP_SEC_WEBSOCKET_PROTOCOL")

    @property
    def version(self) -> str | None:
        return self._variable("HTTP_SEC_WEBSOCKET_VERSION")

    @property
    def path(self) -> str | None:
        return self._variable("PATH_INFO")

    @property
    def logger(self) -> Any:
        return self.handler.logger

    @property
    def current_app(self) -> Any:
        """The application's ``current_app``, or something with an ``on_close()``."""
        return getattr(self.handler.server.application, "current_app", _NoApp())

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, and a view that receives knows all it said."""
        return self._is_closed or self._ws.closed

    def receive(self) -> str | bytearray | None:
        """The next message; None at the end."""
        if self._is_closed:
            raise self._dead(MSG_ALREADY_CLOSED)
        try:
            message = self._ws.receive()
        except ConnectionClosed:
            raise self._dead(MSG_ALREADY_CLOSED) from None
        if message is None:
            self._end()
            if self._ws.close_code == CloseCode.ABNORMAL_CLOSURE:
                self.current_app.on_close(MSG_CLOSED)
            return None
        return message if isinstance(message, str) else bytearray(message)

    def read_message(self) -> str | bytearray | None:
        """Another name of :meth:`receive`."""
        return self.receive()

    def send(self, message: Any, binary: bool | None = None) -> None:
        """Send a message: ``str`` as text, everything else as bytes."""
        if binary is None:
            binary = not isinstance(message, str)
        try:
            self.send_frame(message, self.OPCODE_BINARY if binary else self.OPCODE_TEXT)
        except WebSocketError:
            raise self._dead(MSG_SOCKET_DEAD) from None

    def send_frame(self, message: Any, opcode: int) -> None:
        """Send a frame: text, binary, ping, pong or close."""
        ws = self._ws
        if self._is_closed:
            raise self._dead(MSG_ALREADY_CLOSED)
        try:
            if opcode == self.OPCODE_TEXT:
                ws.send(_encode(message), binary=False)
            elif opcode == self.OPCODE_BINARY:
                ws.send(
                    _encode(message)
                    if isinstance(message, str) or ws._is_ending
                    else bytes(message)
                )
            elif opcode == self.OPCODE_PING:
                ws.ping(_encode(message))
            elif opcode == self.OPCODE_PONG:
                ws._send_frames(encode_frame(Opcode.PONG, _encode(message)))
            elif opcode == self.OPCODE_CLOSE:
                self.close(message=message)
            else:
                raise ValueError(f"no frame has the opcode {opcode}")
        except ConnectionClosed:
            raise self._dead(MSG_SOCKET_DEAD) from None

    def close(self, code: int = 1000, message: str | bytes | None = b"") -> None:
        """Send a Close frame, and be closed; does not wait, and never raises WebSocketError."""
        if self._is_closed:
            self.current_app.on_close(MSG_ALREADY_CLOSED)
            return
        if not may_be_sent(code):
            code = CloseCode.NORMAL_CLOSURE
        self._ws._start_close(code, _encode(message)[:MAX_REASON].decode(errors="ignore"))
        self._end()

    def handle_close(self, header: Any, payload: bytes) -> None:
        """What is done about a Close frame; geventws does it by itself."""
        code, reason = parse_close(payload)
        self.close(code, reason)

    def handle_ping(self, header: Any, payload: bytes) -> None:
        """What is done about a Ping; geventws does it by itself."""
        self.send_frame(payload, self.OPCODE_PONG)

    def handle_pong(self, header: Any, payload: bytes) -> None:
        """What is done about a Pong: nothing."""

    def validate_utf8(self, payload: bytes) -> None:
        """Raise UnicodeError for bytes that do not continue a text; geventws has checked it."""
        self.utf8validate_last = self.utf8validator.validate(payload)
        if not self.utf8validate_last[0]:
            raise UnicodeError(f"invalid UTF-8 at octet {self.utf8validate_last[3]}")

    def _end(self) -> None:
        self._is_closed = True
        self.environ = self.stream = self.raw_read = self.raw_write = None

    def _dead(self, text: str) -> SocketDead:
        self.current_app.on_close(text)
        return SocketDead(text, self._ws.close_code or CloseCode.ABNORMAL_CLOSURE)


class _NoApp:
    def on_close(self, *args: Any) -> None:
        pass


def _encode(text: Any) -> bytes:
    if isinstance(text, (bytes, bytearray, memoryview)):
        return bytes(text)
    return encode_text(text if isinstance(text, str) else str(text or ""))


class Stream:
    """The connection below the frames. ``write()`` sends bytes that are frames already."""

    def __init__(self, handler: Any) -> None:
        self.handler = handler

    def write(self, data: bytes) -> None:
        ws = self.handler.accepted
        if ws._is_ending:
            raise SocketDead(MSG_SOCKET_DEAD, ws.close_code)
        ws._send_frames(bytes(data))

    def read(self, size: int = -1) -> bytes:
        raise NotImplementedError("geventws reads ahead: take messages from receive()")


class Header:
    """The header of a frame, RFC 6455 section 5.2."""

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
        """The payload with the mask put on, or taken off."""
        mask = self.mask or b"\0\0\0\0"
        return bytearray(byte ^ ord(mask[i % 4 : i % 4 + 1]) for i, byte in enumerate(payload))

    unmask_payload = mask_payload

    @classmethod
    def decode_header(cls, stream: Any) -> Header:
        """Read a header from something with a ``read()``.

        :raises WebSocketError: at the end of the stream.
        :raises ProtocolError: for a control frame in fragments, or of more than 125 bytes.
        """

        def read(size: int) -> bytes:
            data: bytes = stream.read(size)
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
        """The bytes of a header.

        :raises FrameTooLargeException: for a length of more than 64 bits.
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
