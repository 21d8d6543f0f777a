"""The tests that every broadcast backend must pass; they need pytest.

A package with a backend has a test module like this::

    import pytest
    from geventws.testing.broadcast import BackendTests

    class TestNATS(BackendTests):
        @pytest.fixture
        def url(self, nats_server):
            return nats_server.url

Several :class:`~geventws.Broadcast` objects of one URL stand for several processes. A backend that
uses the network needs a patched process: ``python -m gevent.monkey --module pytest``.

For details in failed assertions, ``conftest.py`` calls
``pytest.register_assert_rewrite("geventws.testing.broadcast")``.
"""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from typing import Any, TypeVar, cast
from uuid import uuid4

import gevent
import pytest
from gevent.event import AsyncResult, Event
from gevent.monkey import get_original

from ..broadcast import (
    Backend,
    Broadcast,
    History,
    Listener,
    Message,
    Subscription,
    Subscriptions,
    presence,
)
from ..broadcast.members import State, Update
from ..broadcast.registry import backend_for
from ..exceptions import BroadcastError
from ..typing import Application, Environ, StartResponse
from . import TestedWebSocket, connect

#: The original function: a native thread, not a greenlet.
_start_thread: Callable[..., int] = get_original("_thread", "start_new_thread")

#: The time limit of each wait, in seconds.
SECONDS = 15.0
#: Seconds until a history expires, in the tests that wait for it.
SHORT_TTL = 1.0
#: Channel names that a backend may confuse with its own syntax, or with each other.
NAMES = [
    *("a", "A", "a ", " a", "a*", "*", "?", "[a]", "a?", ">", "a.>", "a.b", "a/b", "a:b", "#", "+"),
    *("{a}", "{a}b", "}{", "\0", "a\0", "a\0b", "a\r\nb", "\n", "\t", "'", '"', "\\", "%", "%61"),
    *("$1", "; DROP TABLE a", "é", "e\u0301", "😀", "\ufeff", "\U0010ffff", "\uffff", "None"),
    *("0", "-", "_", "é" * 512, "a" * 1024, "a" * 1023 + "b", "😀" * 256, "geventws:a"),
]
MESSAGES: list[str | bytes] = [
    *("text", "", "hällo 😀", "a\0b", "\r\n", " ", "\ufeff", "1-0 text", "\U0010ffff" * 10),
    *(b"bytes", b"", bytes(range(256)), b"\xff\xfe", b"\0", b"\r\n", b"h\xc3\xa4llo"),
]
#: Strings that are no id of any backend, or a greater one than all that it has given.
UNKNOWN_IDS = [
    *("garbage", " ", "-", "\0", "é", "😀", "\ud800", "a" * 10_000, "1-", "-1", "1-1-1", "(1-0"),
    *("\u0661-\u0660", "nan", "inf", "None", "+", "$", ">", "*", "9" * 18, "9" * 30, "9" * 5000),
    *("18446744073709551615-18446744073709551615", "99999999999999-0", f"{'9' * 30}-0"),
]
#: A context manager that makes the backend unreachable. Its value is the URL by which other
#: processes reach the backend meanwhile, or ``None`` if no process does.
Outage = Callable[[], AbstractContextManager[str | None]]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Missed:
    """A call of :meth:`Receiver.miss`."""

    channel: str
    count: int


class Recorder:
    """A :class:`~geventws.broadcast.Receiver` that records its calls."""

    def __init__(self) -> None:
        self.calls: list[Message | Missed] = []
        self.changes: list[tuple[str, str]] = []
        #: What :meth:`count` returns, by channel.
        self.counts: dict[str, int] = {}
        self._hub = gevent.get_hub()
        self._has_changed = Event()

    def deliver(self, message: Message) -> None:
        self._add(message)

    def miss(self, channel: str, count: int) -> None:
        assert gevent.get_hub() is self._hub, "miss() must be called in the subscribers' thread"
        self._add(Missed(channel, count))

    def count(self, channel: str) -> int:
        return self.counts.get(channel, 0)

    def change_members(self, channel: str, change: str) -> None:
        assert gevent.get_hub() is self._hub, "a change must come in the subscribers' thread"
        self.changes.append((channel, change))
        self._has_changed.set()

    def wait_for_changes(self, count: int) -> list[tuple[str, str]]:
        """Wait for a number of changes of members; return the channels and the changes."""
        with limit(f"{count} changes did not arrive"):
            while len(self.changes) < count:
                self._has_changed.clear()
                self._has_changed.wait()
        return self.changes

    def _add(self, call: Message | Missed) -> None:
        self.calls.append(call)
        self._hub.loop.run_callback_threadsafe(self._has_changed.set)

    def delivered(self, channel: str) -> list[Message]:
        """Return the messages of a channel."""
        return [it for it in self.calls if isinstance(it, Message) and it.channel == channel]

    def wait_for(self, channel: str, data: str | bytes) -> list[Message]:
        """Wait until a message of a channel was delivered; return the channel's messages."""
        with limit(f"{data!r:.100} was not delivered"):
            while not any(message.data == data for message in self.delivered(channel)):
                self._has_changed.clear()
                self._has_changed.wait()
        return self.delivered(channel)


class Member:
    """A WebSocket, of which the test has both ends, and its subscription."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._stack = ExitStack()
        accepted: AsyncResult[Any] = AsyncResult()
        self.client: TestedWebSocket = self._stack.enter_context(
            connect(_app_for(accepted), timeout=SECONDS, **options)
        )
        #: The server's end, which subscribes.
        self.ws: Any = accepted.get(timeout=SECONDS)
        self.subscription: Subscription | Subscriptions | None = None

    def subscribe(
        self, broadcast: Broadcast, channel: str, since: str | None = None
    ) -> Subscription:
        subscription = broadcast.subscribe(channel, self.ws, since)
        self.subscription = subscription
        return subscription

    def receive(self, count: int) -> list[str | bytes | None]:
        """Return the next messages."""
        return [self.client.receive() for _ in range(count)]

    def receive_until(self, last: str) -> list[str | bytes | None]:
        """Return the messages that come before ``last``."""
        return list(iter(self.client.receive, last))

    def leave(self) -> None:
        """Unsubscribe, and close the WebSocket."""
        if self.subscription is not None:
            self.subscription.close()
        self._stack.close()


class Observer(Member):
    """A member of a channel, and what its client knows about the members from the events."""

    def __init__(self, broadcast: Broadcast, channel: str, key: str, member: object) -> None:
        super().__init__({})
        self.key = key
        #: By key; ``None`` before the list.
        self.view: dict[str, Any] | None = None
        self.has_changed = Event()
        self.events: list[tuple[str, list[str]]] = []
        self.problem: BaseException | None = None
        self._reader = gevent.spawn(self._read)
        try:
            self.subscription = broadcast.subscribe(channel, self.ws, member=member, key=key)
        except BaseException:
            self.leave()
            raise

    def _read(self) -> None:
        try:
            for text in self.client:
                event = json.loads(text)
                self._apply(event["type"], event["members"])
                self.has_changed.set()
        except AssertionError as problem:
            self.problem = problem

    def _apply(self, kind: str, members: list[tuple[str, Any]]) -> None:
        self.events.append((kind, [key for key, _ in members]))
        if kind == "members":
            assert self.view is None, "a second list of members"
            self.view = dict(members)
            assert self.key in self.view, "the list is without the newcomer"
            return
        assert self.view is not None, "an event before the list"
        for key, member in members:
            if kind == "joined":
                assert key not in self.view, "a member has joined twice"
            else:
                assert key in self.view, "a member has left twice, or has never joined"
                assert (self.view[key] == member) is (kind == "left"), "a change is missing"
            if kind == "left":
                del self.view[key]
            else:
                self.view[key] = member

    def wait_for(self, view: dict[str, Any]) -> None:
        """Wait until the client knows these members.

        :raises AssertionError: if an event contradicts those before it.
        """
        with limit(f"{view!r:.200} are not the members"):
            while self.view != view and self.problem is None:
                self.has_changed.clear()
                self.has_changed.wait()
        if self.problem is not None:
            raise self.problem

    def leave(self) -> None:
        super().leave()
        self._reader.kill()


def _app_for(accepted: AsyncResult[Any]) -> Application:
    """Return an application that accepts a WebSocket and hands it over."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        ws = environ["wsgi.websocket"]
        ws.accept()
        accepted.set(ws)
        for _ in ws:
            pass
        return []

    return app


class Site:
    """The processes, listeners and WebSockets of a test."""

    def __init__(self, url: str, spans_processes: bool) -> None:
        self.url = url
        self._spans_processes = spans_processes
        self._broadcasts: list[Broadcast] = []
        self._backends: list[Backend] = []
        self._leavers: list[Callable[[], object]] = []

    def process(self, url: str | None = None, **options: Any) -> Broadcast:
        """Return a ``Broadcast``, which stands for a process."""
        broadcast = Broadcast(url or self.url, **options)
        self._broadcasts.append(broadcast)
        return broadcast

    def processes(self, count: int, **options: Any) -> list[Broadcast]:
        """Return several; if the backend has only one process, the same one several times."""
        if not self._spans_processes:
            return [self.process(**options)] * count
        return [self.process(**options) for _ in range(count)]

    def backend(
        self, history: int | dict[str, int] = 0, history_ttl: float = 3600.0
    ) -> tuple[Backend, Recorder]:
        """Return a backend without a ``Broadcast``, and its receiver."""
        recorder = Recorder()
        backend = backend_for(self.url)(self.url, recorder, history, history_ttl)
        self._backends.append(backend)
        return backend, recorder

    def connect(self, **options: Any) -> Member:
        """Return a WebSocket that is not subscribed; the options are those of its server."""
        member = Member(options)
        self._leavers.append(member.leave)
        return member

    def join(self, broadcast: Broadcast, channel: str, since: str | None = None) -> Member:
        """Return a WebSocket that is subscribed."""
        member = self.connect()
        with limit("subscribe() did not return"):
            member.subscribe(broadcast, channel, since)
        return member

    def observe(
        self, broadcast: Broadcast, channel: str, key: str, member: object = True
    ) -> Observer:
        """Return a member of a channel."""
        with limit("subscribe() did not return"):
            observer = Observer(broadcast, channel, key, member)
        self._leavers.append(observer.leave)
        return observer

    def listen(self, broadcast: Broadcast, channel: str, **limits: int) -> Listener:
        with limit("listen() did not return"):
            listener = broadcast.listen(channel, **limits)
        self._leavers.append(listener.close)
        return listener

    def close(self) -> None:
        """Unsubscribe all.

        :raises AssertionError: if a ``Broadcast`` still has a channel.
        """
        for leave in self._leavers:
            leave()
        left = [channel for broadcast in self._broadcasts for channel in broadcast._channels]
        with limit("close() did not return"):
            for broadcast in self._broadcasts:
                broadcast.close()
            for backend in self._backends:
                backend.close()
        assert not left, f"channels without subscribers were not removed: {left!r:.200}"


def limit(problem: str) -> gevent.Timeout:
    """Return a context manager that raises ``AssertionError`` after :data:`SECONDS`."""
    return gevent.Timeout(SECONDS, AssertionError(f"{problem} within {SECONDS:.0f} seconds"))


def wait_until(condition: Callable[[], bool], problem: str) -> None:
    """Wait for a condition that has no event."""
    with limit(problem):
        while not condition():
            gevent.sleep(0.01)


def take(listener: Listener, count: int) -> list[Message]:
    """Return the next messages of a listener."""
    with limit(f"{count} messages did not arrive"):
        return [next(listener) for _ in range(count)]


def take_until(listener: Listener, last: str) -> list[Message]:
    """Return the messages that come before ``last``."""
    with limit(f"{last!r} did not arrive"):
        return list(_until(listener, last))


def _until(listener: Listener, last: str) -> Iterator[Message]:
    for message in listener:
        if message.data == last:
            return
        yield message
    raise AssertionError("the listener has ended")


def data_of(messages: Iterable[Message]) -> list[str | bytes]:
    return [message.data for message in messages]


def numbers(count: int, prefix: str = "") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def publish_all(
    broadcast: Broadcast, channel: str, messages: Iterable[str], *, keep: bool = True
) -> list[str | None]:
    """Publish messages, and let other greenlets run after each; return their ids."""
    ids = []
    for message in messages:
        ids.append(broadcast.publish(channel, message, keep=keep))
        gevent.sleep(0)
    return ids


def publish_quickly(broadcast: Broadcast, channel: str, messages: Iterable[str]) -> list[str]:
    """Publish messages without letting other greenlets run; return their ids."""
    return [broadcast.publish(channel, message) or "" for message in messages]


def kept_ids(broadcast: Broadcast, channel: str, messages: Iterable[str]) -> list[str]:
    """Publish messages with a history; return their ids."""
    ids = [broadcast.publish(channel, message) for message in messages]
    assert all(ids), "a message of a channel with a history has no id"
    return [id_ for id_ in ids if id_]


def run_all(functions: Iterable[Callable[[], Result]]) -> list[Result]:
    """Call functions in greenlets at the same time; return their results."""
    greenlets = [gevent.spawn(function) for function in functions]
    with limit("the greenlets did not end"):
        gevent.joinall(greenlets, raise_error=True)
    return [greenlet.get() for greenlet in greenlets]


def run_in_threads(functions: Iterable[Callable[[], Result]]) -> list[Result]:
    """Call functions in native threads at the same time; return their results.

    These threads are not those of a ``ThreadPool``, which destroys the hub of a thread that ends
    before its sockets can be closed.
    """
    loop = gevent.get_hub().loop
    results: list[AsyncResult[Result]] = []

    def run(function: Callable[[], Result], result: AsyncResult[Result]) -> None:
        try:
            value = function()
        except BaseException as problem:  # noqa: BLE001 - raised again by the caller
            loop.run_callback_threadsafe(result.set_exception, problem)
        else:
            loop.run_callback_threadsafe(result.set, value)

    for function in functions:
        results.append(AsyncResult())
        _start_thread(run, (function, results[-1]))
    with limit("the threads did not end"):
        return [cast("Result", result.get()) for result in results]


def with_id(message: str, id_: str | None) -> str:
    """Return the message for the sockets, for ``Broadcast(envelope=…)``."""
    return f"{id_ or '-'} {message}"


def wait_until_healthy(*broadcasts: Broadcast) -> None:
    """Wait as a health check does, without an operation that may find out that all is well."""
    for broadcast in broadcasts:
        wait_until(partial(is_healthy, broadcast), "the backend did not become healthy by itself")


def is_healthy(broadcast: Broadcast) -> bool:
    return broadcast.healthy


def expect_failure(operation: Callable[[], object]) -> None:
    """Check that an operation raises ``BroadcastError``, after a bounded wait."""
    with limit("the operation did not fail"), pytest.raises(BroadcastError):
        operation()


class BackendTests:
    """The contract of :class:`geventws.broadcast.Backend`; a subclass names the backend.

    The subclass defines the fixture :meth:`url`. The fixtures :meth:`outage` and :meth:`intrude`
    are optional: without them, the tests that need them are skipped.
    """

    #: Whether several ``Broadcast`` objects of one URL are connected, as several processes are.
    spans_processes = True

    # ---------------------------------------------------------------- fixtures

    @pytest.fixture
    def url(self) -> str:
        """The URL of the backend. It may be the same for all tests."""
        raise NotImplementedError("define a fixture `url` that returns the URL of the backend")

    @pytest.fixture
    def outage(self) -> Outage:
        """``with outage() as other_url:`` makes the backend unreachable through ``url``.

        ``other_url`` is a URL by which other processes reach the same backend meanwhile, or
        ``None`` if no process reaches it.
        """
        pytest.skip("the fixture `outage` is not defined")

    @pytest.fixture
    def intrude(self) -> Callable[[str], object]:
        """``intrude(channel)`` publishes and stores data of another program for a channel."""
        pytest.skip("the fixture `intrude` is not defined")

    @pytest.fixture
    def channel(self) -> str:
        """A channel of the test's own."""
        return f"contract:{uuid4().hex}"

    @pytest.fixture
    def site(self, url: str) -> Iterator[Site]:
        site = Site(url, self.spans_processes)
        yield site
        site.close()

    @pytest.fixture
    def has_members(self, site: Site) -> None:
        """Skip a test of presence if the backend has none."""
        if not site.process()._backend.has_members:
            pytest.skip("the backend has no presence")

    @pytest.fixture
    def short_leases(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Members of a killed process leave within seconds."""
        for name, seconds in (("RENEWAL", 0.3), ("LEASE", 1.2), ("SETTLING", 0.6)):
            monkeypatch.setattr(presence, name, seconds)

    # ---------------------------------------------------------------- delivery

    @pytest.mark.parametrize("history", [0, 1000])
    def test_every_subscriber_of_every_process_gets_each_message_once_and_in_order(
        self, site: Site, channel: str, history: int
    ) -> None:
        processes = site.processes(3, history=history)
        members = [site.join(process, channel) for process in processes * 2]
        listeners = [site.listen(process, channel) for process in processes]
        publish_all(processes[0], channel, [*numbers(100), "last"])
        for member in members:
            assert member.receive_until("last") == numbers(100)
        for listener in listeners:
            assert data_of(take_until(listener, "last")) == numbers(100)

    @pytest.mark.parametrize("history", [0, 1000])
    def test_messages_of_each_publisher_keep_their_order_while_others_publish(
        self, site: Site, channel: str, history: int
    ) -> None:
        processes = site.processes(3, history=history)
        listeners = [site.listen(process, channel) for process in processes]
        run_all(
            partial(publish_all, process, channel, numbers(50, name))
            for name, process in zip("abc", processes, strict=True)
        )
        heard = [take(listener, 150) for listener in listeners]
        for messages in heard:
            for name in "abc":
                own = [data for data in data_of(messages) if str(data).startswith(name)]
                assert own == numbers(50, name)
            if history:
                assert messages == heard[0], "the processes have different orders"

    @pytest.mark.parametrize("history", [0, 1000])
    def test_messages_of_native_threads_keep_their_order(
        self, site: Site, channel: str, history: int
    ) -> None:
        processes = site.processes(3, history=history)
        listener = site.listen(processes[0], channel)
        member = site.join(processes[1], channel)
        run_in_threads(
            partial(publish_quickly, process, channel, numbers(100, name))
            for name, process in zip("abc", processes, strict=True)
        )
        for heard in (data_of(take(listener, 300)), member.receive(300)):
            for name in "abc":
                assert [it for it in heard if str(it).startswith(name)] == numbers(100, name)

    def test_many_threads_may_publish_through_one_broadcast(self, site: Site, channel: str) -> None:
        subscriber, publisher = site.processes(2, history=1000)
        listener = site.listen(subscriber, channel)
        ids = run_in_threads(
            partial(publish_quickly, publisher, channel, numbers(50, name)) for name in "abcd"
        )
        heard = take(listener, 200)
        assert sorted(chain(*ids)) == sorted(message.id or "" for message in heard)
        assert heard == subscriber.history(channel)

    def test_many_greenlets_may_publish_through_one_broadcast(
        self, site: Site, channel: str
    ) -> None:
        subscriber, publisher = site.processes(2, history=1000)
        listener = site.listen(subscriber, channel)
        run_all(partial(publisher.publish, channel, it) for it in numbers(100))
        assert sorted(map(str, data_of(take(listener, 100)))) == sorted(numbers(100))

    @pytest.mark.parametrize("history", [0, 100])
    def test_text_and_bytes_arrive_as_they_were_published(
        self, site: Site, channel: str, history: int
    ) -> None:
        publisher, subscriber = site.processes(2, history=history)
        listener, member = site.listen(subscriber, channel), site.join(subscriber, channel)
        for message in MESSAGES:
            publisher.publish(channel, message)
        assert data_of(take(listener, len(MESSAGES))) == MESSAGES
        assert member.receive(len(MESSAGES)) == MESSAGES
        assert data_of(subscriber.history(channel)) == (MESSAGES if history else [])

    @pytest.mark.parametrize("history", [0, 2])
    @pytest.mark.parametrize(
        "message", ["ä" * (1 << 19), bytes(range(256)) * (1 << 12)], ids=["text", "bytes"]
    )
    def test_a_message_of_a_mebibyte_arrives_whole(
        self, site: Site, channel: str, history: int, message: str | bytes
    ) -> None:
        publisher, subscriber = site.processes(2, history=history)
        listener, member = site.listen(subscriber, channel), site.join(subscriber, channel)
        receiving = gevent.spawn(member.receive, 1)
        publisher.publish(channel, message)
        assert data_of(take(listener, 1)) == [message]
        assert receiving.get(timeout=SECONDS) == [message]
        assert data_of(subscriber.history(channel)) == ([message] if history else [])

    @pytest.mark.parametrize("history", [0, 3])
    def test_channels_with_any_names_are_separate(
        self, site: Site, channel: str, history: int
    ) -> None:
        publisher, subscriber = site.processes(2, history=history)
        listeners = {name: site.listen(subscriber, name) for name in NAMES}
        for name in NAMES:
            assert bool(publisher.publish(name, f"to {name}")) is bool(history)
        for name, listener in listeners.items():
            message = take(listener, 1)[0]
            assert (message.channel, message.data) == (name, f"to {name}")
            assert subscriber.history(name)[-1:] == ([message] if history else [])
        for name in NAMES:
            publisher.publish(name, "last")
        for listener in listeners.values():
            assert take_until(listener, "last") == []

    @pytest.mark.parametrize("name", ["", "a" * 1025, "é" * 513, "\ud800", "a\udfffb"])
    @pytest.mark.parametrize("history", [0, 3])
    def test_an_invalid_name_is_refused_and_disturbs_no_other_channel(
        self, site: Site, channel: str, name: str, history: int
    ) -> None:
        process = site.process(history=history)
        member, listener = site.connect(), site.listen(process, channel)
        operations: list[Callable[[], object]] = [
            lambda: process.publish(name, "message"),
            lambda: process.history(name),
            lambda: process.subscribers(name),
            lambda: process.listen(name),
            lambda: process.subscribe(name, member.ws),
            lambda: process.subscribe(name, member.ws, ""),
            lambda: process.subscribe([channel, name], member.ws),
        ]
        for operation in operations:
            with limit("it did not return"), pytest.raises(ValueError, match=r"name|UTF-8"):
                operation()
        process.publish(channel, "message")
        assert data_of(take(listener, 1)) == ["message"]
        assert process.healthy

    def test_a_message_that_cannot_be_encoded_is_refused(self, site: Site, channel: str) -> None:
        process = site.process(history=3)
        listener = site.listen(process, channel)
        for message in ("\ud800", "a\udfffb"):
            with pytest.raises(ValueError, match=r"surrogate|UTF-8"):
                process.publish(channel, message)
        process.publish(channel, "next")
        assert data_of(take(listener, 1)) == data_of(process.history(channel)) == ["next"]

    def test_a_socket_gets_the_messages_of_all_its_channels_and_of_no_other(
        self, site: Site, channel: str
    ) -> None:
        publisher, subscriber = site.processes(2)
        member = site.join(subscriber, f"{channel}a")
        with subscriber.subscribe(f"{channel}b", member.ws):
            for name in "abc":
                publisher.publish(channel + name, name)
            publisher.publish(f"{channel}a", "last")
            assert sorted(map(str, member.receive(3))) == ["a", "b", "last"]

    @pytest.mark.parametrize("history", [0, 100])
    def test_an_excluded_socket_gets_all_messages_but_its_own(
        self, site: Site, channel: str, history: int
    ) -> None:
        first, second = site.processes(2, history=history)
        ann, bob = site.join(first, channel), site.join(second, channel)
        listener = site.listen(second, channel)
        messages = [*MESSAGES, "long" * 10_000]
        for message in messages:
            first.publish(channel, message, exclude=ann.ws)
        second.publish(channel, "last")
        assert ann.receive_until("last") == []
        assert bob.receive_until("last") == messages
        heard = take_until(listener, "last")
        assert data_of(heard) == messages
        assert {message.excluded for message in heard} == {ann.ws.id}
        assert first.history(channel)[:-1] == (heard if history else [])

    def test_subscribing_twice_is_the_same_as_once(self, site: Site, channel: str) -> None:
        process = site.process()
        member = site.join(process, channel)
        member.subscribe(process, channel)
        process.publish(channel, "once")
        process.publish(channel, "last")
        assert member.receive_until("last") == ["once"]
        assert process.subscribers(channel) == 1

    def test_publishing_without_subscribers_works(self, site: Site, channel: str) -> None:
        assert site.process().publish(channel, "message") is None
        process = site.process(history=3)
        id_ = process.publish(channel, "message")
        assert process.history(channel) == [Message(channel, "message", id_)]
        assert process.healthy

    # --------------------------------------------------------------------- ids

    def test_ids_rise_and_are_the_same_for_publisher_subscribers_and_history(
        self, site: Site, channel: str
    ) -> None:
        publisher, subscriber = site.processes(2, history=200)
        listener = site.listen(subscriber, channel)
        ids = kept_ids(publisher, channel, numbers(100))
        assert [message.id for message in take(listener, 100)] == ids
        assert [message.id for message in publisher.history(channel)] == ids
        assert len(set(ids)) == 100
        backend = subscriber._backend
        for earlier, later in pairwise(ids):
            assert later.isascii()
            assert later.isprintable()
            assert backend.is_after(later, earlier)
            assert not backend.is_after(earlier, later)
            assert not backend.is_after(later, later)

    def test_ids_of_several_publishers_rise_in_the_order_of_arrival(
        self, site: Site, channel: str
    ) -> None:
        processes = site.processes(3, history=1000)
        listener = site.listen(processes[0], channel)
        run_all(partial(publish_all, it, channel, numbers(50)) for it in processes)
        ids = [message.id or "" for message in take(listener, 150)]
        backend = processes[0]._backend
        assert all(backend.is_after(it, before) for before, it in pairwise(ids))

    def test_without_a_history_messages_have_no_id(self, site: Site, channel: str) -> None:
        process = site.process()
        listener = site.listen(process, channel)
        assert process.publish(channel, "message") is None
        assert take(listener, 1) == [Message(channel, "message", None)]
        assert process.history(channel) == []

    def test_a_message_that_is_not_kept_arrives_in_order_and_without_an_id(
        self, site: Site, channel: str
    ) -> None:
        publisher, subscriber = site.processes(2, history=100)
        listener, member = site.listen(subscriber, channel), site.join(subscriber, channel)
        ids = [publisher.publish(channel, it, keep=int(it) % 3 == 0) for it in numbers(60)]
        assert [it is not None for it in ids] == [number % 3 == 0 for number in range(60)]
        heard = take(listener, 60)
        assert data_of(heard) == member.receive(60) == numbers(60)
        assert [message.id for message in heard] == ids
        assert data_of(subscriber.history(channel)) == numbers(60)[::3]

    # --------------------------------------------- unsubscribing, counting, end

    def test_unsubscribing_ends_the_messages_of_this_socket_only(
        self, site: Site, channel: str
    ) -> None:
        process = site.process()
        leaving, staying = site.join(process, channel), site.join(process, channel)
        process.publish(channel, "before")
        assert leaving.receive(1) == ["before"]
        process.unsubscribe(channel, leaving.ws)
        process.unsubscribe(channel, leaving.ws)
        process.publish(channel, "after")
        assert staying.receive(2) == ["before", "after"]
        leaving.ws.send("last")
        assert leaving.receive_until("last") == []

    def test_who_comes_back_to_an_empty_channel_gets_later_messages_only(
        self, site: Site, channel: str
    ) -> None:
        publisher, subscriber = site.processes(2)
        site.join(subscriber, channel).leave()
        publisher.publish(channel, "nobody gets this")
        member = site.join(subscriber, channel)
        publisher.publish(channel, "message")
        assert member.receive(1) == ["message"]

    def test_coming_and_going_loses_no_message_of_a_channel(self, site: Site, channel: str) -> None:
        publisher, subscriber = site.processes(2)
        for message in numbers(50):
            with site.listen(subscriber, channel) as listener:
                publisher.publish(channel, message)
                assert data_of(take(listener, 1)) == [message]
        assert subscriber.healthy

    def test_sockets_are_counted_in_all_processes(self, site: Site, channel: str) -> None:
        first, second, third = site.processes(3, history=3)
        members = [site.join(first, channel), site.join(first, channel, "")]
        assert third.subscribers(channel) == 2
        members.append(site.join(second, channel))
        assert [it.subscribers(channel) for it in (first, second, third)] == [3, 3, 3]
        site.listen(second, channel)
        assert third.subscribers(channel) == 3, "listeners are not counted"
        assert third.subscribers(f"{channel}:empty") == 0
        for remaining in (2, 1, 0):
            members.pop().leave()
            assert third.subscribers(channel) == remaining

    def test_the_end_of_a_broadcast_ends_its_listeners_and_affects_no_other(
        self, site: Site, channel: str
    ) -> None:
        ending = Broadcast(site.url, history=3)
        publisher = site.process(history=3)
        listener, elsewhere = ending.listen(channel), site.listen(publisher, channel)
        member = site.connect()
        ending.subscribe(channel, member.ws)
        ending.publish(channel, "before")
        assert data_of(take(listener, 1)) == ["before"]
        with limit("close() did not return"):
            ending.close()
            assert list(listener) == []
        member.ws.send("open")
        assert member.receive(2) == ["before", "open"]
        publisher.publish(channel, "after")
        heard = data_of(take_until(elsewhere, "after"))
        assert heard == (["before"] if self.spans_processes else [])

    def test_a_broadcast_that_was_not_used_can_be_closed(self, site: Site) -> None:
        Broadcast(site.url, history=3).close()

    def test_the_end_of_a_broadcast_releases_its_greenlets_and_its_connections(
        self, site: Site, channel: str
    ) -> None:
        ann = site.connect()

        def use() -> Broadcast:
            broadcast = Broadcast(site.url, history=3)
            if broadcast._backend.has_members:
                broadcast.subscribe(channel, ann.ws, member="Ann")
            with broadcast.listen(channel):
                broadcast.publish(channel, "message")
                broadcast.subscribers(channel)
            broadcast.close()
            return broadcast

        first = use()  # what a process keeps for all is there now
        greenlets, files = _living_greenlets(), _count_open_files()
        second = use()
        wait_until(lambda: not _living_greenlets() - greenlets, "a greenlet did not end")
        wait_until(lambda: _count_open_files() <= files, "a connection was not closed")
        assert first is not second  # neither was collected before its end

    # ------------------------------------------------------------ interruptions

    @pytest.mark.parametrize("history", [0, 3])
    def test_a_subscribe_that_is_interrupted_leaves_the_channel_to_others(
        self, site: Site, channel: str, history: int
    ) -> None:
        publisher, subscriber = site.processes(2, history=history)
        for number in range(40):
            name = f"{channel}{number}"
            interruption = gevent.Timeout(number * 1e-4)
            try:
                with interruption, subscriber.listen(name):
                    gevent.sleep(0)
            except gevent.Timeout as problem:
                if problem is not interruption:
                    raise
            listener = site.listen(subscriber, name)
            publisher.publish(name, "message")
            assert data_of(take(listener, 1)) == ["message"]
        assert subscriber.healthy

    @pytest.mark.parametrize("history", [0, 3])
    def test_a_first_subscriber_that_is_killed_leaves_the_channel_to_those_who_wait(
        self, site: Site, channel: str, history: int
    ) -> None:
        publisher, subscriber = site.processes(2, history=history)
        for number in range(20):
            name = f"{channel}{number}"
            member = site.connect()
            killed = gevent.spawn(member.subscribe, subscriber, name, "" if history else None)
            waiting = gevent.spawn(site.listen, subscriber, name)
            for _ in range(number % 4):
                gevent.sleep(0)
            killed.kill(block=False)
            listener = waiting.get(timeout=SECONDS)
            publisher.publish(name, "message")
            assert data_of(take(listener, 1)) == ["message"]

    def test_who_leaves_and_comes_at_the_same_time_gets_the_messages(
        self, site: Site, channel: str
    ) -> None:
        publisher, subscriber = site.processes(2)
        for message in numbers(20):
            leaving = site.listen(subscriber, channel)
            coming = gevent.spawn(site.listen, subscriber, channel)
            leaving.close()
            with coming.get(timeout=SECONDS) as listener:
                publisher.publish(channel, message)
                assert data_of(take(listener, 1)) == [message]

    # ------------------------------------------------------------- many channels

    def test_many_channels_are_subscribed_to_at_once(self, site: Site, channel: str) -> None:
        publisher, subscriber = site.processes(2)
        names = numbers(300, channel)
        member = site.connect()
        with limit("subscribe() did not return"):
            member.subscription = subscriber.subscribe(iter(names), member.ws)
        assert list(member.subscription) == names
        for name in names:
            publisher.publish(name, name)
        assert sorted(map(str, member.receive(300))) == sorted(names)
        member.subscription.close()
        publisher.publish(names[0], "nobody gets this")
        member.ws.send("last")
        assert member.receive_until("last") == []

    def test_each_of_many_channels_has_its_own_since(self, site: Site, channel: str) -> None:
        publisher, subscriber = site.processes(2, history=3, envelope=lambda m, id_, c: f"{c} {m}")
        names = [f"{channel}{name}" for name in "abcd"]
        ids = {name: kept_ids(publisher, name, numbers(5)) for name in names}
        member = site.connect()
        since = {names[0]: ids[names[0]][3], names[1]: ids[names[1]][0], names[2]: ""}
        subscriptions = subscriber.subscribe(names, member.ws, since)
        member.subscription = subscriptions
        assert [subscriptions[name].recovered for name in names] == [True, False, True, True]
        assert subscriptions.recovered is False
        expected = {names[0]: ["4"], names[1]: ["2", "3", "4"], names[2]: ["2", "3", "4"]}
        texts = sorted(f"{name} {text}" for name, some in expected.items() for text in some)
        assert sorted(map(str, member.receive(7))) == texts
        for name in names:
            publisher.publish(name, "live")
        assert sorted(map(str, member.receive(4))) == [f"{name} live" for name in names]

    def test_one_since_may_be_for_all_of_many_channels(self, site: Site, channel: str) -> None:
        publisher, subscriber = site.processes(2, history=3)
        names = [f"{channel}{name}" for name in "ab"]
        for name in names:
            publisher.publish(name, name)
        member = site.connect()
        member.subscription = subscriber.subscribe(names, member.ws, "")
        assert member.subscription.wait_recovered(SECONDS) is True
        assert sorted(map(str, member.receive(2))) == names

    # ------------------------------------------------------------------ history

    def test_the_history_keeps_the_latest_messages_for_every_process(
        self, site: Site, channel: str
    ) -> None:
        publisher, reader = site.processes(2, history=5)
        assert reader.history(channel) == []
        ids = kept_ids(publisher, channel, numbers(8))
        for process in (publisher, reader):
            assert process.history(channel) == [
                Message(channel, str(number), ids[number]) for number in range(3, 8)
            ]

    def test_the_first_pattern_that_matches_decides_the_size_of_the_history(
        self, site: Site, channel: str
    ) -> None:
        patterns = {"chat:vip:*": 1, "chat:*": 3, "typing:*": 0}
        publisher, subscriber = site.processes(2, history=patterns)
        sizes = {"chat:vip:": 1, "chat:": 3, "typing:": 0, "other:": 0}
        for prefix, size in sizes.items():
            name = prefix + channel
            listener = site.listen(subscriber, name)
            ids = [publisher.publish(name, it) for it in numbers(5)]
            assert [id_ is not None for id_ in ids] == [size > 0] * 5
            assert [(it.data, it.id) for it in take(listener, 5)] == list(
                zip(numbers(5), ids, strict=True)
            )
            assert data_of(subscriber.history(name)) == numbers(5)[5 - size :]
            assert (subscriber._backend.position(name) is None) is (size == 0)

    def test_a_history_expires(self, site: Site, channel: str) -> None:
        publisher, reader = site.processes(2, history=3, history_ttl=SHORT_TTL)
        publisher.publish(channel, "message")
        assert data_of(reader.history(channel)) == ["message"]
        wait_until(lambda: not reader.history(channel), "the history did not expire")
        assert publisher.history(channel) == []

    def test_a_message_prolongs_the_history_of_its_channel(self, site: Site, channel: str) -> None:
        process = site.process(history=100, history_ttl=SHORT_TTL)
        started = latest = time.monotonic()
        count = 0
        while latest < started + 1.5 * SHORT_TTL:
            process.publish(channel, "message")
            count += 1
            gevent.sleep(SHORT_TTL / 10)
            now = time.monotonic()
            if now - latest > 0.8 * SHORT_TTL:
                pytest.skip("this machine is too busy to measure a time")
            latest = now
        assert len(process.history(channel)) == count

    # -------------------------------------------------------- history with since

    def _stored(
        self, site: Site, channel: str, count: int, *, is_subscribed: bool, **options: Any
    ) -> tuple[Backend, list[str]]:
        """Return a backend, and the ids of messages that another process has published."""
        backend, _ = site.backend(**options)
        publish: Callable[[str, str, bool], str | None] = backend.publish
        if self.spans_processes:
            publish = site.backend(**options)[0].publish
        if is_subscribed:
            backend.subscribe(channel)
        ids = [publish(channel, it, True) for it in numbers(count)]
        return backend, [id_ for id_ in ids if id_]

    @pytest.mark.parametrize("is_subscribed", [True, False])
    def test_since_is_complete_if_all_later_messages_are_kept(
        self, site: Site, channel: str, is_subscribed: bool
    ) -> None:
        backend, ids = self._stored(site, channel, 8, is_subscribed=is_subscribed, history=5)
        for number, id_ in enumerate(ids):
            messages, is_complete = backend.history(channel, id_)
            kept = range(max(3, number + 1), 8)
            assert [message.id for message in messages] == [ids[it] for it in kept]
            assert is_complete is (number >= 2), f"message {number} of 0 to 7; 3 to 7 are kept"

    @pytest.mark.parametrize("is_subscribed", [True, False])
    def test_an_empty_since_is_complete_and_requests_all_kept_messages(
        self, site: Site, channel: str, is_subscribed: bool
    ) -> None:
        backend, ids = self._stored(site, channel, 8, is_subscribed=is_subscribed, history=5)
        messages, is_complete = backend.history(channel, "")
        assert ([message.id for message in messages], is_complete) == (ids[3:], True)
        assert backend.history(f"{channel}:new", "") == History([], True)

    @pytest.mark.parametrize("is_subscribed", [True, False])
    @pytest.mark.parametrize("since", UNKNOWN_IDS, ids=lambda it: ascii(it)[1:25])
    def test_an_unknown_since_is_not_complete_and_requests_all_kept_messages(
        self, site: Site, channel: str, since: str, is_subscribed: bool
    ) -> None:
        backend, ids = self._stored(site, channel, 8, is_subscribed=is_subscribed, history=5)
        messages, is_complete = backend.history(channel, since)
        assert ([message.id for message in messages], is_complete) == (ids[3:], False)
        assert backend.history(f"{channel}:new", since) == History([], False)
        assert backend.healthy

    def test_a_since_that_is_unknown_does_not_disturb_a_socket(
        self, site: Site, channel: str
    ) -> None:
        publisher, subscriber = site.processes(2, history=3)
        publisher.publish(channel, "kept")
        for since in UNKNOWN_IDS:
            member = site.join(subscriber, channel, since)
            assert isinstance(member.subscription, Subscription)
            assert member.subscription.recovered is False
            publisher.publish(channel, "kept", keep=False)
            assert member.receive(2) == ["kept", "kept"]
            member.leave()

    @pytest.mark.parametrize("is_subscribed", [True, False])
    def test_messages_that_are_not_kept_are_not_missing(
        self, site: Site, channel: str, is_subscribed: bool
    ) -> None:
        backend, ids = self._stored(site, channel, 1, is_subscribed=is_subscribed, history=3)
        for message in numbers(10):
            backend.publish(channel, message, False)
        assert backend.history(channel, ids[0]) == History([], True)

    def test_who_has_missed_nothing_is_complete_after_the_history_expired(
        self, site: Site, channel: str
    ) -> None:
        options = {"history": 3, "history_ttl": SHORT_TTL}
        backend, ids = self._stored(site, channel, 5, is_subscribed=False, **options)
        wait_until(lambda: not backend.history(channel, None).messages, "it did not expire")
        assert backend.history(channel, ids[-1]) == History([], True)

    def test_who_has_missed_a_message_that_expired_is_not_complete(
        self, site: Site, channel: str
    ) -> None:
        options = {"history": 3, "history_ttl": SHORT_TTL}
        backend, ids = self._stored(site, channel, 5, is_subscribed=False, **options)
        wait_until(lambda: not backend.history(channel, None).messages, "it did not expire")
        assert backend.history(channel, ids[-2]) == History([], False)
        backend.publish(channel, "new", True)
        messages, is_complete = backend.history(channel, ids[-2])
        assert (data_of(messages), is_complete) == (["new"], False)
        messages, is_complete = backend.history(channel, ids[-1])
        assert (data_of(messages), is_complete) == (["new"], True)

    def test_a_history_with_since_comes_after_its_messages_were_delivered(
        self, site: Site, channel: str
    ) -> None:
        publisher, _ = site.backend(history=1000)
        backend, recorder = site.backend(history=1000)
        if not self.spans_processes:
            publisher = backend
        backend.subscribe(channel)

        def publish() -> None:
            for message in numbers(100):
                publisher.publish(channel, message, True)
                gevent.sleep(0)

        publishing = gevent.spawn(publish)
        while not publishing.dead:
            messages, _ = backend.history(channel, "")
            delivered = [message.id for message in recorder.delivered(channel)]
            assert [message.id for message in messages] == delivered[: len(messages)]
            gevent.sleep(0)
        publishing.get()
        publisher.publish(channel, "last", True)
        heard = recorder.wait_for(channel, "last")
        assert data_of(heard) == [*numbers(100), "last"]

    # ----------------------------------------------------------------- position

    def test_a_client_that_has_received_nothing_comes_back_with_its_position(
        self, site: Site, channel: str
    ) -> None:
        publisher, subscriber = site.processes(2, history=5)
        publisher.publish(channel, "before")
        member = site.join(subscriber, channel)
        position = _position_of(member)
        assert position
        member.leave()
        assert _position_of(member) == position
        for missed in ([], numbers(5)):
            publish_all(publisher, channel, missed)
            member = site.join(subscriber, channel, position)
            assert isinstance(member.subscription, Subscription)
            assert member.subscription.recovered is True
            publisher.publish(channel, "last", keep=False)
            assert member.receive_until("last") == missed
            member.leave()

    def test_a_position_is_not_complete_if_more_messages_followed_than_are_kept(
        self, site: Site, channel: str
    ) -> None:
        publisher, subscriber = site.processes(2, history=3)
        publisher.publish(channel, "before")
        member = site.join(subscriber, channel)
        position = _position_of(member)
        assert position
        publish_all(publisher, channel, numbers(4))
        assert subscriber._backend.history(channel, position).complete is False
        assert data_of(subscriber._backend.history(channel, position).messages) == numbers(4)[1:]

    def test_a_channel_that_never_had_a_message_has_a_position(
        self, site: Site, channel: str
    ) -> None:
        publisher, subscriber = site.processes(2, history=5)
        member = site.join(subscriber, channel)
        position = _position_of(member)
        assert position
        assert position.isascii()
        assert position.isprintable()
        assert subscriber._backend.history(channel, position) == History([], True)
        publish_all(publisher, channel, numbers(3))
        for process in (publisher, subscriber):
            messages, is_complete = process._backend.history(channel, position)
            assert (data_of(messages), is_complete) == (numbers(3), True)

    def test_a_position_follows_the_messages(self, site: Site, channel: str) -> None:
        publisher, subscriber = site.processes(2, history=5)
        member = site.join(subscriber, channel)
        for message in numbers(3):
            id_ = publisher.publish(channel, message)
            assert member.receive(1) == [message]
            assert _position_of(member) == id_
        publisher.publish(channel, "passing", keep=False)
        assert member.receive(1) == ["passing"]
        assert _position_of(member) == id_
        late = site.join(subscriber, channel)
        assert _position_of(late) == id_

    def test_a_new_position_is_not_before_messages_that_were_published_earlier(
        self, site: Site, channel: str
    ) -> None:
        publisher, subscriber = site.processes(2, history=5)
        publish_all(publisher, channel, numbers(3))
        position = _position_of(site.join(subscriber, channel))
        assert position
        messages, is_complete = subscriber._backend.history(channel, position)
        assert (data_of(messages), is_complete) == ([], True)

    def test_a_position_taken_after_the_history_expired_is_complete(
        self, site: Site, channel: str
    ) -> None:
        publisher, subscriber = site.processes(2, history=3, history_ttl=SHORT_TTL)
        publisher.publish(channel, "before")
        wait_until(lambda: not subscriber.history(channel), "the history did not expire")
        position = _position_of(site.join(subscriber, channel))
        assert position
        publisher.publish(channel, "after")
        messages, is_complete = publisher._backend.history(channel, position)
        assert (data_of(messages), is_complete) == (["after"], True)

    def test_there_is_no_position_without_a_history(self, site: Site, channel: str) -> None:
        process = site.process()
        member = site.join(process, channel)
        process.publish(channel, "message")
        assert member.receive(1) == ["message"]
        assert _position_of(member) is None

    # ------------------------------------------------------------------- replay

    def test_a_client_comes_back_to_any_process(self, site: Site, channel: str) -> None:
        publisher, first, second = site.processes(3, history=5, envelope=with_id)
        member = site.join(first, channel)
        publisher.publish(channel, "heard")
        id_ = str(member.receive(1)[0]).split(" ")[0]
        member.leave()
        ids = kept_ids(publisher, channel, numbers(5))
        for process in (second, first):
            back = site.join(process, channel, id_)
            assert isinstance(back.subscription, Subscription)
            assert back.subscription.recovered is True
            assert back.receive(5) == [f"{it} {text}" for text, it in enumerate(ids)]
            back.leave()

    def test_an_excluded_socket_is_excluded_from_the_replay_and_its_successor_is_not(
        self, site: Site, channel: str
    ) -> None:
        publisher, process = site.processes(2, history=5)
        first = publisher.publish(channel, "first")
        member = site.join(process, channel)
        publisher.publish(channel, "own", exclude=member.ws)
        id_ = publisher.publish(channel, "next")
        assert member.receive(1) == ["next"]
        assert _position_of(member) == id_
        member.subscribe(process, channel, first)
        back = site.join(process, channel, first)
        publisher.publish(channel, "last")
        assert member.receive_until("last") == ["next"]
        assert back.receive_until("last") == ["own", "next"]

    def test_many_who_join_while_others_publish_get_each_message_once_and_in_order(
        self, site: Site, channel: str
    ) -> None:
        publisher, *processes = site.processes(3, history=1000)
        first = publisher.publish(channel, "first")
        members = [site.connect() for _ in range(200)]
        publishing = gevent.spawn(publish_all, publisher, channel, numbers(100))
        joining = []
        for number, member in enumerate(members):
            joining.append(
                gevent.spawn(
                    member.subscribe, processes[number % 2], channel, ("", first)[number % 2]
                )
            )
            if number % 4 == 0:
                gevent.sleep(0)
        with limit("the clients did not join"):
            gevent.joinall(joining, raise_error=True)
        publishing.get(timeout=SECONDS)
        publisher.publish(channel, "last")
        for number, member in enumerate(members):
            expected = numbers(100) if number % 2 else ["first", *numbers(100)]
            assert member.receive_until("last") == expected
            assert isinstance(member.subscription, Subscription)
            assert member.subscription.recovered is True

    def test_messages_that_are_published_while_a_slow_client_gets_the_history_follow_it(
        self, site: Site, channel: str
    ) -> None:
        publisher, subscriber = site.processes(2, history=100)
        listener = site.listen(subscriber, channel)
        stored = [f"{number} {os.urandom(1 << 16).hex()}" for number in range(90)]
        for message in stored:
            publisher.publish(channel, message)
        take(listener, 90)
        member = site.connect(max_send_buffer=1 << 17)
        joining = gevent.spawn(member.subscribe, subscriber, channel, "")
        assert member.receive(1) == stored[:1]
        assert subscriber.subscribers(channel) == 1
        for number in range(10):
            publisher.publish(channel, str(number), keep=number % 2 == 0)
        take(listener, 10)
        assert not joining.dead, "the client was not slow"
        assert member.receive(99) == [*stored[1:], *numbers(10)]
        assert joining.get(timeout=SECONDS).recovered is True

    def test_many_who_join_at_once_get_unkept_messages_in_order_too(
        self, site: Site, channel: str
    ) -> None:
        publisher, subscriber = site.processes(2, history=1000)
        first = publisher.publish(channel, "first")
        members = [site.connect() for _ in range(50)]

        def publish() -> None:
            for number in range(100):
                publisher.publish(channel, str(number), keep=number % 2 == 0)
                gevent.sleep(0)

        joins = [partial(it.subscribe, subscriber, channel, first) for it in members]
        publishing = gevent.spawn(publish)
        run_all(joins)
        publishing.get(timeout=SECONDS)
        publisher.publish(channel, "last")
        for member in members:
            heard = [int(str(it)) for it in member.receive_until("last")]
            assert heard == sorted(set(heard)), "twice or in a wrong order"
            assert [it for it in heard if it % 2 == 0] == list(range(0, 100, 2))

    def test_clients_that_come_and_go_while_others_publish_get_each_message_once(
        self, site: Site, channel: str
    ) -> None:
        publisher, *processes = site.processes(3, history=1000, envelope=with_id)
        first = publisher.publish(channel, "first") or ""

        def travel() -> list[str]:
            since, heard = first, list[str]()
            while heard[-1:] != ["last"]:
                member = site.join(processes[len(heard) % 2], channel, since)
                for _ in range(3):
                    since, _, text = str(member.client.receive()).partition(" ")
                    heard.append(text)
                    if text == "last":
                        break
                member.leave()
                assert isinstance(member.subscription, Subscription)
                assert member.subscription.recovered is True
            return heard

        def publish() -> list[str]:
            publish_all(publisher, channel, [*numbers(60), "last"])
            return []

        for heard in run_all([publish, *[travel] * 10])[1:]:
            assert heard == [*numbers(60), "last"]

    def test_a_socket_that_joins_many_channels_while_others_publish_gets_each_message_once(
        self, site: Site, channel: str
    ) -> None:
        publisher, subscriber = site.processes(2, history=1000, envelope=lambda m, i, c: f"{c} {m}")
        names = [f"{channel}{name}" for name in "abcde"]
        member = site.connect()

        def publish() -> None:
            for number in range(40):
                for name in names:
                    publisher.publish(name, str(number))
                gevent.sleep(0)

        def join() -> None:
            gevent.sleep(0)
            member.subscription = subscriber.subscribe(names, member.ws, dict.fromkeys(names, ""))

        run_all([publish, join])
        heard = [str(it) for it in member.receive(200)]
        for name in names:
            own = [it.rpartition(" ")[2] for it in heard if it.startswith(f"{name} ")]
            assert own == numbers(40)

    # ----------------------------------------------------------------- envelope

    def test_an_envelope_that_fails_for_one_message_skips_only_this_one(
        self, site: Site, channel: str
    ) -> None:
        def envelope(message: str, id_: str | None) -> str:
            if message == "bad":
                raise KeyError(message)
            return message

        publisher, subscriber = site.processes(2, history=10, envelope=envelope)
        live = site.join(subscriber, channel)
        ids = kept_ids(publisher, channel, ["first", "bad", "good", "last"])
        assert live.receive_until("last") == ["first", "good"]
        for since, expected in (("", ["first", "good"]), (ids[0], ["good"]), (ids[1], ["good"])):
            late = site.join(subscriber, channel, since)
            assert late.receive_until("last") == expected
            assert isinstance(late.subscription, Subscription)
            assert late.subscription.recovered is True

    def test_an_envelope_may_get_the_channel(self, site: Site, channel: str) -> None:
        process = site.process(history=3, envelope=lambda message, id_, name: f"{name} {id_}")
        member = site.join(process, channel)
        id_ = process.publish(channel, "message")
        assert member.receive(1) == [f"{channel} {id_}"]
        assert site.join(process, channel, "").receive(1) == [f"{channel} {id_}"]

    # ----------------------------------------------------------------- presence

    @pytest.mark.usefixtures("has_members")
    def test_a_member_gets_the_list_and_then_each_change(self, site: Site, channel: str) -> None:
        one, other = site.processes(2)
        ann = site.observe(one, channel, "ann", {"name": "Ann"})
        bob = site.observe(other, channel, "bob", {"name": "Bób 😀"})
        both = {"ann": {"name": "Ann"}, "bob": {"name": "Bób 😀"}}
        ann.wait_for(both)
        bob.wait_for(both)
        assert one.members(channel) == other.members(channel) == both
        assert list(one.members(channel)) == ["ann", "bob"]
        ann.leave()
        bob.wait_for({"bob": {"name": "Bób 😀"}})
        assert other.members(channel) == {"bob": {"name": "Bób 😀"}}
        assert bob.events == [("members", ["ann", "bob"]), ("left", ["ann"])]
        assert ann.events == [("members", ["ann"]), ("joined", ["bob"])]

    @pytest.mark.usefixtures("has_members")
    def test_subscriptions_with_one_key_are_one_member_that_is_what_the_latest_says(
        self, site: Site, channel: str
    ) -> None:
        one, other = site.processes(2)
        watcher = site.observe(one, channel, "watcher")
        tabs = [site.observe(one, channel, "ann", 1), site.observe(other, channel, "ann", 1)]
        watcher.wait_for({"watcher": True, "ann": 1})
        tabs.append(site.observe(one, channel, "ann", 2))
        watcher.wait_for({"watcher": True, "ann": 2})
        tabs[0].leave()
        tabs[2].leave()
        watcher.wait_for({"watcher": True, "ann": 1})
        tabs[1].leave()
        watcher.wait_for({"watcher": True})
        kinds = [kind for kind, _ in watcher.events]
        assert kinds == ["members", "joined", "changed", "changed", "left"]

    @pytest.mark.usefixtures("has_members")
    def test_who_subscribes_again_stays_a_member(self, site: Site, channel: str) -> None:
        one, other = site.processes(2)
        watcher, ann = site.observe(one, channel, "watcher"), site.connect()
        for name in ("Ann", "Ann", "Anna"):
            ann.subscription = other.subscribe(channel, ann.ws, member=name)
        watcher.wait_for({"watcher": True, ann.ws.id: "Anna"})
        assert [kind for kind, _ in watcher.events] == ["members", "joined", "changed"]

    @pytest.mark.usefixtures("has_members")
    def test_members_that_come_and_go_at_the_same_time_are_what_every_member_sees(
        self, site: Site, channel: str
    ) -> None:
        processes = site.processes(3)
        watchers = [site.observe(it, channel, f"w{n}") for n, it in enumerate(processes)]

        def come_and_go(broadcast: Broadcast, name: str) -> Observer:
            for number in range(6):
                key = f"{name}{number}" if number % 2 else "shared"
                observer = Observer(broadcast, channel, key, number)
                gevent.sleep(0)
                observer.leave()
                assert observer.problem is None
            return site.observe(broadcast, channel, f"{name}-last")

        comers = run_all(
            partial(come_and_go, broadcast, name)
            for name, broadcast in zip("abcdef", processes * 2, strict=True)
        )
        watchers += comers
        for watcher in watchers:
            watcher.wait_for({it.key: True for it in watchers})
        assert processes[0].members(channel).keys() == {it.key for it in watchers}

    @pytest.mark.usefixtures("has_members")
    def test_an_interrupted_subscription_leaves_no_member(self, site: Site, channel: str) -> None:
        process = site.process()
        for microseconds in (0, 100, 300, 1000, 3000):
            member = site.connect()
            subscribing = gevent.spawn(process.subscribe, channel, member.ws, member="ghost")
            gevent.sleep(microseconds / 1e6)
            subscribing.kill()
            if isinstance(subscribing.value, Subscription):
                subscribing.value.close()
        assert process.members(channel) == {}
        wait_until(lambda: not process._presence._rooms, "the room was not removed")

    @pytest.mark.usefixtures("has_members", "short_leases")
    def test_members_of_a_process_that_was_killed_leave_once(
        self, site: Site, channel: str
    ) -> None:
        if not self.spans_processes:
            pytest.skip("this backend has one process")
        killed, *others = site.processes(3)
        watchers = [site.observe(it, channel, f"w{n}") for n, it in enumerate(others)]
        for key in "ab":
            site.observe(killed, channel, key)
        everybody = dict.fromkeys([*"ab", "w0", "w1"], True)
        for watcher in watchers:
            watcher.wait_for(everybody)
        killed._presence.forget()
        for watcher in watchers:
            watcher.wait_for({"w0": True, "w1": True})
        assert others[0].members(channel).keys() == {"w0", "w1"}

    @pytest.mark.usefixtures("has_members", "short_leases")
    def test_members_are_forgotten_if_all_processes_were_killed(
        self, site: Site, channel: str
    ) -> None:
        if not self.spans_processes:
            pytest.skip("this backend has one process")
        killed, other = site.processes(2)
        site.observe(killed, channel, "a")
        killed._presence.forget()
        wait_until(lambda: not other.members(channel), "the members are still there")
        site.observe(other, channel, "b").wait_for({"b": True})

    @pytest.mark.usefixtures("has_members", "short_leases")
    def test_who_was_taken_for_dead_returns(self, site: Site, channel: str) -> None:
        if not self.spans_processes:
            pytest.skip("this backend has one process")
        one, other = site.processes(2)
        watcher = site.observe(one, channel, "watcher")
        blocked = site.observe(other, channel, "blocked")
        watcher.wait_for({"watcher": True, "blocked": True})
        room = other._presence._rooms[channel]
        room.is_busy = True  # as if an update took very long
        watcher.wait_for({"watcher": True})
        room.is_busy = False
        for observer in (watcher, blocked):
            observer.wait_for({"watcher": True, "blocked": True})

    @pytest.mark.usefixtures("has_members")
    def test_the_end_of_a_broadcast_ends_its_members(self, site: Site, channel: str) -> None:
        if not self.spans_processes:
            pytest.skip("this backend has one process")
        one, other = site.processes(2)
        watcher = site.observe(one, channel, "watcher")
        site.observe(other, channel, "ann")
        other.close()
        assert one.members(channel) == {"watcher": True}
        watcher.wait_for({"watcher": True})

    @pytest.mark.usefixtures("has_members")
    def test_a_list_follows_the_missed_messages(self, site: Site, channel: str) -> None:
        process = site.process(history=10)
        publish_all(process, channel, numbers(3))
        member = site.connect()
        member.subscription = process.subscribe(channel, member.ws, "", member=1, key="a")
        expected = '{"type": "members", "members": [["a", 1]]}'
        assert member.receive(4) == [*numbers(3), expected]

    # -------------------------------------------------------- the backend's methods

    @pytest.mark.usefixtures("has_members")
    def test_a_backend_ignores_updates_that_are_late_or_follow_an_unknown_one(
        self, site: Site, channel: str
    ) -> None:
        backend, recorder = site.backend()
        backend.subscribe(channel)

        def update(base: int, number: int, known: int | None = None, **texts: str | None) -> State:
            changes = {int(name[1:]): text for name, text in texts.items()}
            state = backend.update_members(
                channel, Update("0" * 16, base, number, changes, True, 60.0, known)
            )
            return State(0, None) if state is None else state

        one, two = '["a", 1]', '["b", 2]'
        first, entries = update(0, 10, 0, n1=one, n2=two)
        assert entries == {f"{'0' * 16}:1": f"{first} {one}", f"{'0' * 16}:2": f"{first} {two}"}
        second, entries = update(10, 11, first, n1=None)
        assert second == first + 1
        assert entries is None
        if self.spans_processes:
            assert update(0, 11, n1=one) == update(10, 12, n1=one) == State(0, None)
        assert update(11, 12, second, n1=None, n2=two) == (second, None)
        third, entries = update(12, 13, first, n3=one)
        assert entries == {f"{'0' * 16}:2": f"{first} {two}", f"{'0' * 16}:3": f"{third} {one}"}
        assert backend.members(channel) == entries
        if self.spans_processes:
            fourth, _ = update(0, 14, n2=two)
            assert backend.members(channel) == {f"{'0' * 16}:2": f"{first} {two}"}
            assert recorder.wait_for_changes(4)[3] == (channel, f"{fourth}\n-{'0' * 16}:3")
        added = [f"+{'0' * 16}:1 {one}", f"+{'0' * 16}:2 {two}"]
        assert [
            (channel, "\n".join([str(first), *added])),
            (channel, f"{second}\n-{'0' * 16}:1"),
        ] == (recorder.wait_for_changes(3)[:2])

    @pytest.mark.usefixtures("has_members")
    def test_channels_with_any_names_have_members_of_their_own(self, site: Site) -> None:
        backend, _ = site.backend()
        prefix = uuid4().hex
        names = [name for name in NAMES if len((prefix + name).encode()) <= 1024] + [
            prefix + name for name in NAMES if len((prefix + name).encode()) <= 1024
        ]
        for number, name in enumerate(names):
            changes = {number: f'["{number}", 0]'}
            backend.update_members(
                name, Update(prefix[:16], 0, number + 1, changes, True, 60, None)
            )
        for number, name in enumerate(names):
            assert f"{prefix[:16]}:{number}" in backend.members(name)
            assert len(backend.members(name)) == 1

    @pytest.mark.parametrize("history", [0, 3])
    def test_a_backend_delivers_what_it_publishes(
        self, site: Site, channel: str, history: int
    ) -> None:
        backend, recorder = site.backend(history=history)
        backend.subscribe(channel)
        backend.subscribe(channel)
        published = [
            Message(channel, message, backend.publish(channel, message, keep))
            for message, keep in (("text", True), (b"bytes", False), ("last", True))
        ]
        assert recorder.wait_for(channel, "last") == published
        assert recorder.calls == published

    def test_a_backend_subscribes_to_many_channels(self, site: Site, channel: str) -> None:
        backend, recorder = site.backend()
        names = numbers(200, channel)
        with limit("subscribe_all() did not return"):
            backend.subscribe_all([])
            backend.subscribe_all(names)
            backend.subscribe_all([*names[:10], *names[:10]])
        for name in names:
            backend.publish(name, "message", True)
        for name in names:
            assert data_of(recorder.wait_for(name, "message")) == ["message"]

    def test_unsubscribing_a_backend_never_raises(self, site: Site, channel: str) -> None:
        backend, recorder = site.backend()
        backend.unsubscribe(channel)
        backend.subscribe(channel)
        backend.unsubscribe(channel)
        backend.unsubscribe(channel)
        backend.subscribe(channel)
        backend.publish(channel, "message", True)
        assert data_of(recorder.wait_for(channel, "message")) == ["message"]

    def test_a_backend_asks_every_process_for_its_number_of_sockets(
        self, site: Site, channel: str
    ) -> None:
        if not self.spans_processes:
            pytest.skip("this backend has one process")
        sites = [site.backend() for _ in range(3)]
        for number, (backend, recorder) in enumerate(sites):
            recorder.counts[channel] = number
            backend.subscribe(channel)
        assert [backend.subscribers(channel) for backend, _ in sites] == [3, 3, 3]
        asking, _ = site.backend()
        assert asking.subscribers(channel) == 3

    def test_two_backends_have_the_same_order_of_messages(self, site: Site, channel: str) -> None:
        if not self.spans_processes:
            pytest.skip("this backend has one process")
        sites = [site.backend(history=1000) for _ in range(2)]
        for backend, _ in sites:
            backend.subscribe(channel)

        def publish(backend: Backend, name: str) -> None:
            for message in numbers(50, name):
                backend.publish(channel, message, True)
                gevent.sleep(0)

        run_all(
            partial(publish, backend, name) for name, (backend, _) in zip("ab", sites, strict=True)
        )
        sites[0][0].publish(channel, "last", True)
        heard = [recorder.wait_for(channel, "last") for _, recorder in sites]
        assert len(heard[0]) == 101
        assert heard[0] == heard[1]
        stored = sites[0][0].history(channel, None).messages
        assert stored == heard[0]

    def test_data_of_other_programs_is_passed_over(
        self, site: Site, channel: str, intrude: Callable[[str], object]
    ) -> None:
        publisher, subscriber = site.processes(2, history=10)
        listener = site.listen(subscriber, channel)
        intrude(channel)
        first = publisher.publish(channel, "first")
        intrude(channel)
        publisher.publish(channel, "last")
        assert data_of(take(listener, 2)) == ["first", "last"]
        assert data_of(subscriber.history(channel)) == ["first", "last"]
        member = site.join(subscriber, channel, first)
        assert member.receive(1) == ["last"]
        assert isinstance(member.subscription, Subscription)
        assert member.subscription.recovered is True
        assert subscriber.healthy

    # ------------------------------------------------------------------- outages

    def test_an_operation_without_the_backend_fails_after_a_bounded_wait(
        self, site: Site, channel: str, outage: Outage
    ) -> None:
        process = site.process(history=3)
        process.publish(channel, "before")
        assert process.healthy
        with outage():
            expect_failure(lambda: process.publish(channel, "message"))
            assert not is_healthy(process)
            expect_failure(lambda: process.publish(channel, "message", keep=False))
            expect_failure(lambda: process.history(channel))
            expect_failure(lambda: process.subscribers(channel))
            expect_failure(lambda: process._backend.history(channel, ""))
        wait_until_healthy(process)
        process.publish(channel, "after")
        assert data_of(process.history(channel))[-1] == "after"

    def test_a_process_that_only_publishes_becomes_healthy_by_itself(
        self, site: Site, channel: str, outage: Outage
    ) -> None:
        process = site.process()
        with outage():
            expect_failure(lambda: process.publish(channel, "message"))
            assert not is_healthy(process)
        wait_until_healthy(process)

    def test_a_process_that_only_subscribes_notices_an_outage_and_its_end(
        self, site: Site, channel: str, outage: Outage
    ) -> None:
        process = site.process(history=3)
        site.listen(process, channel)
        with outage():
            wait_until(lambda: not is_healthy(process), "the outage was not noticed")
        wait_until_healthy(process)

    def test_a_broadcast_is_created_and_closed_without_the_backend(
        self, site: Site, channel: str, outage: Outage
    ) -> None:
        with outage(), limit("it did not return"):
            broadcast = Broadcast(site.url, history=3)
            with broadcast.listen(channel) as listener:
                broadcast.close()
            assert list(listener) == []
            Broadcast(site.url).close()

    def test_missed_messages_are_delivered_after_an_outage_once_and_in_order(
        self, site: Site, channel: str, outage: Outage
    ) -> None:
        process = site.process(history=100)
        listener, member = site.listen(process, channel), site.join(process, channel)
        process.publish(channel, "before")
        with outage() as other_url:
            other = self._other(site, other_url, history=100)
            wait_until(lambda: not is_healthy(process), "the outage was not noticed")
            publish_all(other, channel, numbers(20))
        publish_all(other, channel, numbers(20, "after "))
        other.publish(channel, "last")
        expected = ["before", *numbers(20), *numbers(20, "after ")]
        assert data_of(take_until(listener, "last")) == expected
        assert member.receive_until("last") == expected
        assert listener.lost == 0

    def test_several_outages_while_others_publish_lose_and_repeat_nothing(
        self, site: Site, channel: str, outage: Outage
    ) -> None:
        # However long a backend takes to notice an outage.
        many = 1_000_000
        process = site.process(history=many)
        listener = site.listen(process, channel, max_queued_messages=many)
        member = site.join(process, channel)
        with outage() as other_url:
            other = self._other(site, other_url, history=many)
        ended = Event()

        def publish() -> list[str]:
            published: list[str] = []
            while not ended.is_set():
                published.append(str(len(published)))
                other.publish(channel, published[-1])
                gevent.sleep(0.005)
            return published

        publishing = gevent.spawn(publish)
        for _ in range(3):
            with outage():
                wait_until(lambda: not is_healthy(process), "the outage was not noticed")
            wait_until_healthy(process)
        ended.set()
        published = publishing.get(timeout=SECONDS)
        other.publish(channel, "last")
        assert data_of(take_until(listener, "last")) == published
        assert member.receive_until("last") == published

    @pytest.mark.parametrize("history", [0, 3])
    def test_subscriptions_are_restored_after_an_outage(
        self, site: Site, channel: str, history: int, outage: Outage
    ) -> None:
        process = site.process(history=history)
        names = numbers(20, channel)
        listeners = [site.listen(process, name) for name in names]
        with outage():
            wait_until(lambda: not is_healthy(process), "the outage was not noticed")
            left = listeners.pop()
            left.close()
        wait_until_healthy(process)
        for name, listener in zip(names, listeners, strict=False):
            process.publish(name, "message")
            assert data_of(take(listener, 1)) == ["message"]
        assert list(left) == []

    def test_a_gap_is_reported_with_the_number_of_lost_messages_and_in_their_place(
        self, site: Site, channel: str, outage: Outage
    ) -> None:
        backend, recorder = site.backend(history=3)
        backend.subscribe_all([channel, f"{channel}:other"])
        backend.publish(channel, "before", True)
        recorder.wait_for(channel, "before")
        with outage() as other_url:
            other = self._other(site, other_url, history=3)
            wait_until(lambda: not backend.healthy, "the outage was not noticed")
            publish_all(other, channel, numbers(5))
            publish_all(other, f"{channel}:other", numbers(3))
        recorder.wait_for(channel, "4")
        recorder.wait_for(f"{channel}:other", "2")
        own = [call for call in recorder.calls if call.channel == channel]
        assert own[1] == Missed(channel, 2)
        assert data_of(recorder.delivered(channel)) == ["before", "2", "3", "4"]
        assert len(own) == 5
        others = [call for call in recorder.calls if call.channel != channel]
        assert not any(isinstance(call, Missed) for call in others)
        assert data_of(recorder.delivered(f"{channel}:other")) == numbers(3)

    @pytest.mark.parametrize("when_slow", ["close", "skip"])
    def test_a_gap_closes_the_sockets_of_its_channel_or_is_skipped(
        self, site: Site, channel: str, when_slow: str, outage: Outage
    ) -> None:
        process = site.process(history=3, when_slow=when_slow)
        member, other_member = site.join(process, channel), site.join(process, f"{channel}:other")
        listener = site.listen(process, channel)
        process.publish(channel, "before")
        assert member.receive(1) == data_of(take(listener, 1)) == ["before"]
        with outage() as other_url:
            other = self._other(site, other_url, history=3)
            wait_until(lambda: not is_healthy(process), "the outage was not noticed")
            publish_all(other, channel, numbers(5))
            other.publish(f"{channel}:other", "message")
        assert data_of(take(listener, 3)) == ["2", "3", "4"]
        assert listener.lost == 2
        assert other_member.receive(1) == ["message"]
        if when_slow == "skip":
            assert member.receive(3) == ["2", "3", "4"]
        else:
            assert member.receive(1) == [None]
            assert member.client.close_code == 1013
            assert process.subscribers(channel) == 0

    def test_a_history_that_was_filled_exactly_during_an_outage_is_no_gap(
        self, site: Site, channel: str, outage: Outage
    ) -> None:
        process = site.process(history=3)
        listener = site.listen(process, channel)
        process.publish(channel, "before")
        take(listener, 1)
        with outage() as other_url:
            other = self._other(site, other_url, history=3)
            wait_until(lambda: not is_healthy(process), "the outage was not noticed")
            publish_all(other, channel, numbers(3))
        assert data_of(take(listener, 3)) == numbers(3)
        assert listener.lost == 0

    def test_a_gap_before_the_first_message_of_a_channel_is_reported(
        self, site: Site, channel: str, outage: Outage
    ) -> None:
        process = site.process(history=3)
        listener = site.listen(process, channel)
        with outage() as other_url:
            other = self._other(site, other_url, history=3)
            wait_until(lambda: not is_healthy(process), "the outage was not noticed")
            publish_all(other, channel, numbers(5))
        assert data_of(take(listener, 3)) == ["2", "3", "4"]
        assert listener.lost == 2

    def test_who_comes_back_during_an_outage_gets_the_missed_messages_after_it(
        self, site: Site, channel: str, outage: Outage
    ) -> None:
        process = site.process(history=5)
        ids = kept_ids(process, channel, numbers(8))
        expected = {ids[4]: (True, numbers(8)[5:]), ids[0]: (False, numbers(8)[3:])}
        expected |= {"": (True, numbers(8)[3:]), "garbage": (False, numbers(8)[3:])}
        with outage() as other_url:
            members = {since: site.join(process, channel, since) for since in expected}
            for member in members.values():
                assert isinstance(member.subscription, Subscription)
                assert member.subscription.recovered is None
                assert member.subscription.wait_recovered(0.01) is None
            if other_url is not None:
                self._other(site, other_url, history=5).publish(channel, "missed", keep=False)
        for since, (is_recovered, texts) in expected.items():
            member = members[since]
            assert isinstance(member.subscription, Subscription)
            assert member.subscription.wait_recovered(SECONDS) is is_recovered
            assert member.receive(len(texts)) == texts
        process.publish(channel, "live")
        assert [member.receive(1) for member in members.values()] == [["live"]] * 4

    def test_who_comes_back_to_many_channels_during_an_outage_is_recovered_after_it(
        self, site: Site, channel: str, outage: Outage
    ) -> None:
        process = site.process(history=5)
        names = [f"{channel}{name}" for name in "abc"]
        for name in names:
            process.publish(name, name)
        member = site.connect()
        with outage():
            with limit("subscribe() did not return"):
                member.subscription = process.subscribe(names, member.ws, "")
            assert member.subscription.recovered is None
        assert member.subscription.wait_recovered(SECONDS) is True
        assert sorted(map(str, member.receive(3))) == names

    def test_who_leaves_during_an_outage_is_forgotten(
        self, site: Site, channel: str, outage: Outage
    ) -> None:
        process = site.process(history=5)
        process.publish(channel, "kept")
        with outage():
            member = site.join(process, channel, "")
            assert isinstance(member.subscription, Subscription)
            member.subscription.close()
            assert member.subscription.wait_recovered(SECONDS) is None
        wait_until_healthy(process)
        member.ws.send("last")
        assert member.receive_until("last") == []

    @pytest.mark.usefixtures("has_members", "short_leases")
    def test_members_are_what_every_member_sees_after_an_outage(
        self, site: Site, channel: str, outage: Outage
    ) -> None:
        process = site.process()
        staying = site.observe(process, channel, "staying")
        leaving = site.observe(process, channel, "leaving")
        with outage() as other_url:
            other = self._other(site, other_url)
            remote = site.observe(other, channel, "remote")
            wait_until(lambda: not is_healthy(process), "the outage was not noticed")
            leaving.leave()
            expect_failure(lambda: process.members(channel))
            coming = site.observe(process, channel, "coming")
            assert coming.view is None
        everybody = dict.fromkeys(["staying", "coming", "remote"], True)
        for observer in (staying, coming, remote):
            observer.wait_for(everybody)
        assert process.members(channel) == everybody

    def test_a_position_is_unknown_during_an_outage(
        self, site: Site, channel: str, outage: Outage
    ) -> None:
        process = site.process(history=5)
        process.publish(channel, "before")
        with outage(), limit("it did not return"):
            member = site.join(process, channel)
            assert _position_of(member) is None
        wait_until_healthy(process)
        process.publish(channel, "message")
        assert member.receive(1) == ["message"]
        assert _position_of(member)

    def _other(self, site: Site, url: str | None, **options: Any) -> Broadcast:
        """Return another process, which reaches the backend during an outage."""
        if url is None:
            pytest.skip("no process reaches the backend during an outage")
        return site.process(url, **options)


def _position_of(member: Member) -> str | None:
    assert isinstance(member.subscription, Subscription)
    with limit("the position was not read"):
        return member.subscription.position


def _living_greenlets() -> set[Any]:
    return {it for it in gc.get_objects() if isinstance(it, gevent.Greenlet) and not it.dead}


def _count_open_files() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 0  # not on this system
