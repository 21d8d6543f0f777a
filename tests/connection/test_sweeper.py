"""The timer that all connections of a hub share."""

import gc
import platform
import time
import weakref
from functools import partial

import gevent
import psutil
import pytest
from gevent.event import Event

from geventws.connection.hub import hub_state
from geventws.connection.sweeper import MANY, Sweeper


class Connection:
    """Wants to be checked again after each of the given delays."""

    def __init__(self, *delays):
        self.delays = list(delays)
        self.checks = 0
        self.done = Event()

    def _check(self):
        self.checks += 1
        if self.delays:
            return self.delays.pop(0)
        self.done.set()
        return None


@pytest.fixture
def sweeper():
    return Sweeper(gevent.get_hub())


def test_a_connection_is_checked_again_after_what_it_returns(sweeper):
    connection = Connection(0.25, 0.25)
    sweeper.add(connection, 0.01)
    assert connection.done.wait(10)
    assert connection.checks == 3


def test_a_removed_connection_is_neither_checked_nor_kept(sweeper):
    first, second = Connection(), Connection()
    sweeper.add(first, 0.25)
    sweeper.add(second, 0.25)
    sweeper.remove(first)
    sweeper.remove(first)
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None
    assert second.done.wait(10)


def test_the_timer_runs_only_while_there_is_something_to_check(sweeper):
    connection = Connection()
    assert sweeper._timer is None
    sweeper.add(connection, 0.25)
    assert sweeper._timer is not None
    assert connection.done.wait(10)
    gevent.sleep(0)
    assert sweeper._timer is None
    later = Connection()
    sweeper.add(later, 0.25)
    assert later.done.wait(10)


def test_a_hub_has_one_sweeper():
    assert hub_state().sweeper is hub_state().sweeper


def wait_for_check(connection, number):
    with gevent.Timeout(10):
        while connection.checks < number:
            gevent.sleep(0.01)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can give memory back")
def test_memory_goes_back_to_the_system_when_many_connections_have_gone(sweeper):
    connections = [Connection(*[0.25] * 1000) for _ in range(MANY)]
    for connection in connections:
        sweeper.add(connection, 0.25)
    blocks = [bytearray(2000) for _ in range(20_000)]
    del blocks[:-1]  # the last one keeps the heap from shrinking
    process = psutil.Process()
    wait_for_check(connections[0], 1)
    before = process.memory_info().rss
    checks = connections[0].checks  # on a busy machine, more than one by now
    for connection in connections[MANY // 4 :]:
        sweeper.remove(connection)
    wait_for_check(connections[0], checks + 2)
    assert process.memory_info().rss < before - (20 << 20)
    for connection in connections:
        sweeper.remove(connection)


def test_a_turn_that_cannot_be_begun_does_not_stop_those_after_it(sweeper):
    class Loop:
        def __init__(self, loop):
            self.loop = loop

        def timer(self, *arguments, **options):
            sweeper._loop = self.loop
            raise MemoryError

    sweeper._loop = Loop(sweeper._loop)
    with pytest.raises(MemoryError):
        sweeper.next_turn(Event().set)
    taken = Event()
    sweeper.next_turn(taken.set)
    assert taken.wait(10)


def test_many_functions_of_one_turn_let_others_run_in_between(sweeper):
    order = []

    def occupy(number):
        order.append(number)
        until = time.perf_counter() + 0.001
        while time.perf_counter() < until:
            pass

    for number in range(20):
        sweeper.next_turn(partial(occupy, number))
    turns = 0
    while len(order) < 20:
        gevent.sleep(0)
        turns += 1
    assert turns > 3
    assert order == list(range(20))


def test_many_connections_that_are_due_together_let_others_run_in_between(sweeper):
    checked = []

    class Slow(Connection):
        def _check(self):
            until = time.perf_counter() + 0.001
            while time.perf_counter() < until:
                pass
            checked.append(self)

    connections = [Slow() for _ in range(20)]
    for connection in connections:
        sweeper.add(connection, 0.25)
    with gevent.Timeout(10):
        while not checked:
            gevent.sleep(0)
        assert len(checked) < 10
        left = next(each for each in connections if each not in checked)
        sweeper.remove(left)
        while len(checked) < 19:
            gevent.sleep(0.01)
    gevent.sleep(0.01)
    assert left not in checked
