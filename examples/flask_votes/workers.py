"""Several workers serve one show: each one is notified of the changes of the others."""

from contextlib import suppress

import gevent
from ballots import Unavailable
from gevent.event import Event
from stage import Stage

from geventws import Broadcast, BroadcastError

# The state is read at most this often, however many votes come in, and at least this often,
# because pages are vouched for (see shared_ballots.py) and news can get lost while Redis is away.
BETWEEN_READS = 0.05
LONGEST_SILENCE = 10.0


class News:
    """There are news: no more than that is passed around. Whoever hears it looks for itself."""

    def __init__(self, url: str) -> None:
        self._broadcast = Broadcast(url)
        self._heard = Event()
        self._is_ours = False

    def announce(self) -> None:
        self._is_ours = True
        self._heard.set()

    def keep_fresh(self, stage: Stage) -> None:
        """Refresh the stage whenever there are news, from now on."""
        gevent.spawn(self._listen)
        gevent.spawn(self._refresh, stage)

    def _listen(self) -> None:
        with self._broadcast.listen("votes") as messages:
            self._heard.set()  # There may have been news before this took effect.
            for _ in messages:
                self._heard.set()

    def _tell_the_others(self) -> None:
        # Not before: it is the refresh that counts whose pages are open here.
        self._is_ours = False
        with suppress(BroadcastError):  # It is in the log; the others look later by themselves.
            self._broadcast.publish("votes", "news")

    def _refresh(self, stage: Stage) -> None:
        while True:
            self._heard.wait(LONGEST_SILENCE)
            self._heard.clear()
            with suppress(Unavailable):  # Pages keep their current state.
                stage.refresh()
                if self._is_ours:
                    self._tell_the_others()
            gevent.sleep(BETWEEN_READS)
