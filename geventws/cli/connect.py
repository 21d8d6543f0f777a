"""``geventws connect URL``: an interactive WebSocket."""

from __future__ import annotations

import argparse
import json
import sys
import threading
from time import monotonic

from gevent import get_hub, sleep

from ..client.client import ClientWebSocket
from ..client.client import connect as open_websocket
from ..connection.logs import printable
from ..exceptions import ConnectionClosed, HandshakeError
from ..typing import Headers, Message
from .errors import UsageError
from .lines import open_lines

#: Seconds to wait for the last answers after the end of a pipe.
_LAST_ANSWERS = 0.5
#: Seconds between two checks whether the main thread has ended.
_INTERVAL = 0.05
_HELP = """\
/ping [DATA]            send a Ping, and print the time until the Pong
/binary HEX             send a binary message, such as: /binary 00 ff
/close [CODE [REASON]]  close, by default with 1000
/help                   print this list
Other lines are sent as text messages."""


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the request and of the way to the server."""
    add = parser.add_argument
    add("url", metavar="URL", help="ws://… or wss://…")
    add(
        "--header",
        "-H",
        metavar="NAME: VALUE",
        action="append",
        default=[],
        help="a request header; may be repeated",
    )
    add(
        "--cookie",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a cookie to send; may be repeated",
    )
    add("--origin", help="the Origin header")
    add(
        "--subprotocol",
        metavar="NAME",
        action="append",
        default=[],
        help="a subprotocol to offer; may be repeated",
    )
    add(
        "--proxy",
        metavar="URL",
        default=True,
        help="a proxy, such as http://… or socks5h://… (default: from the environment)",
    )
    add("--unix-socket", metavar="PATH", help="connect to a unix socket, not to the host")


def add_opening_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of :func:`open_from`."""
    add_request_arguments(parser)
    parser.add_argument(
        "--max-redirects",
        metavar="N",
        type=int,
        default=0,
        help="the number of redirects that are followed (default: %(default)s)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_opening_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON messages indented")


def headers_from(options: argparse.Namespace) -> Headers:
    """Return the headers of the command line.

    :raises UsageError: if a header has no colon, or a cookie no equals sign.
    """
    headers = []
    for header in options.header:
        name, colon, value = header.partition(":")
        if not colon:
            raise UsageError(f"{header!r} is not of the form NAME: VALUE")
        headers.append((name.strip(), value.strip()))
    for cookie in options.cookie:
        if "=" not in cookie:
            raise UsageError(f"{cookie!r} is not of the form NAME=VALUE")
    if options.cookie:
        headers.append(("Cookie", "; ".join(options.cookie)))
    return headers


def open_from(options: argparse.Namespace) -> ClientWebSocket:
    """Open the WebSocket of the command line.

    :raises UsageError: if it cannot be opened.
    """
    headers = headers_from(options)
    try:
        return open_websocket(
            options.url,
            headers=headers,
            origin=options.origin,
            subprotocols=options.subprotocol,
            proxy=options.proxy,
            unix_socket=options.unix_socket,
            max_redirects=options.max_redirects,
        )
    except HandshakeError as problem:
        reason = problem.status or problem.body.decode(errors="replace")
        if problem.status_code == 501:  # the server says what to run instead of flask run
            reason += f": {problem.body.decode(errors='replace').strip()}"
        if 300 <= problem.status_code < 400:
            reason = " ".join(str(problem).split())  # with the Location
        reason = printable(reason, limit=400)
        if problem.status_code in {400, 403, 404}:
            reason += f". To find out why: geventws check {options.url}"
        raise UsageError(f"cannot open {options.url}: {reason}") from problem
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise UsageError(f"cannot open {options.url}: {reason}") from problem
    except (ValueError, ImportError) as problem:  # last: SSLCertVerificationError is a ValueError
        raise UsageError(str(problem)) from problem


def talk(options: argparse.Namespace) -> int:
    """Send typed lines and print received messages, until one side closes; return the exit status.

    The WebSocket has its own thread, because the input blocks the main thread.

    :raises UsageError: if the WebSocket cannot be opened.
    """
    return _Session(options).run()


class _Session:
    """An interactive WebSocket: input in the main thread, the WebSocket in another one."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._lines = open_lines()
        self._is_terminal = sys.stdin.isatty()
        self._ws: ClientWebSocket
        self._failure: UsageError | None = None
        self._opened = threading.Event()
        self._ended = threading.Event()
        #: Whether the main thread no longer needs the hub of the other thread.
        self._is_finished = False

    def run(self) -> int:
        listener = threading.Thread(target=self._listen, daemon=True)
        listener.start()
        try:
            return self._run_input()
        finally:
            # A running hub can crash the interpreter at its exit.
            self._is_finished = True
            listener.join(1)

    def _run_input(self) -> int:
        self._opened.wait()
        if self._failure is not None:
            raise self._failure
        try:
            self._read_lines()
        except (EOFError, KeyboardInterrupt):
            pass  # Ctrl-D, Ctrl-C, /close, or the server has closed the WebSocket
        if not self._is_terminal:
            self._ended.wait(_LAST_ANSWERS)
        self._ws.close()
        self._ended.wait(1)
        code, reason = self._ws.close_code, self._ws.close_reason
        self._lines.print(f"closed with {code} {reason}".rstrip())
        return 0 if code == 1000 else 1

    # ------------------------------------------------------- in the main thread

    def _read_lines(self) -> None:
        while True:
            line = self._lines.read()
            try:
                self._handle_line(line)
            except ValueError as problem:
                self._lines.print(str(problem))
            except ConnectionClosed:
                return

    def _handle_line(self, line: str) -> None:
        if not line.startswith("/"):
            self._ws.send(line)
            return
        command, *rest = line.split(maxsplit=1)
        argument = "".join(rest)
        if command == "/ping":
            self._ping(argument)
        elif command == "/binary":
            self._ws.send(bytes.fromhex(argument))
        elif command == "/close":
            code, _, reason = argument.partition(" ")
            self._ws.close(int(code or 1000), reason)
            raise EOFError
        else:
            self._lines.print(_HELP)

    def _ping(self, data: str) -> None:
        before = self._ws.latency
        self._ws.ping(data or f"{monotonic()}")
        deadline = monotonic() + 5
        while self._ws.latency == before and monotonic() < deadline:
            if self._ended.wait(0.01):
                return
        latency = self._ws.latency
        self._lines.print(
            "no pong"
            if latency is None or latency == before
            else f"pong after {latency * 1000:.1f} ms"
        )

    # --------------------------------------------------- in the other thread

    def _listen(self) -> None:
        try:
            self._receive()
        finally:
            while not self._is_finished:
                sleep(_INTERVAL)  # the main thread still makes calls through this hub
            get_hub().destroy()

    def _receive(self) -> None:
        try:
            self._ws = open_from(self._options)
        except UsageError as failure:
            self._failure = failure
            return
        finally:
            self._opened.set()
        if self._is_terminal:
            self._lines.print(_greeting(self._ws))
        while (message := self._ws.receive()) is not None:
            self._lines.print(f"< {self._format(message)}")
        self._ended.set()
        self._lines.stop()

    def _format(self, message: Message) -> str:
        if isinstance(message, bytes):
            return f"{len(message)} bytes: {message[:64].hex(' ')}{'…' * (len(message) > 64)}"
        if self._options.json:
            try:
                return json.dumps(json.loads(message), indent=2, ensure_ascii=False)
            except ValueError:
                pass  # print it unchanged
        return message


def _greeting(ws: ClientWebSocket) -> str:
    subprotocol = f"subprotocol {ws.subprotocol}" if ws.subprotocol else "no subprotocol"
    agreed = f"{subprotocol}, {ws.extensions or 'no compression'}"
    return f"Connected: {agreed}. /help lists the commands, Ctrl-D closes."
