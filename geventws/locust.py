"""Load tests of WebSockets with Locust::

from geventws.locust import WebSocketUser
from locust import between, task

class Chatter(WebSocketUser):
    wait_time = between(1, 3)

    @task
    def talk(self):
        with self.connect("/chat") as ws:
            for _ in range(10):
                ws.request("hello")  # the statistics have the time until the answer
                self.wait()
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any
from weakref import WeakSet

from gevent import Timeout
from locust import User
from locust.env import Environment
from locust.exception import RescheduleTask

from .client.client import NORMAL_ENDS, ClientWebSocket, connect
from .exceptions import ConnectionClosed
from .protocol.frames import CloseCode
from .typing import Message

__all__ = ["LoadWebSocket", "WebSocketUser"]


class WebSocketUser(User):
    """A user with WebSockets, which are measured in Locust's statistics, with the type ``WS``.

    The server is the attribute ``host`` or the option ``--host``, a URL that begins with
    ``http://``, ``https://``, ``ws://`` or ``wss://``. The WebSockets that are open when the user
    stops are closed. If a subclass has an ``on_stop()``, it must call ``super().on_stop()``.
    """

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._sockets: WeakSet[LoadWebSocket] = WeakSet()

    def connect(self, path: str, *, name: str | None = None, **options: Any) -> LoadWebSocket:
        """Open a WebSocket. Blocks until it is open::

            with self.connect("/chat?room=7", name="/chat", cookies={"session": "…"}) as ws:

        The statistics have a line ``/chat connect``, with the time of the opening handshake. An
        error is a failure of this line, and :exc:`~locust.exception.RescheduleTask` ends the task.

        :param path: the path and the query, or a whole URL.
        :param name: the name in the statistics; by default ``path`` without the query.
        :param options: the other arguments of :func:`geventws.connect`. ``proxy`` is ``None`` by
            default, as for Locust's ``HttpUser``: reading the environment takes time.
        :raises ValueError: for an invalid URL, or if there is no host.
        """
        url = path
        if not re.match("(http|ws)s?://", path):
            if not self.host:
                raise ValueError("set the attribute host of the user, or the option --host")
            url = self.host.rstrip("/") + path
        name = path.partition("?")[0] if name is None else name
        started = perf_counter()
        try:
            ws = connect(re.sub("^http", "ws", url), **{"proxy": None, **options})
        except OSError as problem:
            raise _failure(self, f"{name} connect", problem, started) from problem
        _report(self, f"{name} connect", started, 0)
        measured = LoadWebSocket(self, name, ws)
        self._sockets.add(measured)
        return measured

    def on_stop(self) -> None:
        """Close the WebSockets that are open."""
        for ws in list(self._sockets):
            ws.close()


class LoadWebSocket:
    """A WebSocket of a :class:`WebSocketUser`. The end of a ``with`` block closes it.

    Each method is a line in the statistics, such as ``/chat send``. An error is a failure of this
    line: a lost or closed connection with its close code, or a timeout. It ends the task with
    Locust's :exc:`~locust.exception.RescheduleTask`, whose ``__cause__`` is the error. Lines of
    messages have their size in bytes.

    :ivar ws: the :class:`~geventws.ClientWebSocket`. What is done with it is not measured.
    """

    def __init__(self, user: User, name: str, ws: ClientWebSocket) -> None:
        self.ws = ws
        self._user = user
        self._name = name

    def __enter__(self) -> LoadWebSocket:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self.ws.closed

    def request(
        self,
        data: Message,
        timeout: float = 10.0,
        *,
        is_answer: Callable[[Message], bool] | None = None,
    ) -> Message:
        """Send a message, block until its answer arrives, and return the answer.

        The line ``/chat request`` has the time from one to the other, and the size of the answer.

        :param timeout: the maximum number of seconds until the answer.
        :param is_answer: called with each message, and returns whether it is the answer. Other
            messages count as ``/chat receive``. By default, the next message is the answer.
        """
        late = TimeoutError(f"no answer within {timeout:g} seconds")
        started = perf_counter()
        try:
            with Timeout(timeout, late):
                self.ws.send(data)
                answer = self._next()
                while is_answer is not None and not is_answer(answer):
                    self._count("receive", answer)
                    answer = self._next()
        except OSError as problem:
            raise self._failure("request", problem, started) from problem
        self._count("request", answer, started)
        return answer

    def send(self, data: Message) -> None:
        """Send a message. The line ``/chat send`` has its size, and no time."""
        try:
            self.ws.send(data)
        except OSError as problem:
            raise self._failure("send", problem) from problem
        self._count("send", data)

    def receive(self, timeout: float | None = None) -> Message | None:
        """Block until the next message, and return it; ``None`` if the server has ended.

        The line ``/chat receive`` has its size, and no time. An end with another code than 1000,
        1001 and 1005 (no code) is a failure.

        :param timeout: in seconds; ``None`` waits without a limit.
        """
        try:
            message = self._next(timeout)
        except OSError as problem:
            if isinstance(problem, ConnectionClosed) and problem.code in NORMAL_ENDS:
                return None
            raise self._failure("receive", problem) from problem
        self._count("receive", message)
        return message

    def __iter__(self) -> Iterator[Message]:
        """The messages until the connection ends; see :meth:`receive`."""
        return iter(self.receive, None)

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close the connection. The statistics have no line for it."""
        self.ws.close(code, reason)

    def _next(self, timeout: float | None = None) -> Message:
        """Return the next message.

        :raises ConnectionClosed: at the end.
        """
        message = self.ws.receive(timeout)
        # None means the end of the connection: the second call raises ConnectionClosed.
        return self._next() if message is None else message

    def _count(self, method: str, message: Message, started: float | None = None) -> None:
        data = message.encode() if isinstance(message, str) else message
        _report(self._user, f"{self._name} {method}", started, len(data))

    def _failure(
        self, method: str, problem: OSError, started: float | None = None
    ) -> RescheduleTask:
        return _failure(self._user, f"{self._name} {method}", problem, started)


def _failure(
    user: User, name: str, problem: OSError, started: float | None = None
) -> RescheduleTask:
    """Report a failure; return the exception that ends the task without a traceback in the log."""
    _report(user, name, started, 0, problem)
    return RescheduleTask()


def _report(
    user: User, name: str, started: float | None, size: int, problem: OSError | None = None
) -> None:
    """Add to a line of the statistics; the time counts from ``started``, if it is not ``None``."""
    user.environment.events.request.fire(
        request_type="WS",
        name=name,
        response_time=None if started is None else (perf_counter() - started) * 1000,
        response_length=size,
        exception=problem,
        context=user.context(),
    )
