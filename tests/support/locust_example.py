"""Beside the example's locustfile: stops when each of its seven lines has a request."""

import gevent
from locust import events


@events.init.add_listener
def stop_when_complete(environment, **_):
    @events.request.add_listener
    def stop(**_):
        if len(environment.stats.entries) == 7:
            events.request.remove_listener(stop)
            gevent.spawn(environment.runner.quit)
