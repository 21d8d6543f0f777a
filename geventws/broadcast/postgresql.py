"""``postgresql://``: the backend for any number of processes and machines, with PostgreSQL.

- A function in the database stores a message and notifies the processes, in one transaction
  (:mod:`.postgresql_schema`). A message that is too large for a notification is read from the
  table.
- A process has one connection that listens (:mod:`.postgresql_listener`), and up to four for all
  statements (:mod:`.postgresql_connections`).
- After the listening connection was lost, missed messages are read from the table, and
  notifications of these messages are dropped (:mod:`.postgresql_channels`).
- Ids have the form "epoch-number". The numbers of a channel have no gaps, so that two ids say how
  many messages are between them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from random import getrandbits

import gevent
from gevent.monkey import get_original, is_module_patched

from ..exceptions import BroadcastError
from .backend import Backend, History, Receiver, Refusal, parse_id, require_patched_sockets
from .backoff import Backoff
from .bodies import encode_body
from .members import State, Update
from .postgresql_channels import ChannelState, Stored
from .postgresql_connections import (
    FAILURES,
    Array,
    Connection,
    ConnectionPool,
    Parameter,
    PoolTimeout,
    Row,
    StatementError,
    number_of,
    parse_url,
)
from .postgresql_listener import Listener
from .postgresql_messages import (
    CONTROL,
    Id,
    Question,
    Reference,
    array_of_names,
    array_of_numbers,
    encode_question,
    group_of,
    message_of,
    text_of,
)
from .postgresql_schema import (
    ANSWER,
    CLEAN,
    JOIN,
    LISTENER_LOCK,
    LISTENERS,
    NOTIFY,
    PUBLISH,
    READ,
    READ_ANSWERS,
    READ_BODIES,
    READ_MEMBERS,
    UPDATE_MEMBERS,
)

#: Classes of SQLSTATE that concern all channels: connection, transaction state, authorization,
#: database, schema and permissions, resources, shutdown, system, configuration, internal errors.
_GENERAL = {"08", "25", "28", "3D", "42", "53", "57", "58", "F0", "XX"}
#: Classes that concern neither the channel nor the whole server: conflicts, limits, locks.
_TEMPORARY = {"40", "54", "55"}
_CANCELED = "57014"
#: Seconds until subscribers() has all answers, at most; and until it asks again.
_COUNT_TIMEOUT, _ASK_INTERVAL = 2.0, 0.25
#: The number of questions that wait for an answer. Above it, the oldest is not answered.
_MAX_QUESTIONS = 1000
#: Numbers are a ``bigint``.
_MAX_NUMBER = 1 << 63
#: The original functions: a thread, not a greenlet.
_start_thread: Callable[..., int] = get_original("_thread", "start_new_thread")
_sleep_in_thread: Callable[[float], object] = get_original("time", "sleep")


class PostgreSQLBackend(Backend):
    """A backend on a PostgreSQL database."""

    has_members = True

    def __init__(
        self, url: str, receiver: Receiver, history: int | Mapping[str, int], history_ttl: float
    ) -> None:
        super().__init__(url, receiver, history, history_ttl)
        self.settings = parse_url(url)
        self._pool = ConnectionPool(self.settings)
        #: The channels that this process is subscribed to, also while the connection is broken.
        self.channels: dict[str, ChannelState] = {}
        self._listener = Listener(self)
        #: Questions of other processes, and the answers.
        self._answers: dict[int, int] = {}
        self._is_answering = False
        self._is_listener_down = False
        self._is_pool_down = False
        self._is_closed = False
        #: Connections of the parent process, which a forked child must not close.
        self._inherited: list[Connection | None] = []

    # ------------------------------------------------------------- operations

    def publish(
        self, channel: str, data: str | bytes, keep: bool, excluded: str | None = None
    ) -> str | None:
        size = self.history_size_of(channel) if keep else 0
        name, body = channel.encode(), encode_body(data, excluded)
        rows = self._query(PUBLISH, group_of(channel), name, body, size, self.history_ttl)
        id_ = rows[0][0]
        return None if id_ is None else id_.decode()

    def subscribe(self, channel: str) -> None:
        self.subscribe_all([channel])

    def subscribe_all(self, channels: Sequence[str]) -> None:
        require_patched_sockets("PostgreSQL")
        new = {
            name: ChannelState(name, self.history_size_of(name) > 0, self.receiver)
            for name in channels
            if name not in self.channels
        }
        self.channels.update(new)
        if new:
            self._listener.add(list(new.values()))
        if self._is_listener_down:
            return
        states = [self.channels[name] for name in channels]
        deadline = time.monotonic() + self.settings.timeout
        for state in states:
            if not state.settled.wait(max(0.0, deadline - time.monotonic())):
                # Whoever waits for good health now gets what is published after that.
                self.note_listener_down(TimeoutError("a subscription takes too long"))
                return

    def unsubscribe(self, channel: str) -> None:
        state = self.channels.pop(channel, None)
        if state is not None:
            state.end()

    def history(self, channel: str, since: str | None) -> History:
        if not self.history_size_of(channel):
            return History([], not since)
        id_ = parse_id(since or "")
        if id_ is not None and max(id_) >= _MAX_NUMBER:
            id_ = None
        state = self.channels.get(channel)
        if since is not None and state is not None and not self._listener.is_connected:
            raise BroadcastError(f"the subscriptions of {self.name} are interrupted")
        generation = self._listener.generation
        is_joining = since is not None and state is not None and state.position is None
        stored = self.read({channel: id_ or (0, 0)}).get(channel)
        if is_joining and state is not None:
            # Otherwise, what is published between the reading and the position would be lost.
            state.wait_for((0, 0), self.settings.timeout)
            stored = self.read({channel: id_ or (0, 0)}).get(channel)
        if stored is None:
            return History([], not since)
        epoch, last, found = stored
        if since is not None and state is not None:
            state.wait_for((epoch, last), self.settings.timeout)
            if generation != self._listener.generation:
                # Messages after these may have been missed by now.
                raise BroadcastError(f"the subscriptions of {self.name} were interrupted")
        messages = [message_of(channel, (epoch, number), body) for number, body in found]
        is_known = id_ is not None and id_[0] == epoch and last - id_[1] == len(found)
        return History([it for it in messages if it is not None], not since or is_known)

    def position(self, channel: str) -> str | None:
        state = self.channels.get(channel)
        if state is None or state.position is None or not state.is_listening:
            return None
        return text_of(state.position)

    def subscribers(self, channel: str) -> int:
        # Every process sends its number now. A stored number would be wrong after a crash. A
        # session that ends loses its lock, so that it is known which processes must answer. A
        # process that is reconnecting is not counted: its subscribers get no messages either.
        own = self._listener.pid if self._listener.is_connected else 0
        local = self.receiver.count(channel)
        expected = self._listening_processes() - {own}
        if not expected:
            return local
        question = Question(getrandbits(62), channel)
        deadline = time.monotonic() + min(self.settings.timeout, _COUNT_TIMEOUT)
        delay, next_ask = 0.002, 0.0
        while True:
            now = time.monotonic()
            if now >= next_ask:
                # Again, because a process may just be reconnecting.
                next_ask = now + _ASK_INTERVAL
                self.notify(CONTROL, encode_question(question))
            time.sleep(delay)
            delay = min(2 * delay, 0.05)
            answers = {
                number_of(pid): number_of(sockets)
                for pid, sockets in self._query(READ_ANSWERS, question.request)
            }
            if not expected - answers.keys():
                return local + sum(answers[pid] for pid in answers if pid != own)
            if time.monotonic() > deadline:
                expected &= self._listening_processes() | answers.keys()
                if expected - answers.keys():
                    raise BroadcastError(
                        f"{len(expected - answers.keys())} processes do not tell {self.name} how"
                        " many subscribers they have"
                    )

    def _listening_processes(self) -> set[int]:
        return {number_of(row[0]) for row in self._query(LISTENERS, LISTENER_LOCK)}

    def update_members(self, channel: str, update: Update) -> State | None:
        removed = [it for it, text in update.changes.items() if text is None]
        added = {it: text for it, text in update.changes.items() if text is not None}
        rows = self._query(
            UPDATE_MEMBERS,
            group_of(channel),
            channel.encode(),
            update.process,
            update.base,
            update.number,
            update.lease,
            -1 if update.known is None else update.known,
            int(update.has_entries),
            Array(array_of_numbers(removed)),
            Array(array_of_numbers(added)),
            Array(array_of_names(added.values())),
        )
        if not rows:
            return None
        version, has_entries, _ = rows[0]
        return State(number_of(version), None if has_entries is None else _entries_of(rows[1:]))

    def members(self, channel: str) -> Mapping[str, str]:
        return _entries_of(self._query(READ_MEMBERS, channel.encode()))

    def abandon(self) -> None:
        self._inherited.append(self._listener.abandon())
        self.channels = {}
        self._listener = Listener(self)
        self._answers = {}
        self._is_answering = self._is_listener_down = self._is_pool_down = False

    def close(self) -> None:
        self._is_closed = True
        self._listener.close()
        self.channels.clear()
        self._pool.close()

    # ---------------------------------------------------- reading, for listeners

    def read(self, since: Mapping[str, Id]) -> dict[str, Stored]:
        """Return what the tables have of channels. Channels without a row are omitted."""
        if not since:
            return {}
        names = Array(array_of_names(since))
        epochs = Array(array_of_numbers(id_[0] for id_ in since.values()))
        numbers = Array(array_of_numbers(id_[1] for id_ in since.values()))
        stored: dict[str, Stored] = {}
        messages: list[tuple[int, bytes]] = []
        for name, epoch, last, number, body in self._query(READ, names, epochs, numbers):
            channel = (name or b"").decode()
            if channel not in stored:
                messages = []
                stored[channel] = Stored(number_of(epoch), number_of(last), messages)
            if number is not None and body is not None:
                messages.append((number_of(number), body))
        return stored

    def join(self, channels: Sequence[str]) -> dict[str, Id]:
        """Return the ids of the latest messages, and create the rows of new channels."""
        if not channels:
            return {}
        rows = self._query(JOIN, Array(array_of_names(channels)), self.history_ttl)
        return {
            (name or b"").decode(): (number_of(epoch), number_of(last))
            for name, epoch, last in rows
        }

    def read_bodies(self, references: Sequence[Reference]) -> dict[Reference, bytes | None]:
        """Return the bodies of large messages, as far as they exist."""
        if not references:
            return {}
        channels = Array(array_of_numbers(channel for channel, _ in references))
        numbers = Array(array_of_numbers(number for _, number in references))
        rows = self._query(READ_BODIES, channels, numbers)
        return {(number_of(channel), number_of(number)): body for channel, number, body in rows}

    def notify(self, group: str, payload: str) -> None:
        """Send a notification."""
        self._query(NOTIFY, group, payload)

    def clean(self) -> None:
        """Delete expired messages from the tables."""
        try:
            self._query(CLEAN)
        except BroadcastError:
            pass  # the next cleanup deletes them

    # -------------------------------------------------------- counting sockets

    def answer(self, question: Question, pid: int) -> None:
        """Tell another process how many sockets this one has in a channel. Never blocks."""
        self._answers[question.request] = self.receiver.count(question.channel)
        if len(self._answers) > _MAX_QUESTIONS:
            del self._answers[next(iter(self._answers))]
        if not self._is_answering:
            self._is_answering = True
            gevent.spawn(self._send_answers, pid)

    def _send_answers(self, pid: int) -> None:
        try:
            while self._answers:
                answers, self._answers = self._answers, {}
                requests = Array(array_of_numbers(answers))
                pids = Array(array_of_numbers([pid] * len(answers)))
                self._query(ANSWER, requests, pids, Array(array_of_numbers(answers.values())))
        except BroadcastError:
            pass  # the other process asks again
        finally:
            self._is_answering = False

    # ------------------------------------------------------------------ health

    def is_watched(self) -> bool:
        return self._listener.is_connected or self._is_listener_down or self._is_pool_down

    def ping(self) -> None:
        self._query("SELECT 1")

    def _query(self, statement: str, *parameters: Parameter | Array) -> list[Row]:
        """Execute a statement, and mark the backend as healthy or unhealthy.

        :raises Refusal: if the server refuses it because of the channel or the message.
        :raises BroadcastError: if it fails otherwise.
        """
        try:
            rows = self._pool.execute(statement, *parameters)
        except StatementError as problem:
            is_general = problem.code[:2] in _GENERAL and problem.code != _CANCELED
            if is_general:
                self._note_pool_down(problem)
            if is_general or problem.code == _CANCELED or problem.code[:2] in _TEMPORARY:
                raise BroadcastError(f"{self.name} does not work: {problem}") from problem
            raise Refusal(f"{self.name} refuses it: {problem}") from problem
        except PoolTimeout as problem:
            raise BroadcastError(f"{self.name} is too slow: {problem}") from problem
        except FAILURES as problem:
            self._note_pool_down(problem)
            raise BroadcastError(f"{self.name} does not answer: {problem}") from problem
        if self._is_pool_down:
            self._note_pool_up()
        return rows

    def note_listener_down(self, problem: BaseException) -> None:
        """The listening connection is lost, or has not become active in time."""
        self._is_listener_down = True
        self.note_down(problem)

    def note_listener_up(self) -> None:
        """The listening connection works, or is not needed."""
        self._is_listener_down = False
        self._update_health()

    def note_listener_gone(self, problem: BaseException) -> None:
        """The listening connection is lost, and no channel needs it any more."""
        self._is_listener_down = False
        self._note_pool_down(problem)

    def _note_pool_up(self) -> None:
        self._is_pool_down = False
        self._update_health()

    def _update_health(self) -> None:
        if not (self._is_listener_down or self._is_pool_down):
            self.note_up()

    def _note_pool_down(self, problem: BaseException) -> None:
        """Mark the backend as unhealthy, and find out by and by whether it works again."""
        was_down, self._is_pool_down = self._is_pool_down, True
        self.note_down(problem)
        if was_down or self._is_closed:
            return
        if is_module_patched("socket") and gevent.get_hub().main_hub:
            gevent.spawn(self._probe, gevent.sleep)
        else:
            # No greenlet runs in this thread while it does something else.
            _start_thread(self._probe_in_thread, ())

    def _probe(self, sleep: Callable[[float], object]) -> None:
        """Publish to no channel until that succeeds. This also finds a lack of permissions."""
        backoff = Backoff()
        while self._is_pool_down and not self._is_closed:
            sleep(backoff.next_pause())
            try:
                self._pool.execute(PUBLISH, f"{CONTROL}_probe", b"", b"", 1, 0)
            except (StatementError, PoolTimeout, *FAILURES):
                continue
            self._note_pool_up()

    def _probe_in_thread(self) -> None:
        try:
            self._probe(_sleep_in_thread)
        finally:
            gevent.get_hub().destroy()  # psycopg's waits create it in a program that is patched


def _entries_of(rows: Sequence[Row]) -> dict[str, str]:
    """Return entries, see :attr:`.members.State.entries`."""
    return {
        (id_ or b"").decode(): f"{number_of(version)} {(text or b'').decode()}"
        for version, id_, text in rows
    }
