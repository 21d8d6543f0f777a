"""The timer that all connections of a hub share."""
import gc
import weakref

import gevent
import pytest
from gevent.event import Event

from geventws.sweeper import Sweeper, sweeper_of


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
    assert sweeper_of(gevent.get_hub()) is sweeper_of(gevent.get_hub())
