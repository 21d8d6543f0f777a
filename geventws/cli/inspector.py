"""``--inspect``: a page that shows open WebSockets, channels, messages and refusals, live.

It is for development, because it shows all messages. A separate server listens on the loopback
address. It checks the Host header: without that, a page of another site could read the messages
after its name was made to resolve to the loopback address (DNS rebinding). The default of
``allowed_origins`` refuses WebSockets of other pages.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path
from time import time
from typing import Any, NamedTuple

from gevent.socket import socket

from ..broadcast import Message, broadcast
from ..connection.logs import logger, name_of_peer
from ..exceptions import ConnectionClosed
from ..server.exchange import WEBSOCKET
from ..server.server import WebSocketServer
from ..server.websocket import WebSocket
from ..typing import Data, Environ, StartResponse
from .errors import UsageError
from .listeners import open_listener, url_of

_PAGE = Path(__file__).with_name("inspector.html")
#: Bytes of events that are kept.
_MAX_SIZE = 1 << 20
#: Bytes of memory that an event takes in addition to its texts.
_OVERHEAD = 500
#: The number of characters of a text, or of bytes of a binary message, that are shown.
_MAX_TEXT = 1000
_MAX_BYTES = 100
#: The maximum number of open pages.
_MAX_PAGES = 10
#: The maximum number of events of one update, and of rows of each table.
_MAX_ROWS = 200
#: Seconds between two updates of the page.
_INTERVAL = 0.5
_REFUSED = "Refused a WebSocket"


class Event(NamedTuple):
    """A line of the page."""

    number: int
    time: float
    #: "in" and "out" for messages, "opened", "closed", "refused", "published" or "log".
    kind: str
    #: The id of the WebSocket, or empty.
    id: str
    #: The path or the channel.
    where: str
    text: str


class Events(logging.Handler):
    """The latest events, bounded in bytes. Takes the log of geventws, too."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: deque[Event] = deque()
        self._size = 0
        self._numbers = count(1)

    def add(self, kind: str, where: str, content: Data, id_: str = "") -> None:
        """Add an event. May be called in any thread."""
        text = _text_of(content)
        self.acquire()
        try:
            event = Event(next(self._numbers), time(), kind, id_, where[:_MAX_TEXT], text)
            self._kept.append(event)
            self._size += _size_of(event)
            while self._size > _MAX_SIZE:
                self._size -= _size_of(self._kept.popleft())
        finally:
            self.release()

    def since(self, number: int) -> list[Event]:
        """Return the latest events after the one with a number, the oldest first."""
        newest = islice(reversed(list(self._kept)), _MAX_ROWS)
        return [event for event in newest if event.number > number][::-1]

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.endswith(".connections"):  # the WebSockets add these events
            text = record.getMessage()
            kind = "refused" if text.startswith(_REFUSED) else "log"
            self.add(kind, "", text, getattr(record, "connection_id", ""))

    def add_published(self, message: Message) -> None:
        """Add a message of a Broadcast."""
        self.add("published", message.channel, message.data)


class InspectedWebSocket(WebSocket):
    """A WebSocket of the application, whose messages are events."""

    def __init__(self, events: Events, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._events = events
        self._since = time()

    def row(self) -> dict[str, object]:
        """Return what the page shows of an open WebSocket."""
        buffered = self._buffered
        return {
            "id": self.id,
            "path": self.path,
            "client": name_of_peer(self.remote_address, self._sock),
            "since": self._since,
            "received": self._messages_received,
            "sent": self._messages_sent,
            "unread": buffered.messages,
            "unsent": buffered.unsent,
            "subprotocol": self.subprotocol or "",
        }

    def receive(self, timeout: float | None = None) -> str | bytes | None:
        message = super().receive(timeout)
        if message is not None:
            self._add("in", message)
        return message

    # Iteration of the compiled core does not call receive().
    def __iter__(self) -> Iterator[str | bytes]:
        return self

    def __next__(self) -> str | bytes:
        message = None if self._end_reported else self.receive()
        if message is None:
            raise self._end_of_iteration()
        return message

    def send(
        self,
        data: Data,
        *,
        binary: bool | None = None,
        compress: bool = True,
    ) -> None:
        super().send(data, binary=binary, compress=compress)
        if binary is False and not isinstance(data, str):
            data = bytes(data).decode(errors="replace")
        self._add("out", data)

    def _inside(self, callback: Callable[..., object] | None) -> Callable[..., object] | None:
        return super()._inside(callback and partial(_call_noted, callback))

    def _add(self, kind: str, content: Data) -> None:
        self._events.add(kind, self.path, content, self.id)

    def _note_response(self, status: str) -> None:
        super()._note_response(status)
        self._add("refused", f"The view has answered with {status}")

    def _log_opening(self) -> None:
        super()._log_opening()
        self._since = time()
        self._add("opened", self.subprotocol or "")

    def _log_end(self, code: int) -> None:
        super()._log_end(code)
        self._add("closed", f"{code:d} {self.close_reason}".strip())


def _call_noted(callback: Callable[..., object], ws: InspectedWebSocket, *message: Any) -> object:
    """Call a callback of a detached WebSocket."""
    for content in message:
        ws._add("in", content)
    return callback(ws, *message)


class _Feed(WebSocket):
    """A WebSocket of the page. It is not logged."""

    def _log_opening(self) -> None:
        pass


class Inspector(WebSocketServer):
    """The server of the page about other servers.

    :param servers: the servers, before they are started.
    :raises UsageError: if no port is free.
    """

    def __init__(self, servers: list[WebSocketServer]) -> None:
        listener = _listen_beside(servers[0].socket)
        super().__init__(listener, self._answer, log=None, max_connections=_MAX_PAGES)
        self.websockets.websocket_class = _Feed
        self._inspected = list(servers)
        self._events = Events()
        for server in servers:
            server.websockets.websocket_class = partial(InspectedWebSocket, self._events)
        #: The address of the page.
        self.url = url_of(listener)
        self._hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    def start(self) -> None:
        super().start()
        logger.addHandler(self._events)
        broadcast.observers.add(self._events.add_published)

    def stop(self, timeout: float | None = None) -> None:
        broadcast.observers.discard(self._events.add_published)
        logger.removeHandler(self._events)
        super().stop(timeout)

    def _answer(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        host, path = environ.get("HTTP_HOST", ""), environ.get("PATH_INFO")
        if host not in self._hosts:
            return _refuse(start_response, "403 Forbidden")
        if WEBSOCKET in environ and path == "/feed":
            self._feed(environ[WEBSOCKET])
            return []
        if WEBSOCKET in environ or path != "/" or environ["REQUEST_METHOD"] != "GET":
            return _refuse(start_response, "404 Not Found")
        nonce = secrets.token_urlsafe(16)
        page = _PAGE.read_text(encoding="utf-8").replace("{nonce}", nonce).encode()
        policy = f"default-src 'none'; connect-src ws://{host}; frame-ancestors 'none';"
        policy += f" script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
        headers = [
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(page))),
            ("Content-Security-Policy", policy),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-store"),
        ]
        start_response("200 OK", headers)
        return [page]

    def _feed(self, ws: WebSocket) -> None:
        """Send what has changed, until the page is closed."""
        number = 0
        while not ws.closed:
            events = self._events.since(number)
            number = events[-1].number if events else number
            try:
                ws.send_json({"events": [event._asdict() for event in events], **self._tables()})
            except ConnectionClosed:
                return
            ws.wait_closed(_INTERVAL)

    def _tables(self) -> dict[str, object]:
        opened = [ws for server in self._inspected for ws in server.websockets if ws.accepted]
        rows = [ws.row() for ws in opened if isinstance(ws, InspectedWebSocket)]
        channels = [channel._asdict() for channel in broadcast.local_channels()]
        return {
            "sockets": rows[:_MAX_ROWS],
            "channels": channels[:_MAX_ROWS],
            "open": len(rows),
        }


def _refuse(start_response: StartResponse, status: str) -> Iterable[bytes]:
    start_response(status, [("Content-Length", "0")])
    return []


def _listen_beside(other: socket) -> socket:
    """Listen on the port after the one of another socket, or on any that is free."""
    name = other.getsockname()
    wanted = name[1] + 1 if isinstance(name, tuple) else 0
    try:
        listener = open_listener(f"127.0.0.1:{wanted}")
    except UsageError:
        listener = open_listener("127.0.0.1:0")
    return socket(fileno=listener.detach())


def _text_of(content: Data) -> str:
    """Return the beginning of a message: binary ones in hexadecimal digits."""
    if isinstance(content, str):
        more = len(content) - _MAX_TEXT
        return f"{content[:_MAX_TEXT]}… ({more} more characters)" if more > 0 else content
    content = bytes(content)
    more = len(content) - _MAX_BYTES
    text = content[:_MAX_BYTES].hex(" ")
    return f"{text}… ({more} more bytes)" if more > 0 else text


def _size_of(event: Event) -> int:
    return _OVERHEAD + 4 * (len(event.where) + len(event.text))
