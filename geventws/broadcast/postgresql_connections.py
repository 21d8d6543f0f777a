"""Connections to PostgreSQL: URL, pool, and statements with a deadline.

psycopg opens the connections. Statements use its interface to libpq, :mod:`psycopg.pq`, because
psycopg's cursors have no deadline, and wait in C if psycopg was imported before
``gevent.monkey.patch_all()``. The wait here is ``select.poll()``: it blocks the greenlet in a
program that is patched, and the thread in another one.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import ceil
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from gevent.event import Event
from gevent.monkey import get_original

if not hasattr(select, "poll"):
    raise ImportError("a broadcast on PostgreSQL does not work on Windows")
try:
    import psycopg
except ImportError as problem:
    raise ImportError(
        "a broadcast on PostgreSQL needs psycopg and libpq:"
        " pip install geventws[postgresql] psycopg[binary]"
    ) from problem

from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from .postgresql_schema import CREATE

#: Seconds that PostgreSQL may take to answer, unless ``timeout`` in the URL overrides it.
TIMEOUT = 5.0
#: Seconds after which the listening connection is checked: as many as the server may take to
#: answer, within these limits.
_MIN_CHECK_INTERVAL, _MAX_CHECK_INTERVAL = 0.5, 5.0
#: The number of connections of a process, beside the listening one.
MAX_CONNECTIONS = 4
#: Failures of a connection.
FAILURES = (psycopg.Error, OSError)
#: A table, a function, or the schema is missing.
_MISSING = {"42P01", "42883", "3F000"}
#: The server only permits reading: another one may have become the primary server.
_READ_ONLY = "25006"
#: The original lock, not gevent's: no greenlet switch happens while it is held.
_new_lock: Callable[[], AbstractContextManager[bool]] = get_original("_thread", "allocate_lock")
#: A value in text format, or bytes in binary format.
Parameter = str | int | float | bytes
Row = tuple[bytes | None, ...]


class StatementError(Exception):
    """PostgreSQL answers a statement with an error."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        #: The SQLSTATE.
        self.code = code


class Array(NamedTuple):
    """An array in text format."""

    text: bytes


class Settings(NamedTuple):
    """What a URL says."""

    parameters: dict[str, Any]  #: keyword arguments for psycopg; Any: psycopg's annotation
    timeout: float

    @property
    def check_interval(self) -> float:
        """Seconds after which the listening connection is checked."""
        return min(max(self.timeout, _MIN_CHECK_INTERVAL), _MAX_CHECK_INTERVAL)

    def deadline(self) -> float:
        """Return when to stop waiting for an answer: later than the server cancels a statement."""
        return monotonic() + self.timeout + 0.2


def parse_url(url: str) -> Settings:
    """Return the settings of a URL. It is a URI of libpq, with the additional ``timeout``.

    :raises ValueError: for an invalid URL.
    """
    base, mark, query = url.partition("?")
    options = query.split("&") if mark else []
    rest = [option for option in options if not option.startswith("timeout=")]
    timeout = TIMEOUT
    for option in options:
        if option.startswith("timeout="):
            timeout = _parse_timeout(unquote(option.partition("=")[2]))
    try:
        parameters = conninfo_to_dict(base + (f"?{'&'.join(rest)}" if rest else ""))
    except psycopg.Error as problem:
        name = urlsplit(url).scheme
        raise ValueError(f"invalid URL of {name}://: {str(problem).strip()}") from None
    milliseconds = ceil(timeout * 1000)
    # The server must end the session of a process that has vanished: it would be counted.
    settings = (
        f"-c statement_timeout={milliseconds} -c default_transaction_isolation=read\\ committed"
        " -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
    )
    defaults = {
        "application_name": "geventws",
        "connect_timeout": max(2, ceil(timeout)),
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }
    own = parameters.get("options") or os.environ.get("PGOPTIONS", "")
    fixed = {"client_encoding": "UTF8", "options": f"{settings} {own}"}
    return Settings({**defaults, **parameters, **fixed}, timeout)


def _parse_timeout(text: str) -> float:
    try:
        timeout = float(text)
    except ValueError:
        timeout = 0.0
    if not 0.01 <= timeout <= 3600:
        raise ValueError(f"timeout must be a number of seconds from 0.01 to 3600, not {text!r}")
    return timeout


class Connection:
    """One connection. Only one greenlet or thread may use it at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection = psycopg.Connection.connect(
            autocommit=True, prepare_threshold=None, **settings.parameters
        )
        self.pgconn = self._connection.pgconn
        self.pgconn.nonblocking = 1

    def execute(
        self, statement: str, *parameters: Parameter | Array, deadline: float | None = None
    ) -> list[Row]:
        """Execute a statement, and return its rows in binary format.

        If this raises anything but :exc:`StatementError`, the connection must be closed.

        :raises StatementError: if PostgreSQL answers with an error.
        :raises TimeoutError: if it does not answer in time.
        """
        values = [_encode(value) for value in parameters]
        formats = [int(isinstance(value, bytes)) for value in parameters]
        self.pgconn.send_query_params(statement.encode(), values, None, formats, 1)
        return self._read_result(deadline or self._settings.deadline())

    def execute_script(self, statements: str) -> None:
        """Execute several statements in one transaction, as :meth:`execute`."""
        self.pgconn.send_query(statements.encode())
        self._read_result(self._settings.deadline())

    def _read_result(self, deadline: float) -> list[Row]:
        pgconn = self.pgconn
        self._flush(deadline)
        rows: list[Row] = []
        error: StatementError | None = None
        while (result := self._next_result(deadline)) is not None:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                error = error or _error_of(result)
            elif result.status == pq.ExecStatus.TUPLES_OK:
                columns = range(result.nfields)
                rows = [
                    tuple(result.get_value(row, column) for column in columns)
                    for row in range(result.ntuples)
                ]
        if pgconn.status == pq.ConnStatus.BAD:
            raise psycopg.OperationalError(str(error) if error else "the connection is lost")
        if error is not None:
            raise error
        return rows

    def _flush(self, deadline: float) -> None:
        """Send the statement. PostgreSQL may have to send something before it reads on."""
        while self.pgconn.flush():
            if self._wait(select.POLLIN | select.POLLOUT, deadline) & select.POLLIN:
                self.pgconn.consume_input()

    def _next_result(self, deadline: float) -> pq.abc.PGresult | None:
        while self.pgconn.is_busy():
            self._wait(select.POLLIN, deadline)
            self.pgconn.consume_input()
        return self.pgconn.get_result()

    def _wait(self, events: int, deadline: float) -> int:
        poller = select.poll()  # looked up now: gevent replaces it
        poller.register(self.pgconn.socket, events)
        ready = poller.poll(max(0, ceil((deadline - monotonic()) * 1000)))
        if not ready:
            raise TimeoutError("PostgreSQL does not answer in time")
        return int(ready[0][1])

    def is_intact(self) -> bool:
        """Whether the server has not closed the connection, as far as is known here."""
        poller = get_original("select", "poll")()
        poller.register(self.pgconn.socket, select.POLLIN)
        try:
            if poller.poll(0):
                self.pgconn.consume_input()
        except FAILURES:
            return False
        return bool(self.pgconn.status == pq.ConnStatus.OK)

    def close(self) -> None:
        self._connection.close()


def _encode(value: Parameter | Array) -> bytes:
    if isinstance(value, Array):
        return value.text
    return value if isinstance(value, bytes) else str(value).encode()


def _error_of(result: pq.abc.PGresult) -> StatementError:
    message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message
    code = result.error_field(pq.DiagnosticField.SQLSTATE) or b""
    return StatementError(message.decode(errors="replace").strip(), code.decode())


def number_of(value: bytes | None) -> int:
    """Return a number in binary format."""
    return int.from_bytes(value or b"", "big", signed=True)


class PoolTimeout(Exception):
    """All connections are in use, and the server may work nevertheless."""


class _Waiter:
    """A greenlet or thread that waits for a connection."""

    __slots__ = ("connection", "is_ready")

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.is_ready = Event()

    def grant(self, connection: Connection | None) -> None:
        """Give the waiter a connection, or the permission to open one."""
        self.connection = connection
        self.is_ready.set()


class ConnectionPool:
    """Up to :data:`MAX_CONNECTIONS` connections, for all greenlets and threads of a process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = _new_lock()
        self._idle: list[Connection] = []
        self._used = 0
        self._waiting: deque[_Waiter] = deque()
        self._pid = os.getpid()
        #: Connections of the parent process. The child must not close them.
        self._inherited: list[Connection] = []
        self._is_closed = False

    def execute(self, statement: str, *parameters: Parameter | Array) -> list[Row]:
        """Execute a statement. Create the schema if it is missing.

        :raises StatementError: if PostgreSQL answers with an error.
        :raises FAILURES: if it cannot be reached, or does not answer in time.
        :raises PoolTimeout: if all connections stay in use.
        """
        deadline = self._settings.deadline()
        with self._connection(deadline) as connection:
            try:
                return connection.execute(statement, *parameters, deadline=deadline)
            except StatementError as error:
                if error.code not in _MISSING:
                    raise
            connection.execute_script(CREATE)
            return connection.execute(statement, *parameters)

    @contextmanager
    def _connection(self, deadline: float) -> Iterator[Connection]:
        connection = self._acquire(deadline)
        is_usable = False
        try:
            if connection is None:
                connection = Connection(self._settings)
            try:
                yield connection
                is_usable = True
            except StatementError as error:
                is_usable = error.code != _READ_ONLY
                raise
        finally:
            self._release(connection, is_usable)

    def _acquire(self, deadline: float) -> Connection | None:
        """Return an idle connection, or ``None`` if the caller may open another one.

        :raises PoolTimeout: if all connections stay in use.
        """
        waiter = _Waiter()
        with self._lock:
            self._check_process()
            if not self._waiting and (self._idle or self._used < MAX_CONNECTIONS):
                self._used += 1
                waiter.grant(self._idle.pop() if self._idle else None)
            else:
                self._waiting.append(waiter)
        try:
            waiter.is_ready.wait(max(0.0, deadline - monotonic()))
        except BaseException:
            if not self._stop_waiting(waiter):
                self._release(waiter.connection, is_usable=True)
            raise
        if self._stop_waiting(waiter):
            raise PoolTimeout("all connections to PostgreSQL are in use")
        connection = waiter.connection
        while connection is not None and not connection.is_intact():
            connection.close()
            with self._lock:
                connection = self._idle.pop() if self._idle else None
        return connection

    def _stop_waiting(self, waiter: _Waiter) -> bool:
        """Return whether the waiter has got nothing. It gets nothing any more."""
        with self._lock:
            if waiter not in self._waiting:
                return False
            self._waiting.remove(waiter)
            return True

    def _release(self, connection: Connection | None, is_usable: bool) -> None:
        """Pass a connection on to the first waiter, or the permission to open another one."""
        if connection is not None and (self._is_closed or not is_usable):
            connection.close()
            connection = None
        with self._lock:
            # Otherwise, a greenlet that publishes in a loop would always be faster.
            waiter = self._waiting.popleft() if self._waiting else None
            if waiter is None:
                self._used -= 1
                if connection is not None:
                    self._idle.append(connection)
        if waiter is not None:
            waiter.grant(connection)

    def _check_process(self) -> None:
        """Forget the connections of the process that this one was forked from."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._inherited += self._idle
            self._idle = []
            self._used = 0
            self._waiting = deque()

    def close(self) -> None:
        """Close the idle connections now, and the others when they are released."""
        self._is_closed = True
        with self._lock:
            idle, self._idle = self._idle, []
        if self._pid == os.getpid():
            for connection in idle:
                connection.close()
